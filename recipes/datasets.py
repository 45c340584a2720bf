"""Where the recipes' texts come from: parquet tables with `text` and `label`, and `labels.json`."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np

HERE = Path(__file__).parent


@dataclass(frozen=True)
class Split:
    """Texts and their labels.

    Attributes:
        texts: N texts.
        labels: [N] int64 indices into `names`.
        names: Class names.
    """

    texts: list[str]
    labels: np.ndarray
    names: list[str]

    def __len__(self) -> int:
        return len(self.texts)

    def head(self, n: int | None) -> Split:
        """Give n rows spread evenly over the split (all of them if n is None)."""
        if n is None or n >= len(self):
            return self
        rows = np.linspace(0, len(self) - 1, n).round().astype(int)
        return Split([self.texts[i] for i in rows], self.labels[rows], self.names)


def folder_of(name: str) -> Path:
    """Find a data set: in this repository, else under the folder named by FUNGI_DATA."""
    here = HERE / "data" / name
    if here.is_dir():
        return here
    root = os.environ.get("FUNGI_DATA", "")
    there = Path(root) / name
    if root and there.is_dir():
        return there
    raise SystemExit(
        f"data set {name!r} is not in {HERE / 'data'}; its licence does not let us ship it. "
        f"Put train.parquet, test.parquet (text, label) and labels.json into a folder {name}/ and "
        "set FUNGI_DATA to its parent"
    )


def load(name: str, split: str) -> Split:
    """Read one split of a data set."""
    import pyarrow.parquet as pq

    folder = folder_of(name)
    table = pq.read_table(folder / f"{split}.parquet", columns=["text", "label"])
    names = json.loads((folder / "labels.json").read_text(encoding="utf-8"))
    return Split(table["text"].to_pylist(), table["label"].to_numpy().astype(np.int64), names)


def load_fine() -> list[int]:
    """Read TREC's fine labels, training rows first."""
    import pyarrow.parquet as pq

    folder = folder_of("trec6")
    parts = [pq.read_table(folder / f"{s}.parquet", columns=["fine"]) for s in ("train", "test")]
    return [label for part in parts for label in part["fine"].to_pylist()]
