"""Gradients at one, three and six layers against the plain forward pass: MiniLM and BERT-base size.

python -m benchmarks.layers_cost [--quick]

Embedding and KL. One: the target layer; three and six: attention outputs spread down from it over
the upper half of the blocks, or over all where there are no more, from one forward and one
backward pass.
"""

from __future__ import annotations

import argparse
from typing import Any

from benchmarks import text_models, timing
from fungi_hf.config import KL, FungiConfig
from fungi_hf.tuning.scan import sibling_layers

SIZES = {"minilm": 400, "bert-base": 100}
COUNTS = (1, 3, 6)


def rows(name: str, n_texts: int, rounds: int) -> list[dict[str, Any]]:
    """Time every pooling and number of layers of one encoder."""
    model, tokenizer = text_models.load(name)
    texts = text_models.sentences(n_texts)
    variants = {}
    for pooling in ("mean", "cls"):
        plain = text_models.extractor(model, tokenizer, _config(None, pooling))
        layers = sibling_layers(plain.encoder, 12)
        for count in COUNTS:
            step = max(1, (len(layers) // 2) // count)
            chosen = layers[::-1][: count * step : step][::-1]
            layer = tuple(chosen) if count > 1 else None
            variants[pooling, count] = (
                text_models.extractor(model, tokenizer, _config(layer, pooling)),
                chosen,
            )
    reference = variants["mean", 1][0]
    items = text_models.distinct_inputs(reference, texts)
    size, batches = text_models.best_batches(reference, items)
    runs: dict[Any, Any] = {"plain": lambda: text_models.plain_forward(reference, items, batches)}
    for key, (found, _) in variants.items():
        runs[key] = lambda found=found: found(texts)
    seconds = timing.alternate(runs, rounds)
    return [
        {
            "encoder": name,
            "pooling": pooling,
            "layers": len(chosen),
            "paths": chosen,
            "texts": n_texts,
            "plain_forward_batch_size": size,
            "ratio_to_plain_forward": timing.ratio(seconds, (pooling, count), "plain"),
            "seconds": timing.median(seconds[pooling, count]),
        }
        for (pooling, count), (_, chosen) in variants.items()
    ]


def _config(layer: tuple[str, ...] | None, pooling: str) -> FungiConfig:
    return FungiConfig(objectives=(KL(layer=layer),), pooling=pooling)


def main() -> None:
    """Write benchmarks/results/layers_cost.json."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="few texts and rounds: a smoke run")
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    quick = options.quick
    table = [
        row
        for name, n_texts in SIZES.items()
        for row in rows(name, 8 if quick else n_texts, 1 if quick else options.rounds)
    ]
    record = {
        "yardstick": "plain forward pass of the same token ids, length-sorted, at its own best "
        "batch size (found in the same run), sdpa, float32; features are timed from raw text",
        "blocks": "embedding + KL at each layer",
        "rows": table,
    }
    timing.write("layers_cost_quick" if quick else "layers_cost", record)


if __name__ == "__main__":
    main()
