"""Clips through the pipeline and sentence-transformers: the vectors of the extractor, saved too."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from sentence_transformers import SentenceTransformer
from transformers import ASTConfig, ASTFeatureExtractor, ASTModel, pipeline

from fungi_hf.errors import AudioError
from fungi_hf.integrations.sentence_transformers import FungiModule

if TYPE_CHECKING:
    from pathlib import Path

    from fungi_hf.integrations.pipeline import FungiPipeline

# One of 128 mel filters is empty in training as well.
pytestmark = pytest.mark.filterwarnings("ignore:At least one mel filter:UserWarning")
TASK = "fungi-feature-extraction"


@pytest.fixture(scope="module")
def clips() -> list[dict[str, Any]]:
    rng = np.random.default_rng(0)
    arrays = [rng.normal(scale=0.1, size=n).astype(np.float32) for n in (16000, 12000, 9000)]
    return [{"array": array, "sampling_rate": 16000} for array in arrays]


@pytest.fixture(scope="module")
def pipe() -> FungiPipeline:
    settings = ASTConfig(
        hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=32,
        max_length=128, frequency_stride=16, time_stride=16,
    )  # fmt: skip
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = ASTModel(settings).eval()
    return pipeline(TASK, model=model, feature_extractor=ASTFeatureExtractor(max_length=128))


def test_clips_go_in_one_by_one_together_and_lazily(
    pipe: FungiPipeline, clips: list[dict[str, Any]]
) -> None:
    wanted = pipe.extractor(clips).array
    for rows in (
        pipe(clips, return_tensors=True),
        [pipe(clip, return_tensors=True) for clip in clips],
        list(pipe(iter(clips), batch_size=2, return_tensors=True)),
        [pipe((clip["array"], 16000), return_tensors=True) for clip in clips],
    ):
        np.testing.assert_allclose(torch.cat(rows), wanted, rtol=0, atol=2e-6)
    with pytest.raises(AudioError, match="has no sampling rate"):
        pipe(clips[0]["array"])


def test_saved_and_as_a_module(
    pipe: FungiPipeline, clips: list[dict[str, Any]], tmp_path: Path
) -> None:
    pipe.save_pretrained(tmp_path)
    assert pipeline(TASK, model=str(tmp_path))(clips[1]) == pipe(clips[1])
    model = SentenceTransformer(modules=[FungiModule(pipe.extractor)], device="cpu")
    wanted = pipe.extractor(clips).array
    np.testing.assert_allclose(model.encode(clips), wanted, rtol=0, atol=1e-5)
