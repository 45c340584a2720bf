"""Features against the plain forward pass of the same inputs: MiniLM and BERT-base size.

python -m benchmarks.text_cost [--quick]
"""

from __future__ import annotations

import argparse
from typing import Any

import numpy as np

from benchmarks import text_models, timing
from fungi_hf.config import FungiConfig, SimCLR

SIZES = {"minilm": {"kl": 600, "simclr": 90}, "bert-base": {"kl": 160, "simclr": 24}}
OBJECTIVES: dict[str, tuple[Any, ...]] = {"kl": ("kl",), "simclr": ("kl", SimCLR(n_negatives=32))}


def rows(name: str, blocks: str, n_texts: int, rounds: int) -> dict[str, Any]:
    """Time all variants of one encoder and one set of blocks against the yardstick."""
    model, tokenizer = text_models.load(name)
    texts = text_models.sentences(n_texts)
    variants = {
        "first token": text_models.extractor(model, tokenizer, _config(blocks, "cls")),
        "first token, generic hook": text_models.extractor(
            model, tokenizer, _config(blocks, "cls"), hook=True
        ),
        "mean": text_models.extractor(model, tokenizer, _config(blocks, "mean")),
    }
    for found in variants.values():
        if found.config.needs_fit:
            found.fit(text_models.sentences(64))
    reference = variants["mean"]
    items = text_models.distinct_inputs(reference, texts)
    size, batches = text_models.best_batches(reference, items)
    yardsticks = {
        "plain forward": batches,
        "plain forward, own batches": text_models.own_batches(reference, items),
    }
    runs: dict[str, Any] = {
        label: lambda batches=batches: text_models.plain_forward(reference, items, batches)
        for label, batches in yardsticks.items()
    }
    for label, found in variants.items():
        runs[label] = lambda found=found: found(texts)
    seconds = timing.alternate(runs, rounds)
    return {
        "encoder": name,
        "blocks": "embedding + KL" + (" + SimCLR (12 views)" if blocks == "simclr" else ""),
        "texts": n_texts,
        "inputs_encoded": len(items),
        "plain_forward_batch_size": size,
        "seconds": {label: timing.median(values) for label, values in seconds.items()},
        "ratio_to_plain_forward": {
            label: timing.ratio(seconds, label, "plain forward") for label in variants
        },
        "ratio_with_own_batches": {
            label: timing.ratio(seconds, label, "plain forward, own batches") for label in variants
        },
    }


def _config(blocks: str, pooling: str, dtype: str = "float32") -> FungiConfig:
    return FungiConfig(objectives=OBJECTIVES[blocks], pooling=pooling, dtype=dtype)


def shares(n_texts: int) -> dict[str, float]:
    """Give the share of the time spent on tokenising and views, MiniLM, both sets of blocks."""
    import time

    model, tokenizer = text_models.load("minilm")
    found_shares = {}
    for blocks in OBJECTIVES:
        found = text_models.extractor(model, tokenizer, _config(blocks, "cls"))
        if found.config.needs_fit:
            found.fit(text_models.sentences(64))
        texts = text_models.sentences(n_texts)
        found(texts)
        start = time.perf_counter()
        for _ in found._reader.read(texts):
            pass
        reading = time.perf_counter() - start
        start = time.perf_counter()
        found(texts)
        found_shares[blocks] = round(reading / (time.perf_counter() - start), 4)
    return found_shares


def bfloat16_cosines(n_texts: int) -> dict[str, Any]:
    """Give the cosine of each bfloat16 block to its float32 block, MiniLM."""
    texts = text_models.sentences(n_texts)
    result = {}
    for pooling in ("cls", "mean"):
        features = {}
        for dtype in ("float32", "bfloat16"):
            model, tokenizer = text_models.load("minilm", dtype)
            config = _config("simclr", pooling, dtype)
            features[dtype] = text_models.extractor(model, tokenizer, config).fit(texts)(texts)
        result[pooling] = {
            block: {"mean": round(float(cosines.mean()), 5), "min": round(float(cosines.min()), 5)}
            for block in features["float32"].layout
            for cosines in [
                np.sum(features["float32"].block(block) * features["bfloat16"].block(block), axis=1)
            ]
        }
    return result


def main() -> None:
    """Write benchmarks/results/text_cost.json."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="few texts and rounds: a smoke run")
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    quick = options.quick
    table = [
        rows(name, blocks, 8 if quick else n_texts, 1 if quick else options.rounds)
        for name, sizes in SIZES.items()
        for blocks, n_texts in sizes.items()
    ]
    record = {
        "yardstick": "plain forward pass of the same token ids (original and all distinct views), "
        "length-sorted, at its own best batch size (found in the same run), sdpa, float32; "
        "features are timed from raw text. With own batches: the plain forward pass is given the "
        "batches that this package cuts",
        "bounds": {
            "first token": 0.95,
            "first token, generic hook": 1.15,
            "mean": {"minilm": 1.2, "bert-base": 1.12},
            "simclr adds": 0.03,
        },
        "rows": table,
        "share_of_tokenising_and_views": shares(8 if quick else 300),
        "bfloat16_cosine_to_float32": bfloat16_cosines(8 if quick else 100),
    }
    timing.write("text_cost_quick" if quick else "text_cost", record)


if __name__ == "__main__":
    main()
