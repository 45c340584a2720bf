"""Where the recipes' pictures come from: parquet tables with `image_bytes`, `label`, `split`."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from recipes.datasets import folder_of

if TYPE_CHECKING:
    from pathlib import Path


@dataclass(frozen=True)
class Images:
    """Picture files and their labels.

    Attributes:
        files: N whole files, as bytes.
        labels: [N] int64 indices into `names`.
        names: Class names.
    """

    files: list[bytes]
    labels: np.ndarray
    names: list[str]

    def __len__(self) -> int:
        return len(self.files)

    def spread(self, per_class: int | None) -> Images:
        """Give so many rows of every class, evenly spread (all of them if None)."""
        if per_class is None:
            return self
        rows = []
        for label in range(len(self.names)):
            here = np.flatnonzero(self.labels == label)
            places = np.linspace(0, len(here) - 1, min(per_class, len(here))).round()
            rows += here[places.astype(int)].tolist()
        rows.sort()
        return Images([self.files[i] for i in rows], self.labels[rows], self.names)


def load(name: str, split: str) -> Images:
    """Read one split of `vision/<name>` under FUNGI_DATA, or of a sample in this repository."""
    folder = folder_of(f"vision/{name}")
    (table,) = sorted(folder.glob("*.parquet"))
    return read(table, folder / "labels.json", split)


def read(table: Path, labels: Path, split: str) -> Images:
    """Read one split of a table."""
    import pyarrow.parquet as pq

    rows = pq.read_table(table, columns=["image_bytes", "label", "split"])
    kept = rows.filter([one == split for one in rows["split"].to_pylist()])
    names = json.loads(labels.read_text(encoding="utf-8"))
    return Images(kept["image_bytes"].to_pylist(), kept["label"].to_numpy().astype(int), names)
