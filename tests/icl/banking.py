"""Banking-77 from the repository's own copy, and the numbers that were computed on it.

tests/data/banking77_bm25.json holds counts of retrieval and votes on these very files, computed
with a separate script (numpy and scipy, no code of this package); its "definition" entry says
what every number means.
"""

from __future__ import annotations

import functools
import json
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq

from fungi_hf.icl import Examples

ROOT = Path(__file__).parents[2]
DATA = ROOT / "recipes/data/banking77"


@functools.cache
def oracle() -> dict:
    return json.loads((ROOT / "tests/data/banking77_bm25.json").read_text())


@functools.cache
def names() -> tuple[str, ...]:
    return tuple(json.loads((DATA / "labels.json").read_text()))


@functools.cache
def split(name: str) -> Examples:
    table = pq.read_table(DATA / f"{name}.parquet")
    return Examples(contents=table["text"].to_pylist(), targets=table["label"].to_numpy().tolist())


@functools.cache
def gold() -> np.ndarray:
    return np.array(split("test").targets)
