"""Labelled or unlabelled items: the one place where a user's inputs are checked.

Whatever leaves this module is a matrix of finite numbers, a tuple of contents, a tuple of
targets and a tuple of ids, all of one length.
"""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

from fungi_hf.errors import FeatureError, InputError, InputTypeError, LabelError
from fungi_hf.icl.audio import AudioClip
from fungi_hf.types import Features

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence, Sized

    import numpy.typing as npt

Content: TypeAlias = str | AudioClip
Target: TypeAlias = int | str | float | bool | tuple[str, ...]
RowId: TypeAlias = int | str


def first_of(rows: Iterable[int]) -> str:
    """Return at most ten row numbers as words, then a count."""
    listed = [int(row) for row in rows]
    more = f" and {len(listed) - 10} more" if len(listed) > 10 else ""
    return ", ".join(map(str, listed[:10])) + more


@dataclass(frozen=True, slots=True, eq=False)
class Examples:
    """Items to choose from, or to choose for; two of them are equal only if they are the same.

    Attributes:
        features: [N, F] numbers: an array, a tensor, nested lists, or anything with `.array` and
            `.fingerprint`. Never modified. May be absent for "bm25" and "random".
        contents: N texts or `AudioClip`s, kept verbatim.
        targets: N labels (ids or names; 0, False and "" are labels) or answers: a text, or a list
            of accepted texts, the first of which is shown in prompts.
        ids: N distinct ids, str or int. Only explicit ids are compared; row numbers are not ids.
        allow_empty: Accept texts that are empty or white space.
        fingerprint: Where the features come from, if they do not say so themselves; None for
            plain arrays.
        texts: The contents if every one is a text, else None.
        n_rows: How many items there are.
    """

    features: npt.NDArray[np.floating] | None = None
    contents: tuple[Content, ...] | None = None
    targets: tuple[Target, ...] | None = None
    ids: tuple[RowId, ...] | None = None
    allow_empty: bool = False
    fingerprint: str | None = None
    texts: tuple[str, ...] | None = field(default=None, init=False)
    n_rows: int = field(default=0, init=False)

    def __post_init__(self) -> None:
        if isinstance(self.features, Features):
            object.__setattr__(self, "fingerprint", str(self.features.fingerprint))
        checks: dict[str, Callable[[object], Sized]] = {
            "features": feature_matrix,
            "contents": functools.partial(_contents, allow_empty=self.allow_empty),
            "targets": checked_targets,
            "ids": _ids,
        }
        lengths = {}
        for name, check in checks.items():
            if getattr(self, name) is not None:
                checked = check(getattr(self, name))
                object.__setattr__(self, name, checked)
                lengths[name] = len(checked)
        if "features" not in lengths and "contents" not in lengths:
            raise InputError("Examples needs features or contents; both are missing")
        if len(set(lengths.values())) > 1:
            words = ", ".join(f"{name} {length}" for name, length in lengths.items())
            raise InputError(f"lengths differ: {words}; one row per item is needed")
        object.__setattr__(self, "n_rows", next(iter(lengths.values())))
        if not self.n_rows:
            raise InputError("Examples has 0 rows; at least one is needed")
        texts = tuple(content for content in self.contents or () if isinstance(content, str))
        if len(texts) == len(self.contents or ()) > 0:
            object.__setattr__(self, "texts", texts)

    def __len__(self) -> int:
        return self.n_rows

    def __repr__(self) -> str:
        width = "no features" if self.features is None else f"{self.features.shape[1]} features"
        given = [name for name in ("contents", "targets", "ids") if getattr(self, name) is not None]
        return f"Examples({len(self)} rows, {', '.join([width, *given])})"

    def key(self, row: int) -> bytes:
        """Return bytes that stand for what the row holds: its content, else its features."""
        content = None if self.contents is None else self.contents[row]
        if isinstance(content, str):
            return b"text:" + content.encode("utf-8", "surrogatepass")
        if isinstance(content, AudioClip):
            return b"clip:" + content.digest.encode()
        if self.features is None:
            return b""
        return b"vector:" + (self.features[row].astype("<f8") + 0.0).tobytes()

    def feed(self, digest: Any, rows: Iterable[int], *columns: Sequence[object] | None) -> None:
        """Add to a hash what some rows hold, and their values in columns as `targets` or `ids`."""
        for row in rows:
            digest.update(self.key(row))
            for column in columns:
                value = None if column is None else column[row]
                digest.update(repr(value).encode("utf-8", "backslashreplace"))

    def take(self, rows: Sequence[int] | npt.NDArray[np.integer]) -> Examples:
        """Return new Examples with the given rows, in that order.

        Raises:
            InputError: If a row is out of range.
        """
        chosen = [int(row) for row in rows]
        outside = [row for row in chosen if not 0 <= row < len(self)]
        if outside:
            raise InputError(f"rows {first_of(outside)} are outside 0..{len(self) - 1}")
        return replace(
            self,
            features=None if self.features is None else self.features[chosen],
            contents=None if self.contents is None else tuple(self.contents[r] for r in chosen),
            targets=None if self.targets is None else tuple(self.targets[r] for r in chosen),
            ids=None if self.ids is None else tuple(self.ids[r] for r in chosen),
        )


def label_codes(targets: tuple[Target, ...]) -> tuple[npt.NDArray[np.int64], list[Target]]:
    """Give a code per row, [N] int64 in [0, L), and the L distinct labels: numbers, then names."""
    distinct = list(dict.fromkeys(targets))
    numbers = [label for label in distinct if not isinstance(label, (str, tuple))]
    names = [label for label in distinct if isinstance(label, (str, tuple))]
    as_texts = functools.partial(sorted, key=lambda n: n if isinstance(n, tuple) else (n,))
    ordered: list[Target] = [*sorted(numbers), *as_texts(names)]
    index = {label: code for code, label in enumerate(ordered)}
    return np.array([index[target] for target in targets], dtype=np.int64), ordered


