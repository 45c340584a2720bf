"""Resident memory of a job of 1,000,000 rows in shards, beside one of 20,000.

    python -m benchmarks.shard_memory [--rows 1000000]

The extractor gives random vectors of 768 numbers, so that all that is measured is reading,
planning, writing and joining. The bar: from 20,000 rows on, growth below three shards (20,000 rows
of 768 float32 numbers are 61 MB), for a folder of shards and for one joined file.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import psutil

from benchmarks import timing
from fungi_hf.features import FungiFeatures
from fungi_hf.shards import ShardOptions, ShardStore, extract_shard
from fungi_hf.shards.extract import plan_of
from fungi_hf.shards.join import join
from fungi_hf.shards.sources import source_of

WIDTH = 768
SHARD_ROWS = 20_000


class Stub:
    """An extractor that encodes nothing."""

    encoder: Any = None

    def collect(
        self, inputs: Any, batch_size: int | None = None, **options: Any
    ) -> tuple[FungiFeatures, Counter[str]]:
        """Give a vector for each input."""
        del batch_size, options
        rows = np.random.default_rng(len(inputs)).standard_normal((len(inputs), WIDTH))
        layout = {"embedding": slice(0, WIDTH)}
        return FungiFeatures(rows.astype(np.float32), "stub", layout), Counter()


def main() -> None:
    """Write benchmarks/results/shard_memory.json."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=1_000_000)
    options = parser.parse_args()
    process, shard_mb = psutil.Process(), SHARD_ROWS * WIDTH * 4 / 2**20

    def resident() -> float:
        return round(process.memory_info().rss / 2**20, 1)

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        with (folder / "in.txt").open("w") as file:
            file.writelines(
                f"sentence number {i} of a long file of texts\n" for i in range(options.rows)
            )
        stub: Any = Stub()
        how = ShardOptions(shard_rows=SHARD_ROWS)
        source = source_of(folder / "in.txt")
        store = ShardStore(folder / "shards", plan_of(stub, source, how))
        marks = []
        for shard in store.missing():
            extract_shard(stub, source, shard, store, how)
            marks.append({"rows": shard.stop, "resident_mb": resident()})
        store.complete()
        completed = resident()
        join(store, folder / "out.npy")
        joined = resident()
    first = marks[0]["resident_mb"]
    record = {
        "rows": options.rows,
        "output_mb": round(options.rows * WIDTH * 4 / 2**20, 1),
        "shard_mb": round(shard_mb, 1),
        "growth_mb": round(max(mark["resident_mb"] for mark in marks) - first, 1),
        "growth_after_join_mb": round(max(completed, joined) - first, 1),
        "bar_mb": round(3 * shard_mb, 1),
        "peak_mb": timing.peak_memory_mb(),
        "marks": marks[:: max(1, len(marks) // 20)],
    }
    timing.write("shard_memory", record)
    print(json.dumps({name: record[name] for name in ("growth_mb", "growth_after_join_mb")}))


if __name__ == "__main__":
    main()
