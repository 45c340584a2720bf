"""Read label names and labelled items from files, without pickle and without a model."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

from fungi_hf.errors import StorageError
from fungi_hf.icl.examples import Examples
from fungi_hf.icl.labels import LabelSpace
from fungi_hf.tables import Vectors, column_of, load_vectors, read_arrays, read_rows

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["Vectors", "load_examples", "load_labels", "load_vectors"]
_COLUMNS = {"text": "contents", "label": "targets", "id": "ids"}


def load_labels(path: str | Path) -> LabelSpace:
    """Read the label names from a JSON list; a label's id is its position.

    Raises:
        StorageError: If the file does not hold a JSON list.
    """
    try:
        names = json.loads(Path(path).read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise StorageError(f"{path} cannot be read: {error}") from None
    if not isinstance(names, list):
        raise StorageError(f"{path} does not hold a JSON list of label names")
    return LabelSpace(names)


def load_examples(
    data: str | Path, features: str | Path | None = None, blocks: Sequence[str] | None = None
) -> Examples:
    """Read examples.

    Args:
        data: A .parquet, .jsonl or .csv file with columns text, label and optionally id; or an
            .npz file with arrays among contents, targets, ids, features, fingerprint.
        features: A file with the vectors, if they are not in data; see `load_vectors`.
        blocks: Names of the feature blocks to keep, e.g. ["embedding"], in this order; only for
            feature files, which know their layout.

    Raises:
        StorageError: If there is no such file.
    """
    path = Path(data)
    if not path.is_file():
        raise StorageError(f"there is no file {path}")
    if path.suffix.lower() == ".npz":
        parts = read_arrays(path)
    else:
        rows = read_rows(path, also=[".npz"])
        named = {name for row in rows for name in row}
        parts = {p: column_of(rows, name, path) for name, p in _COLUMNS.items() if name in named}
    fingerprint = parts.pop("fingerprint", None)
    if features is not None:
        parts["features"] = load_vectors(features, blocks)
    elif fingerprint is not None and "features" in parts:
        parts["features"] = Vectors(parts["features"], str(fingerprint))
    return Examples(**parts)
