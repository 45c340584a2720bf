"""Time and memory of choosing 20 demonstrations for 3,080 queries from 10,003 rows of width 768.

Run: python -m benchmarks.icl_selection. Each strategy runs in a process of its own: fit and
select together, median of up to three runs, on Banking-77's texts and labels with features that
cluster by label. Extra memory is the growth of the process's peak over the loaded data. Prints
JSON and writes results/icl_selection.json.
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

import numpy as np
import pyarrow.parquet as pq

from fungi_hf.icl import DemoSelector, Examples
from fungi_hf.icl.leaks import LeakGuard
from fungi_hf.icl.strategies import BM25, DPP, KNN, MMR, Hybrid, Random, Stratified

ROOT = Path(__file__).parents[1]
OUT = ROOT / "benchmarks/results/icl_selection.json"
K, WIDTH, RUNS = 20, 768, 3
ENOUGH_S = 5.0  # a slow case is not run again after so long
CASES = {
    "knn": (KNN(), {}),
    "knn, dot": (KNN("dot"), {}),
    "knn, euclidean": (KNN("euclidean"), {}),
    "knn, vectors guarded": (KNN(), {"leaks": LeakGuard(vectors=True)}),
    "knn, 4 shared": (KNN(), {"n_shared": 4}),
    "knn, 5 per class": (KNN(), {"max_per_class": 5}),
    "knn, 1 per class": (KNN(), {"max_per_class": 1}),
    "bm25": (BM25(), {}),
    "bm25, 5 per class": (BM25(), {"max_per_class": 5}),
    "hybrid, rrf": (Hybrid(), {}),
    "hybrid, convex": (Hybrid(fusion="convex"), {}),
    "mmr": (MMR(), {}),
    "dpp": (DPP(), {}),
    "stratified": (Stratified(), {}),
    "random": (Random(), {}),
}
BAR = {"s": 3.0, "extra_mb": 1024}  # for every strategy


def examples():
    """The texts and labels of Banking-77, with seeded features around a centre per label."""
    rng = np.random.default_rng(0)
    centres = rng.standard_normal((77, WIDTH), dtype=np.float32)
    both = []
    for split in ("train", "test"):
        table = pq.read_table(ROOT / f"recipes/data/banking77/{split}.parquet")
        labels = table["label"].to_numpy()
        features = rng.standard_normal((len(labels), WIDTH), dtype=np.float32)
        features += centres[labels]
        both.append(
            Examples(features=features, contents=table["text"].to_pylist(), targets=labels.tolist())
        )
    return both


def peak_mb():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def measured(call):
    before, times, cpu = peak_mb(), [], []
    for _ in range(RUNS):
        start, spent = time.perf_counter(), time.process_time()
        call()
        times.append(time.perf_counter() - start)
        cpu.append(time.process_time() - spent)
        if sum(times) > ENOUGH_S:
            break
    return {
        "s": round(statistics.median(times), 2),
        "fastest_s": round(min(times), 2),
        "cpu_s": round(statistics.median(cpu), 2),
        "extra_mb": round(peak_mb() - before),
    }


def case(label):
    pool, queries = examples()
    if label == "faiss":
        return measured(lambda: search_with_faiss(pool.features, queries.features))
    strategy, options = CASES[label]
    return measured(lambda: DemoSelector(strategy, K, **options).fit(pool).select(queries))


def search_with_faiss(pool, queries):
    """The bare search, without guard, ties or labels, as a yardstick."""
    import faiss

    index = faiss.IndexFlatIP(WIDTH)
    index.add(pool / np.linalg.norm(pool, axis=1, keepdims=True))
    index.search(queries / np.linalg.norm(queries, axis=1, keepdims=True), K)


def in_a_process(label):
    command = [sys.executable, "-m", "benchmarks.icl_selection", "--case", label]
    done = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True)
    return json.loads(done.stdout)


def main():
    if "--case" in sys.argv:
        print(json.dumps(case(sys.argv[-1])))
        return
    load = round(os.getloadavg()[0], 2)
    found = {label: in_a_process(label) for label in ("faiss", *CASES)}
    faiss = found.pop("faiss")
    above = [label for label, own in found.items() if any(own[key] > BAR[key] for key in BAR)]
    result = {
        "shape": [3_080, 10_003, WIDTH],
        "k": K,
        "runs": RUNS,
        "threads": int(os.environ["OMP_NUM_THREADS"]),
        "machine": platform.machine(),
        "numpy": np.__version__,
        "load_before": load,
        "bar": BAR,
        "bar_is_met": not above,
        "above_bar": above,
        "faiss_flat_search": faiss,
        "strategies": found,
    }
    text = json.dumps(result, indent=2)
    OUT.parent.mkdir(exist_ok=True)
    OUT.write_text(text + "\n", encoding="utf-8")
    print(text)


if __name__ == "__main__":
    main()
