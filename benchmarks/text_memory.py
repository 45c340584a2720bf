"""Peak memory of features against the plain forward pass, BERT-base size, each in its own process.

python -m benchmarks.text_memory
"""

from __future__ import annotations

import argparse
import json
from typing import Any

from benchmarks import text_models, timing
from fungi_hf.config import FungiConfig, SimCLR

RUNS = ("plain", "kl-cls", "kl-mean", "simclr-cls", "simclr-mean")


def one(run: str, n_texts: int) -> dict[str, Any]:
    """Do one run and give this process's peak."""
    model, tokenizer = text_models.load("bert-base")
    texts = text_models.sentences(n_texts)
    blocks, _, pooling = run.partition("-")
    objectives: tuple[Any, ...] = ("kl", SimCLR(n_negatives=32)) if blocks != "kl" else ("kl",)
    config = FungiConfig(objectives=objectives, pooling=pooling or "mean")
    found = text_models.extractor(model, tokenizer, config)
    if run == "plain":
        items = text_models.distinct_inputs(found, texts)
        found_width = len(items)
        # The same tokens in the same batches, without objectives, heads or sketch.
        batches = text_models.own_batches(found, items)
        del found
        bare = text_models.extractor(model, tokenizer, config.replace(objectives=()))
        text_models.plain_forward(bare, items, batches)
        return {"peak_mb": timing.peak_memory_mb(), "inputs": found_width}
    if config.needs_fit:
        found.fit(texts)
    found(texts)
    state = sum(t.numel() * t.element_size() for t in (found.sketch.U, found.sketch.W))
    return {"peak_mb": timing.peak_memory_mb(), "sketch_mb": round(state / 2**20, 2)}


def main() -> None:
    """Write benchmarks/results/text_memory.json."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--run", choices=RUNS, help=argparse.SUPPRESS)
    parser.add_argument("--texts", type=int, default=48)
    options = parser.parse_args()
    if options.run:
        print(json.dumps(one(options.run, options.texts)))
        return
    module = "benchmarks.text_memory"
    found = {
        run: timing.in_fresh_process(module, "--run", run, "--texts", str(options.texts))
        for run in RUNS
    }
    plain = found["plain"]["peak_mb"]
    record = {
        "encoder": "bert-base shape, random weights, float32",
        "texts": options.texts,
        "bounds": {"above_plain_mb": 300, "sketch_mb": 25},
        "runs": found,
        "above_plain_mb": {
            run: round(values["peak_mb"] - plain, 1) for run, values in found.items()
        },
    }
    timing.write("text_memory", record)


if __name__ == "__main__":
    main()
