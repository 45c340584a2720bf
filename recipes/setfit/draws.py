"""The rows of the comparison, alike in both environments; it needs pyarrow and numpy alone."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import numpy as np

SETS = ("trec6", "sst2")
SHOTS = (8, 64)
DRAWS = 10
OUT = Path(__file__).parents[1] / "results" / "setfit.json"


def read(name: str) -> dict[str, tuple[list[str], list[int]]]:
    """Read texts and labels of both sides of a set, from `text` under FUNGI_DATA."""
    import pyarrow.parquet as pq

    folder = Path(os.environ["FUNGI_DATA"]) / "text" / name
    tables = {side: pq.read_table(folder / f"{side}.parquet") for side in ("train", "test")}
    return {
        side: (table["text"].to_pylist(), table["label"].to_pylist())
        for side, table in tables.items()
    }


def rows_of(labels: list[int], shots: int, seed: int) -> list[int]:
    """Draw so many rows of each class."""
    generator, codes = np.random.default_rng(seed), np.array(labels)
    drawn = [generator.permutation(np.flatnonzero(codes == c))[:shots] for c in np.unique(codes)]
    return [int(row) for row in np.sort(np.concatenate(drawn))]


def record(arm: str, versions: dict[str, str], cases: list[dict[str, Any]]) -> None:
    """Write one arm's results beside the other's."""
    found = json.loads(OUT.read_text("utf-8")) if OUT.exists() else {}
    found[arm] = {"versions": versions, "cases": cases}
    OUT.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
