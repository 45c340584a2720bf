"""Measure kNN evaluation against memory-mapped training features: memory must not grow with them.

Run: python benchmarks/evaluation_memory.py [--rows 1000000]. Writes the features to a temporary
file (6 GB for a million rows), evaluates all combinations of four blocks in processes of their
own for a tenth of the rows and for all, prints JSON and writes results/evaluation_memory.json.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np

OUT = Path(__file__).parent / "results" / "evaluation_memory.json"
WIDTH, BLOCKS, CLASSES, QUERIES = 1536, 4, 77, 500
LAYOUT = {
    name: slice(i * WIDTH // BLOCKS, (i + 1) * WIDTH // BLOCKS)
    for i, name in enumerate(("embedding", "kl", "simclr", "activation"))
}


def rows_of(rng, labels):
    rows = rng.standard_normal((len(labels), WIDTH), dtype=np.float32)
    rows[:, :CLASSES] += 3 * np.eye(CLASSES, dtype=np.float32)[labels]
    for part in LAYOUT.values():
        rows[:, part] /= np.linalg.norm(rows[:, part], axis=1, keepdims=True)
    return rows


def write(path, n_rows):
    rng = np.random.default_rng(0)
    target = np.lib.format.open_memmap(path, "w+", np.float32, (n_rows, WIDTH))
    for start in range(0, n_rows, 20_000):
        stop = min(start + 20_000, n_rows)
        target[start:stop] = rows_of(rng, np.arange(start, stop) % CLASSES)
    target.flush()


def anonymous_mb():
    """Memory of the process without the mapped file's cached pages."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("RssAnon"):
            return int(line.split()[1]) // 1024
    return 0


def measure(path, n_rows):
    from fungi_hf.evaluation import evaluate_knn

    train = SimpleNamespace(
        array=np.load(path, mmap_mode="r")[:n_rows], layout=LAYOUT, fingerprint="benchmark"
    )
    truth = np.arange(QUERIES) % CLASSES
    test = SimpleNamespace(
        array=rows_of(np.random.default_rng(1), truth), layout=LAYOUT, fingerprint="benchmark"
    )
    before, peak, done = anonymous_mb(), [0], threading.Event()

    def watch():
        while not done.wait(0.02):
            peak[0] = max(peak[0], anonymous_mb())

    watcher = threading.Thread(target=watch)
    watcher.start()
    start = time.perf_counter()
    results = evaluate_knn(train, np.arange(n_rows) % CLASSES, test, truth)
    taken = time.perf_counter() - start
    done.set()
    watcher.join()
    return {
        "rows": n_rows,
        "features_mb": n_rows * WIDTH * 4 >> 20,
        "extra_mb": peak[0] - before,
        "s": round(taken, 1),
        "combinations": len(results),
        "accuracy": round(results[-1].metrics["accuracy"], 4),
    }


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--measure", nargs=2)
    options = parser.parse_args()
    if options.measure:
        print(json.dumps(measure(options.measure[0], int(options.measure[1]))))
        return
    runs = []
    with tempfile.TemporaryDirectory() as folder:
        path = str(Path(folder) / "features.npy")
        write(path, options.rows)
        for n_rows in (options.rows // 10, options.rows):
            command = [sys.executable, __file__, "--measure", path, str(n_rows)]
            run = subprocess.run(command, check=True, capture_output=True, text=True)
            runs.append(json.loads(run.stdout))
    text = json.dumps({"width": WIDTH, "queries": QUERIES, "runs": runs}, indent=2)
    OUT.parent.mkdir(exist_ok=True)
    OUT.write_text(text + "\n", encoding="utf-8")
    print(text)


if __name__ == "__main__":
    main()
