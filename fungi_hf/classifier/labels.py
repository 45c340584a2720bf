"""Class labels of any hashable type: read, kept as they are, written as JSON.

Invariant: what is predicted has the type of what was given; nothing is turned into a text.
"""

from __future__ import annotations

from collections.abc import Hashable
from typing import TYPE_CHECKING, Any, Final, TypeAlias

import numpy as np
import numpy.typing as npt

from fungi_hf.errors import InputError, LabelError, StateError
from fungi_hf.neighbors.labels import as_list, is_missing

if TYPE_CHECKING:
    from collections.abc import Mapping

    from fungi_hf.types import Int64Array

ClassArray: TypeAlias = npt.NDArray[Any]

_KINDS: Final = "biufUO"  # of numpy: booleans, numbers, texts, objects
_PLAIN: Final = (str, bool, int, float)


def read_targets(y: Any, n_rows: int, name: str = "y") -> list[Any]:
    """Give one plain Python label a row, all of one kind.

    Raises:
        InputError: If there are more or fewer than rows.
        LabelError: If labels are missing, of mixed kinds, fractions, or several a row.
    """
    values = as_list(y, name)
    if len(values) != n_rows:
        raise InputError(f"X has {n_rows} inputs and {name} {len(values)} labels; one each")
    missing = [row for row, value in enumerate(values) if is_missing(value)]
    if missing:
        rows = ", ".join(map(str, missing[:10]))
        raise LabelError(f"{name} has {len(missing)} missing labels (None or NaN): rows {rows}")
    for row, value in enumerate(values):
        if isinstance(value, float) and not value.is_integer():
            raise LabelError(f"{name} holds numbers such as {value!r}; classes are no fractions")
        if not _is_hashable(value):
            raise LabelError(
                f"{name} has {value!r:.60} in row {row}, a {type(value).__name__}, which is no "
                "label: give one a row, a text, a whole number or another hashable value"
            )
    kinds = sorted({kind_of(value) for value in values})
    if len(kinds) > 1:
        raise LabelError(f"{name} mixes {' and '.join(kinds)}; labels must be of one kind")
    return values


def encode(y: Any, n_rows: int) -> tuple[ClassArray, Int64Array]:
    """Give the sorted classes [C], of y's own dtype, and each row's class number [N].

    Raises:
        LabelError: If there are fewer than two classes, or `read_targets` finds fault.
    """
    values = read_targets(y, n_rows)
    distinct = list(dict.fromkeys(values))
    try:
        ordered = sorted(distinct)
    except TypeError:  # no order of their own: that of their first rows
        ordered = distinct
    if len(ordered) < 2:
        raise LabelError(f"y has only the class {ordered[0]!r}; at least 2 classes are needed")
    number = {value: code for code, value in enumerate(ordered)}
    codes = np.array([number[value] for value in values], np.int64)
    return _as_array(ordered, getattr(y, "dtype", None)), codes


def codes_of(values: list[Any], classes: ClassArray, name: str = "y") -> Int64Array:
    """Give class numbers [N], -1 for a label that is no class.

    Raises:
        LabelError: If the labels are of another kind than the classes: none could ever be right.
    """
    known = plain(classes)
    if values and kind_of(values[0]) != kind_of(known[0]):
        raise LabelError(
            f"training labels are such as {known[0]!r}, {name} labels such as {values[0]!r}; "
            "labels must be of one kind"
        )
    number = {value: code for code, value in enumerate(known)}
    return np.array([number.get(value, -1) for value in values], np.int64)


def plain(classes: ClassArray) -> list[Any]:
    """Give classes as plain Python values."""
    values: list[Any] = classes.tolist()
    return values


def tunable(classes: ClassArray) -> list[Any]:
    """Give names of classes that tuning takes, in their order: these, or their numbers."""
    values = plain(classes)
    if kind_of(values[0]) == "strings":
        return values
    is_whole = kind_of(values[0]) == "numbers" and all(abs(one) < 1 << 62 for one in values)
    return [int(one) for one in values] if is_whole else list(range(len(values)))


def kind_of(value: object) -> str:
    """Name the kind of a label; whole numbers are of one, however they are written."""
    if isinstance(value, str):
        return "strings"
    if isinstance(value, bool):
        return "booleans"
    if isinstance(value, (int, float)):
        return "numbers"
    return f"{type(value).__name__} objects"


def to_json(classes: ClassArray) -> dict[str, Any]:
    """Give classes as plain data.

    Raises:
        LabelError: If JSON cannot hold one of them.
    """
    return {"dtype": classes.dtype.str, "values": [_to_json(one) for one in plain(classes)]}


def from_json(data: Mapping[str, Any]) -> ClassArray:
    """Read what `to_json` gave.

    Raises:
        StateError: If it is something else.
    """
    try:
        dtype = np.dtype(str(data["dtype"]))
        values = [_from_json(one) for one in data["values"]]
        if dtype.kind in _KINDS and len(set(values)) == len(values) > 1:
            return _as_array(values, dtype)
        reason = f"{len(values)} values of dtype {dtype}"
    except (KeyError, TypeError, ValueError, OverflowError) as error:
        reason = str(error)
    raise StateError(f"the labels cannot be read: {reason}")


def _as_array(values: list[Any], dtype: Any) -> ClassArray:
    is_numpys = isinstance(dtype, np.dtype)
    if is_numpys and dtype.kind in "biufU":
        found = np.array(values, dtype)
    elif kind_of(values[0]) in ("strings", "booleans", "numbers") and not is_numpys:
        found = np.array(values)
    else:
        found = np.empty(0)
    if found.tolist() == values:
        return found
    # Tuples stay labels, and become no second axis; numpy's texts lose a null character at the end.
    array = np.empty(len(values), object)
    array[:] = values
    return array


def _is_hashable(value: object) -> bool:
    if not isinstance(value, Hashable):
        return False
    try:
        hash(value)
    except TypeError:  # a tuple of lists
        return False
    return True


def _to_json(value: Any) -> Any:
    if isinstance(value, tuple):
        return [_to_json(one) for one in value]
    if type(value) not in _PLAIN:
        raise LabelError(
            f"the label {value!r} is a {type(value).__name__}, which JSON cannot hold: fit with "
            "texts, numbers or tuples of these to save a classifier"
        )
    return value


def _from_json(value: Any) -> Any:
    if isinstance(value, list):
        return tuple(_from_json(one) for one in value)
    if type(value) not in _PLAIN:
        raise StateError(f"{value!r:.60} is no label")
    return value
