"""100,000 inputs: memory flat but for the output, cost per input as at 1,000 (MiniLM, KL).

python -m benchmarks.text_scale
"""

from __future__ import annotations

import argparse
import json
import time

from benchmarks import text_models, timing
from fungi_hf.config import FungiConfig


def one(n_texts: int) -> dict[str, float]:
    """Stream n texts from a generator and give seconds and peak memory."""
    model, tokenizer = text_models.load("minilm")
    found = text_models.extractor(model, tokenizer, FungiConfig(pooling="cls"))
    found(text_models.sentences(4096))  # what one full chunk needs, before the clock starts
    before = timing.peak_memory_mb()
    source = text_models.sentences(n_texts)
    start = time.perf_counter()
    features = found(text for text in source)
    seconds = time.perf_counter() - start
    return {
        "texts": n_texts,
        "ms_per_text": round(1000 * seconds / n_texts, 4),
        "peak_mb_before": before,
        "peak_mb": timing.peak_memory_mb(),
        "output_mb": round(features.array.nbytes / 2**20, 1),
    }


def main() -> None:
    """Write benchmarks/results/text_scale.json."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--texts", type=int, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.texts:
        print(json.dumps(one(options.texts)))
        return
    module = "benchmarks.text_scale"
    small = [timing.in_fresh_process(module, "--texts", "1000") for _ in range(3)]
    large = timing.in_fresh_process(module, "--texts", "100000")
    small += [timing.in_fresh_process(module, "--texts", "1000") for _ in range(2)]
    per_text = sorted(row["ms_per_text"] for row in small)[2]
    record = {
        "encoder": "all-MiniLM-L6-v2, float32, first token, embedding + KL",
        "bounds": {"cost_ratio": 1.1},
        "at_1000": small,
        "at_100000": large,
        "cost_ratio": round(large["ms_per_text"] / per_text, 3),
        "growth_beyond_output_mb": round(
            large["peak_mb"] - large["peak_mb_before"] - large["output_mb"], 1
        ),
    }
    timing.write("text_scale", record)


if __name__ == "__main__":
    main()
