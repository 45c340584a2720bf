"""Embedding + KL + SimCLR (12 late views) against one plain forward pass of the originals.

python -m benchmarks.late_views [--quick]
"""

from __future__ import annotations

import argparse
from typing import Any

from benchmarks import text_models, timing
from fungi_hf.config import FungiConfig, SimCLR

SIZES = {"minilm": 400, "bert-base": 128}
FULL_SHARE = 2  # full views run on every second text: they cost many forward passes
ROUNDS = 3
POOLINGS = {"first token": "cls", "mean": "mean"}


def rows(name: str, depths: tuple[int | None, ...], n_texts: int, rounds: int) -> dict[str, Any]:
    """Time both poolings at every depth of late views; None is full views."""
    model, tokenizer = text_models.load(name)
    texts = text_models.sentences(n_texts)
    found = {
        f"{label}, {'full views' if k is None else f'k={k}'}": text_models.extractor(
            model, tokenizer, _config(k, pooling)
        ).fit(text_models.sentences(64))
        for label, pooling in POOLINGS.items()
        for k in depths
    }
    plain = text_models.extractor(model, tokenizer, FungiConfig(objectives=(), pooling="mean"))
    items = plain.encoder.prepare(texts)
    size, batches = text_models.best_batches(plain, items)
    runs: dict[str, Any] = {
        "plain forward": lambda: text_models.plain_forward(plain, items, batches)
    }
    for label, extractor in found.items():
        runs[label] = lambda extractor=extractor: extractor(texts)
    seconds = timing.alternate(runs, rounds)
    return {
        "encoder": name,
        "texts": n_texts,
        "tokens": sum(item.cost for item in items),
        "plain_forward_batch_size": size,
        "distinct_views": _distinct_views(found[next(iter(found))], texts),
        "seconds": {label: timing.median(values) for label, values in seconds.items()},
        "ratio_to_plain_forward": {
            label: timing.ratio(seconds, label, "plain forward") for label in found
        },
    }


def _config(k: int | None, pooling: str) -> FungiConfig:
    return FungiConfig(objectives=("kl", SimCLR(n_negatives=32, late_views=k)), pooling=pooling)


def _distinct_views(found: Any, texts: list[str]) -> float:
    """Give the distinct views of a text, the original not among them, in the mean."""
    counts = [
        len({view.key for view in sample.views["simclr"]} - {sample.original.key})
        for chunk in found._reader.read(texts)
        for sample in chunk
    ]
    return round(sum(counts) / len(counts), 2)


def main() -> None:
    """Write benchmarks/results/late_views.json."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="few texts and rounds: a smoke run")
    quick = parser.parse_args().quick
    table = []
    for name, n_texts in SIZES.items():
        rounds, n_full = 1 if quick else ROUNDS, 4 if quick else n_texts // FULL_SHARE
        table.append(rows(name, (1, 2), 8 if quick else n_texts, rounds))
        table.append(rows(name, (None,), n_full, rounds))
    record = {
        "yardstick": "one plain forward pass of the originals' token ids, length-sorted, at its "
        "own best batch size (found in the same run), sdpa, float32; features (embedding, KL, "
        "SimCLR with 12 views) from raw text",
        "bounds": {"bert-base, k=1": 2.0, "minilm, first token, k=1": 1.5},
        "rows": table,
    }
    timing.write("late_views_quick" if quick else "late_views", record)


if __name__ == "__main__":
    main()
