"""Class labels at the border: one label a row, all of one kind, none missing."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
import numpy.typing as npt

from fungi_hf.errors import LabelError, ShapeError

if TYPE_CHECKING:
    from fungi_hf.types import Int64Array

Labels: TypeAlias = npt.ArrayLike | Iterable[str] | Iterable[int]
LabelArray: TypeAlias = npt.NDArray[np.int64] | npt.NDArray[np.str_]


def read_labels(labels: Labels, name: str, n_rows: int | None = None) -> LabelArray:
    """Give labels, of which floats must be whole numbers, as int64 or str, [N].

    Raises:
        LabelError: If labels are missing, of mixed kinds, not whole numbers, or several a row.
        ShapeError: If there are more or fewer than rows.
    """
    values = as_list(labels, name)
    if n_rows is not None and len(values) != n_rows:
        raise ShapeError(f"{name} has {len(values)} labels for {n_rows} rows; one a row is needed")
    several = [i for i, value in enumerate(values) if isinstance(value, list | tuple | set | dict)]
    if several:
        raise LabelError(
            f"{name} has several labels in a row, first in row {several[0]}: "
            f"{values[several[0]]!r}; multi-label data is not supported, give one label a row"
        )
    missing = [i for i, value in enumerate(values) if is_missing(value)]
    if missing:
        rows = ", ".join(map(str, missing[:10]))
        raise LabelError(f"{name} has {len(missing)} missing labels (None or NaN): rows {rows}")
    kinds = sorted({_kind(value) for value in values})
    if len(kinds) > 1:
        raise LabelError(f"{name} mixes {' and '.join(kinds)}; labels must be of one kind")
    if kinds == ["strings"]:
        return np.asarray(values, np.str_)
    if kinds not in ([], ["integers"]):
        odd = next(value for value in values if _kind(value) == kinds[0])
        raise LabelError(f"{name} holds {kinds[0]}, e.g. {odd!r}; labels are integers or strings")
    try:
        return np.asarray([int(value) for value in values], np.int64)
    except OverflowError:
        raise LabelError(f"{name} has an integer that does not fit in 64 bits") from None


def encode_labels(
    labels: Labels, name: str, n_rows: int | None = None
) -> tuple[LabelArray, Int64Array]:
    """Give the sorted classes [C] and each row's class number [N].

    Raises:
        LabelError: If there are fewer than two classes.
    """
    array = read_labels(labels, name, n_rows)
    classes: LabelArray
    classes, codes = np.unique(array, return_inverse=True)  # type: ignore[assignment]
    if len(classes) < 2:
        held = f"only the class {classes[0].item()!r}" if len(classes) else "no labels"
        raise LabelError(f"{name} has {held}; at least 2 classes are needed")
    return classes, codes.astype(np.int64)


def check_kinds(first: LabelArray, second: LabelArray, names: tuple[str, str]) -> None:
    """Refuse integers on one side and strings on the other: no two would ever be equal.

    Raises:
        LabelError: If the labels are of two kinds.
    """
    if len(first) and len(second) and first.dtype.kind != second.dtype.kind:
        raise LabelError(
            f"{names[0]} labels are such as {first[0].item()!r}, {names[1]} labels such as "
            f"{second[0].item()!r}; labels must be of one kind"
        )


def as_list(labels: Labels, name: str) -> list[Any]:
    """Give labels as plain Python values, [N], whatever kind they are of.

    Raises:
        LabelError: If they are one label, no sequence, or a table with several a row.
    """
    if isinstance(labels, str | bytes) or not isinstance(labels, Iterable):
        raise LabelError(f"{name} is a {type(labels).__name__}; it must hold one label a row")
    shape = getattr(labels, "shape", None)
    if shape is not None and len(shape) == 2 and shape[1] == 1:
        labels = np.asarray(labels)[:, 0]
    elif shape is not None and len(shape) != 1:
        raise LabelError(
            f"{name} has shape {tuple(shape)}; multi-label data is not supported, give one a row"
        )
    values: list[Any] = labels.tolist() if hasattr(labels, "tolist") else list(labels)
    return [value.item() if isinstance(value, np.generic) else value for value in values]


def is_missing(value: object) -> bool:
    """Recognise None, NaN, NaT and pandas' NA, the last by name: pandas is not needed here."""
    if value is None or type(value).__name__ in {"NAType", "NaTType"}:
        return True
    return isinstance(value, float) and math.isnan(value)


def _kind(value: object) -> str:
    if isinstance(value, str):
        return "strings"
    if isinstance(value, bool | int | np.integer | np.bool_):
        return "integers"
    if isinstance(value, float):
        return "integers" if value.is_integer() else "fractions"
    return f"{type(value).__name__} objects"
