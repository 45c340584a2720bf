"""Read label names and labelled items from files, without pickle and without a model."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

from fungi_hf.checks import check_known
from fungi_hf.errors import InputError, StorageError
from fungi_hf.icl.examples import Examples
from fungi_hf.icl.labels import LabelSpace
from fungi_hf.tables import (
    Vectors,
    column_of,
    load_vectors,
    read_arrays,
    read_lines,
    read_rows,
    read_text,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["Vectors", "load_examples", "load_labels", "load_vectors"]


def load_labels(path: str | Path, column: str = "label") -> LabelSpace:
    """Read label names; a label's id is its position.

    A JSON file holds a list of names, a mapping of ids to names, or a model's config with its
    `id2label`; a .txt file a name a line; a table (.jsonl, .csv, .parquet) names in a column.

    Raises:
        StorageError: If the file holds none of these.
    """
    file = Path(path)
    suffix = file.suffix.lower()
    if suffix == ".txt":
        return LabelSpace([line for line in read_lines(file) if line.strip()])
    if suffix in (".jsonl", ".csv", ".parquet"):
        return LabelSpace(list(dict.fromkeys(map(str, column_of(read_rows(file), column, file)))))
    try:
        names = json.loads(read_text(file))
    except ValueError as error:
        raise StorageError(f"{path} cannot be read: {error}") from None
    if isinstance(names, dict):
        names = _by_id(names.get("id2label", names))
    if not isinstance(names, list):
        raise StorageError(
            f"{path} does not hold a JSON list of label names, nor a mapping of the ids 0, 1, ... "
            "to names"
        )
    return LabelSpace(names)


def _by_id(names: object) -> list[object] | None:
    """Give the names of a mapping id -> name, or name -> id, in the order of ids 0 to C - 1."""
    if not isinstance(names, dict):
        return None
    turned = all(isinstance(value, int) for value in names.values())
    pairs = [(value, key) for key, value in names.items()] if turned else list(names.items())
    try:
        found = {int(label): name for label, name in pairs}
    except (ValueError, TypeError):
        return None
    complete = sorted(found) == list(range(len(names)))
    return [found[label] for label in range(len(names))] if complete else None


def load_examples(
    data: str | Path,
    features: str | Path | None = None,
    blocks: Sequence[str] | None = None,
    *,
    column: str = "text",
    label: str = "label",
) -> Examples:
    """Read examples.

    Args:
        data: A .parquet, .jsonl or .csv file with columns text, label and optionally id; or an
            .npz file with arrays among contents, targets, ids, features, fingerprint.
        features: A file with the vectors, if they are not in data; see `load_vectors`.
        blocks: Names of the feature blocks to keep, e.g. ["embedding"], in this order; only for
            feature files, which know their layout.
        column: Of the texts, in a table.
        label: Column of the labels or answers, in a table; it may be missing. A list of accepted
            texts may stand under "text" of a mapping, as in SQuAD.

    Raises:
        InputError: If a column that was named is not there.
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
        columns = {"contents": column, "targets": label, "ids": "id"}
        asked = [name for name, usual in ((column, "text"), (label, "label")) if name != usual]
        check_known(str(path), asked, named, noun="column", error=InputError)
        parts = {p: column_of(rows, name, path) for p, name in columns.items() if name in named}
        if "targets" in parts:
            parts["targets"] = [_answers(value) for value in parts["targets"]]
    fingerprint = parts.pop("fingerprint", None)
    if features is not None:
        parts["features"] = load_vectors(features, blocks)
    elif fingerprint is not None and "features" in parts:
        parts["features"] = Vectors(parts["features"], str(fingerprint))
    return Examples(**parts)


def _answers(value: object) -> object:
    return value["text"] if isinstance(value, dict) and "text" in value else value