def feature_matrix(features: object) -> npt.NDArray[np.floating]:
    """Return finite numbers [N, F], float32 or float64, copied only if needed.

    Raises:
        FeatureError: If the input is not a numeric, finite, non-empty matrix.
    """
    array = _as_array(features)
    if array.ndim != 2:
        raise FeatureError(f"features have shape {array.shape}; a matrix [N, F] is needed")
    if array.dtype.kind not in "fiu":
        raise FeatureError(f"features are {array.dtype}; real numbers are needed")
    if not array.size:
        raise FeatureError(f"features have shape {array.shape}; at least 1 x 1 is needed")
    if array.dtype not in (np.float32, np.float64):
        array = array.astype(np.float32 if array.dtype == np.float16 else np.float64)
    bad = np.flatnonzero(~np.isfinite(array).all(axis=1))
    if len(bad):
        raise FeatureError(
            f"features have {len(bad)} of {len(array)} rows with NaN or Inf, rows {first_of(bad)}"
        )
    return np.ascontiguousarray(array)


def _as_array(features: object) -> npt.NDArray[np.generic]:
    given: Any = features
    if isinstance(given, Features):
        given = given.array
    if hasattr(given, "detach"):  # a tensor, which may be on a device or have a gradient
        given = given.detach().cpu()
        given = (given.float() if str(given.dtype) == "torch.bfloat16" else given).numpy()
    try:
        return np.asarray(given)
    except ValueError:
        raise FeatureError("features have rows of different widths; a matrix is needed") from None


def as_list(
    values: object, name: str, kinds: tuple[type, ...] = (object, bool), allowed: str = ""
) -> list[Any]:
    """Return the values, each of one of some kinds, as a list of plain Python values.

    Raises:
        InputTypeError: If they are no list, or of another kind; a lone string or clip is a mistake.
    """
    listed = _plain_list(values, name)
    for row, value in enumerate(listed):
        if not isinstance(value, kinds) or (isinstance(value, bool) and bool not in kinds):
            raise InputTypeError(f"{name}[{row}] is {type(value).__name__}; {allowed}")
    return listed


def _plain_list(values: object, name: str) -> list[Any]:
    if isinstance(values, (str, bytes, AudioClip)):
        kind = "string" if isinstance(values, str) else type(values).__name__
        raise InputTypeError(f"{name} is one {kind}, pass a list")
    if isinstance(values, dict):
        raise InputTypeError(f"{name} is a dict, pass a list with one value per row")
    for method in ("to_pylist", "tolist"):
        if hasattr(values, method):
            listed = getattr(values, method)()
            return listed if isinstance(listed, list) else [listed]
    try:
        listed = list(values)  # type: ignore[call-overload]
    except TypeError:
        raise InputTypeError(f"{name} is {type(values).__name__}, pass a list") from None
    return [value.item() if isinstance(value, np.generic) else value for value in listed]


def _contents(values: object, *, allow_empty: bool) -> tuple[Content, ...]:
    allowed = "texts and AudioClips are allowed"
    contents = as_list(values, "contents", (str, AudioClip), allowed)
    empty = [row for row, v in enumerate(contents) if isinstance(v, str) and not v.strip()]
    if empty and not allow_empty:
        raise InputError(
            f"contents have {len(empty)} empty texts, rows {first_of(empty)}; "
            "pass allow_empty=True to keep them"
        )
    return tuple(contents)


def checked_targets(values: object, name: str = "targets") -> tuple[Target, ...]:
    """Return the labels as plain Python values; only None and NaN count as missing.

    Raises:
        LabelError: If labels are missing, or a list of accepted texts is empty.
    """
    kinds = (int, str, float, bool, type(None), list, tuple, np.ndarray)
    targets = as_list(values, name, kinds, "a label is an id or a text, an answer a text or texts")
    for row, value in enumerate(targets):
        if isinstance(value, (list, tuple, np.ndarray)):
            targets[row] = _accepted(value, f"{name}[{row}]")
    missing = [
        row
        for row, value in enumerate(targets)
        if value is None or (isinstance(value, float) and math.isnan(value))
    ]
    if missing:
        raise LabelError(f"{name} have {len(missing)} missing labels, rows {first_of(missing)}")
    return tuple(targets)


def _accepted(values: Iterable[Any], name: str) -> tuple[str, ...]:
    """Return the accepted texts of one row.

    Raises:
        InputTypeError: If one is no text.
        LabelError: If there is none.
    """
    texts = tuple(values)
    for text in texts:
        if not isinstance(text, str):
            raise InputTypeError(
                f"{name} is {type(values).__name__} with {type(text).__name__}; a label is an id "
                "or a text, an answer a text or texts"
            )
    if not texts:
        raise LabelError(
            f"{name} is an empty list; leave out rows without an answer, or give them a text as "
            "'unanswerable'"
        )
    return tuple(map(str, texts))


def _ids(values: object) -> tuple[RowId, ...]:
    ids = as_list(values, "ids", (int, str), "an id is an int or a text")
    seen: dict[RowId, int] = {}
    repeats = [(seen[i], row, i) for row, i in enumerate(ids) if seen.setdefault(i, row) != row]
    if repeats:
        shown = "; ".join(f"{i!r} in rows {a} and {b}" for a, b, i in repeats[:5])
        raise InputError(f"ids have {len(repeats)} repeats: {shown}")
    return tuple(ids)
