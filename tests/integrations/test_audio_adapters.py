"""Clips through the pipeline and sentence-transformers: the vectors of the extractor, saved too."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import datasets
import numpy as np
import pytest
import soundfile
import torch
from sentence_transformers import SentenceTransformer
from transformers import ASTConfig, ASTFeatureExtractor, ASTModel, pipeline

from fungi_hf.errors import AudioError, ConfigError
from fungi_hf.integrations.datasets import extract_dataset
from fungi_hf.integrations.sentence_transformers import FungiModule
from tests.tiny import ROUNDING

if TYPE_CHECKING:
    from fungi_hf.integrations.transformers.pipeline import FungiPipeline

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
        np.testing.assert_allclose(torch.cat(rows), wanted, rtol=0, atol=ROUNDING)
    with pytest.raises(AudioError, match="has no sampling rate"):
        pipe(clips[0]["array"])


def test_saved_and_as_a_module(
    pipe: FungiPipeline, clips: list[dict[str, Any]], tmp_path: Path
) -> None:
    pipe.save_pretrained(tmp_path)
    assert pipeline(TASK, model=str(tmp_path))(clips[1]) == pipe(clips[1])
    model = SentenceTransformer(modules=[FungiModule(pipe.extractor)], device="cpu")
    wanted = pipe.extractor(clips).array
    np.testing.assert_allclose(model.encode(clips), wanted, rtol=0, atol=ROUNDING)


@pytest.fixture
def files(clips: list[dict[str, Any]], tmp_path: Path) -> list[str]:
    paths = [str(tmp_path / f"{number}.wav") for number in range(len(clips))]
    for path, clip in zip(paths, clips, strict=True):
        soundfile.write(path, clip["array"], clip["sampling_rate"], subtype="FLOAT")
    return paths


def test_every_form_of_a_clip_goes_through_sentence_transformers(
    pipe: FungiPipeline, clips: list[dict[str, Any]], files: list[str], tmp_path: Path
) -> None:
    model = SentenceTransformer(modules=[FungiModule(pipe.extractor)], device="cpu")
    wanted = pipe.extractor(files).array
    pairs = [(clip["array"], clip["sampling_rate"]) for clip in clips]

    assert model.supports("audio")
    assert not model.supports("text")
    for inputs in (files, clips, pairs, [Path(file).read_bytes() for file in files]):
        np.testing.assert_allclose(model.encode(inputs), wanted, rtol=0, atol=ROUNDING)
    np.testing.assert_allclose(model.encode(files[1]), wanted[1], rtol=0, atol=ROUNDING)
    unit = model.encode(files, normalize_embeddings=True)
    np.testing.assert_allclose(np.linalg.norm(unit, axis=1), 1, rtol=1e-5)
    model.save(str(tmp_path / "st"))
    pipe.save_pretrained(tmp_path / "pipe")
    for place in ("st", "pipe"):
        again = SentenceTransformer(str(tmp_path / place), trust_remote_code=True, device="cpu")
        np.testing.assert_allclose(again.encode(files), wanted, rtol=0, atol=ROUNDING)


def test_what_sentence_transformers_cannot_mean_is_refused(
    pipe: FungiPipeline, files: list[str]
) -> None:
    model = SentenceTransformer(modules=[FungiModule(pipe.extractor)], device="cpu")
    with pytest.raises(ValueError, match="audio"):
        model.encode(["a text"])
    with pytest.raises(ConfigError, match="a prompt belongs to texts; this encoder takes audio"):
        model.encode(files, prompt="query: ")
    with pytest.raises(AudioError, match="has no sampling rate"):
        model.encode([np.zeros(16000, np.float32)])


def test_a_column_of_audio_is_read_without_torchcodec(
    pipe: FungiPipeline, files: list[str]
) -> None:
    audio = datasets.Audio(sampling_rate=16000)
    table = datasets.Dataset.from_dict({"clip": files}).cast_column("clip", audio)

    for data in (table, table.to_iterable_dataset()):
        done = extract_dataset(data, pipe.extractor, "clip", batch_size=2)
        assert done.features["clip"] == audio
        rows = [row["clip_fungi"] for row in done.remove_columns("clip")]
        np.testing.assert_allclose(rows, pipe.extractor(files).array, rtol=0, atol=ROUNDING)
