"""Time exact search against faiss's flat index: medians of alternated runs on two threads.

Run: python benchmarks/exact_search.py. Prints JSON and writes results/exact_search.json.
"""

# ruff: noqa: E402 (threads must be set before numpy and faiss are imported)
from __future__ import annotations

import os

for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ.setdefault(name, "2")

import json
import platform
import resource
import statistics
import subprocess
import sys
import time
from pathlib import Path

import faiss
import numpy as np

from fungi_hf.neighbors import ExactIndex

OUT = Path(__file__).parent / "results" / "exact_search.json"
RUNS = 9


def unit(rng, n, width):
    rows = rng.standard_normal((n, width), dtype=np.float32)
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def seconds(call):
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def against_faiss(n_queries, n_pool, width, k):
    rng = np.random.default_rng(0)
    pool, queries = unit(rng, n_pool, width), unit(rng, n_queries, width)
    exact, flat = ExactIndex().fit(pool), faiss.IndexFlatIP(width)
    flat.add(pool)
    found, wanted = exact.search(queries, k).indices, flat.search(queries, k)[1]
    ours, theirs = [], []
    for _ in range(RUNS):
        theirs.append(seconds(lambda: flat.search(queries, k)))
        ours.append(seconds(lambda: exact.search(queries, k)))
    return {
        "queries": n_queries,
        "pool": n_pool,
        "width": width,
        "k": k,
        "exact_s": round(statistics.median(ours), 3),
        "faiss_flat_s": round(statistics.median(theirs), 3),
        "ratio": round(statistics.median(ours) / statistics.median(theirs), 3),
        "ratio_of_fastest": round(min(ours) / min(theirs), 3),
        "same_ids": round(float((found == wanted).mean()), 6),
    }


def extra_memory():
    """Peak memory of one search of the Banking-77 shape, in a process of its own."""
    rng = np.random.default_rng(0)
    index, queries = ExactIndex().fit(unit(rng, 10_003, 768)), unit(rng, 3_080, 768)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    taken = seconds(lambda: index.search(queries, 20))
    after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return {
        "shape": [3_080, 10_003, 768],
        "s": round(taken, 3),
        "extra_mb": (after - before) // 1024,
    }


def main():
    if "--memory" in sys.argv:
        print(json.dumps(extra_memory()))
        return
    memory = subprocess.run(
        [sys.executable, __file__, "--memory"], check=True, capture_output=True, text=True
    )
    result = {
        "threads": int(os.environ["OMP_NUM_THREADS"]),
        "runs": RUNS,
        "machine": platform.machine(),
        "numpy": np.__version__,
        "faiss": faiss.__version__,
        "load_before": round(os.getloadavg()[0], 2),
        "search": [against_faiss(10_000, 10_000, 768, 20), against_faiss(3_080, 10_003, 768, 20)],
        "one_search": json.loads(memory.stdout),
    }
    text = json.dumps(result, indent=2)
    OUT.parent.mkdir(exist_ok=True)
    OUT.write_text(text + "\n", encoding="utf-8")
    print(text)


if __name__ == "__main__":
    main()
