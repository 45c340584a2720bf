"""Exact search past memory: 256 queries in 1,000,000 x 768 float16 rows on disk.

    python -m benchmarks.search_scale [--rows 1000000]

Generated clusters, in fifty .npy files. The bars: at most 1.3 times a plain numpy loop over the
same rows, memory-mapped (product, argpartition, merge by blocks), and under 1.5 GB resident.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from pathlib import Path

import numpy as np
import torch

from benchmarks import timing
from fungi_hf.neighbors import ExactIndex, ShardedVectors

WIDTH, QUERIES, K, FILES, BLOCK = 768, 256, 10, 50, 10_240


def generate(folder: Path, n_rows: int) -> None:
    """Write unit rows around 2,000 centres."""
    generator = np.random.default_rng(0)
    centres = generator.standard_normal((2000, WIDTH), dtype=np.float32)
    for number, part in enumerate(np.array_split(np.arange(n_rows), FILES)):
        rows = centres[generator.integers(2000, size=len(part))]
        rows = rows + generator.standard_normal(rows.shape, dtype=np.float32)
        rows /= np.linalg.norm(rows, axis=1, keepdims=True)
        np.save(folder / f"{number:03d}.npy", rows.astype(np.float16))
    queries = centres[:QUERIES] + generator.standard_normal((QUERIES, WIDTH), dtype=np.float32)
    queries.tofile(folder / "queries.f32")


def plain(files: list[Path], queries: np.ndarray) -> np.ndarray:
    """Search by a loop of products, for unit rows."""
    units = queries / np.linalg.norm(queries, axis=1, keepdims=True)
    best = np.full((len(units), K), -np.inf, np.float32)
    rows = np.full((len(units), K), -1)
    first = 0
    for file in files:
        mapped = np.load(file, mmap_mode="r")
        for start in range(0, len(mapped), BLOCK):
            scores = units @ np.asarray(mapped[start : start + BLOCK], np.float32).T
            near = np.argpartition(-scores, K, axis=1)[:, :K]
            both = np.concatenate([best, np.take_along_axis(scores, near, 1)], axis=1)
            places = np.concatenate([rows, near + first + start], axis=1)
            order = np.argsort(-both, axis=1)[:, :K]
            best, rows = (np.take_along_axis(one, order, 1) for one in (both, places))
        first += len(mapped)
    return rows


def one(folder: Path, what: str) -> None:
    """Print seconds, the answer's digest and peak memory of one search, in its own process."""
    torch.set_num_threads(2)
    files = sorted(folder.glob("*.npy"))
    queries = np.fromfile(folder / "queries.f32", np.float32).reshape(QUERIES, WIDTH)
    begin = time.perf_counter()
    index = ExactIndex().fit(ShardedVectors(files)) if what == "index" else None
    fitted = time.perf_counter() - begin
    seconds = []
    for _ in range(3):
        start = time.perf_counter()
        rows = plain(files, queries) if index is None else index.search(queries, K).indices
        seconds.append(time.perf_counter() - start)
    found = {
        "seconds": round(float(np.median(seconds)), 3),
        "fit_seconds": round(fitted, 3),
        "peak_mb": timing.peak_memory_mb(),
        "sum_of_rows": int(rows.sum()),
    }
    print(json.dumps(found))


def main() -> None:
    """Write benchmarks/results/search_scale.json."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--one", nargs=2, help="folder and kind, for a process of its own")
    options = parser.parse_args()
    if options.one:
        one(Path(options.one[0]), options.one[1])
        return
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        generate(folder, options.rows)
        rounds = [
            {what: timing.in_fresh_process("benchmarks.search_scale", "--one", name, what)
             for what in ("plain", "index")}
            for _ in range(3)
        ]  # fmt: skip
    ratios = [one["index"]["seconds"] / one["plain"]["seconds"] for one in rounds]
    record = {
        "rows": options.rows,
        "width": WIDTH,
        "queries": QUERIES,
        "k": K,
        "rounds": rounds,
        "ratio": round(float(np.median(ratios)), 3),
        "bar": 1.3,
        "peak_mb": max(one["index"]["peak_mb"] for one in rounds),
        "bar_mb": 1536,
    }
    timing.write("search_scale", record)


if __name__ == "__main__":
    main()
