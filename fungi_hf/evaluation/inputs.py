"""Features and labels at the border of the evaluation: blocks with names, rows with labels."""

from __future__ import annotations

import itertools
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol, TypeAlias, runtime_checkable

import numpy as np
import numpy.typing as npt

from fungi_hf.errors import (
    FeatureError,
    InputError,
    InputTypeError,
    LabelError,
    ShapeError,
    choices,
)
from fungi_hf.neighbors.labels import read_labels
from fungi_hf.neighbors.vectors import Rows, check_fingerprint, read_rows
from fungi_hf.types import Features

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from fungi_hf.neighbors.labels import LabelArray, Labels
    from fungi_hf.types import Float32Array, Int64Array, Layout

Combination: TypeAlias = tuple[str, ...]
WHOLE = "features"  # the name of the only block of a plain array
MOST_BLOCKS = 8  # 255 combinations


@runtime_checkable
class BlockFeatures(Features, Protocol):
    """Features whose columns have names."""

    @property
    def layout(self) -> Layout:
        """Ordered block name -> slice of the columns."""


FeatureInput: TypeAlias = BlockFeatures | Features | npt.ArrayLike


@dataclass(frozen=True, slots=True, kw_only=True)
class LabelledRows:
    """Checked features with one label a row.

    Attributes:
        rows: [N, F].
        layout: Ordered block name -> slice of the columns.
        labels: [N] integers or strings.
    """

    rows: Rows
    layout: Layout
    labels: LabelArray

    def __len__(self) -> int:
        """Number of rows."""
        return len(self.rows)

    def columns(self, combination: Combination) -> Int64Array:
        """Give the column numbers of some blocks, in the order of the combination."""
        width = self.rows.width
        return np.concatenate([np.arange(width)[self.layout[name]] for name in combination])

    def subset(self, some: Int64Array) -> LabelledRows:
        """Give some rows, copied."""
        rows = Rows(
            array=self.rows.array[some],
            norms=self.rows.norms[some],
            fingerprint=self.rows.fingerprint,
        )
        return LabelledRows(rows=rows, layout=self.layout, labels=self.labels[some])

    def take(
        self, combination: Combination, some: Int64Array | slice = slice(None)
    ) -> Float32Array:
        """Give the columns of some blocks of some rows, copied."""
        rows = self.rows.array[some]
        parts = [rows[:, self.layout[name]] for name in combination]
        return np.concatenate(parts, axis=1, dtype=np.float32)


def read_labelled(features: FeatureInput, labels: Labels, name: str) -> LabelledRows:
    """Check features and their labels.

    Args:
        features: [N, F] features with a layout, or an array (one block called "features").
        labels: N integers or strings.
        name: What the caller calls them, for messages.

    Returns:
        Checked rows; float arrays are not copied.

    Raises:
        InputError: If there are no rows.
    """
    rows, layout = read_blocks(features, name)
    if not len(rows):
        raise InputError(f"{name} has 0 rows; an evaluation needs at least 1")
    checked = read_labels(labels, f"{name} labels", len(rows))
    return LabelledRows(rows=rows, layout=layout, labels=checked)


def read_blocks(features: FeatureInput, name: str) -> tuple[Rows, Layout]:
    """Check features without labels.

    Args:
        features: [N, F] features with a layout, or an array (one block called "features").
        name: What the caller calls them, for messages.

    Returns:
        Rows and layout.

    Raises:
        FeatureError: If the layout does not fit the columns.
    """
    rows = read_rows(features, name)
    layout = (
        features.layout if isinstance(features, BlockFeatures) else {WHOLE: slice(0, rows.width)}
    )
    if not layout:
        raise FeatureError(f"{name} has an empty layout; it must name at least one block")
    for block, columns in layout.items():
        if columns.step not in (None, 1) or not 0 <= columns.start < columns.stop <= rows.width:
            raise FeatureError(
                f"{name}: block {block!r} has the columns {columns.start} to {columns.stop}; "
                f"there are {rows.width}"
            )
    if len(layout) > 1 and getattr(features, "factors", None):
        raise FeatureError(
            f"{name} holds exact factors, whose columns have no dot product; "
            "extract with a sketch, or drop those blocks with select(...)"
        )
    return rows, dict(layout)


def expect(value: object, kind: type, name: str) -> None:
    """Refuse an argument of another type.

    Raises:
        InputTypeError: If it is one.
    """
    if not isinstance(value, kind):
        raise InputTypeError(f"{name} is a {type(value).__name__}; it must be a {kind.__name__}")


def check_pair(train: LabelledRows, test: LabelledRows) -> None:
    """Refuse training and test rows that do not belong together.

    Raises:
        ShapeError: If widths or layouts differ.
    """
    if train.rows.width != test.rows.width or train.layout != test.layout:
        raise ShapeError(
            f"train has {train.rows.width} columns in {_shown(train.layout)}, "
            f"test has {test.rows.width} in {_shown(test.layout)}"
        )
    check_fingerprint(train.rows.fingerprint, test.rows.fingerprint, "test features")


def unseen_note(known: LabelArray, judged: LabelArray, name: str = "test") -> tuple[str, ...]:
    """Give a note about test or validation rows whose label no training row has."""
    check_kinds(known, judged, ("train", name))
    unseen = ~np.isin(judged, known)
    if not unseen.any():
        return ()
    names = ", ".join(map(str, np.unique(judged[unseen])[:10]))
    return (
        f"{int(unseen.sum())} {name} rows have labels unseen in training, always wrong: {names}",
    )


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


def choose_combinations(
    layout: Mapping[str, slice], wanted: Sequence[Sequence[str]] | None
) -> list[Combination]:
    """Give the block combinations to evaluate, smaller ones first.

    Args:
        layout: The blocks there are.
        wanted: Sequences of block names; None takes every combination.

    Returns:
        Distinct combinations, each in the layout's order.

    Raises:
        FeatureError: If a block is unknown, or there are too many blocks for all combinations.
        InputTypeError: If a combination is a single string, or not a sequence of strings.
    """
    names = list(layout)
    if wanted is None:
        if len(names) > MOST_BLOCKS:
            raise FeatureError(
                f"{len(names)} blocks have {2 ** len(names) - 1} combinations; "
                f"name the combinations to evaluate (all are taken up to {MOST_BLOCKS} blocks)"
            )
        sizes = range(1, len(names) + 1)
        return [some for size in sizes for some in itertools.combinations(names, size)]
    if isinstance(wanted, str) or not isinstance(wanted, Iterable):
        raise InputTypeError(f"combinations are {wanted!r}; give a sequence of sequences of names")
    chosen: list[Combination] = []
    for some in wanted:
        if isinstance(some, str) or not isinstance(some, Iterable):
            kind = "string" if isinstance(some, str) else type(some).__name__
            raise InputTypeError(
                f"combination {some!r} is a {kind}; give a sequence of block names"
            )
        given = list(some)
        missing = [name for name in given if name not in names]
        if missing:
            raise FeatureError(f"no block {choices(missing[0], layout)}")
        ordered = tuple(name for name in names if name in given)
        if ordered and ordered not in chosen:
            chosen.append(ordered)
    if not chosen:
        raise FeatureError(f"no combination was named; blocks: {_shown(layout)}")
    return chosen


def _shown(layout: Mapping[str, slice]) -> str:
    return ", ".join(f"{name} [{part.start}:{part.stop}]" for name, part in layout.items())
