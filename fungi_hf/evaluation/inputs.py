"""Features and labels at the border of the evaluation: blocks with names, rows with labels."""

from __future__ import annotations

import itertools
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias, runtime_checkable

import numpy as np
import numpy.typing as npt

from fungi_hf.checks import check_known
from fungi_hf.errors import FeatureError, InputError, InputTypeError, ShapeError
from fungi_hf.neighbors.labels import check_kinds, encode_labels, read_labels
from fungi_hf.neighbors.vectors import check_fingerprint, read_rows
from fungi_hf.types import Features

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from fungi_hf.errors import FungiError
    from fungi_hf.neighbors.labels import LabelArray, Labels
    from fungi_hf.neighbors.vectors import Rows
    from fungi_hf.types import Float32Array, Int64Array, Layout

Combination: TypeAlias = tuple[str, ...]
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
    """Checked features [N, F] with one label a row, an integer or a string; 0 without labels."""

    rows: Rows
    layout: Layout
    labels: LabelArray

    def __len__(self) -> int:
        return len(self.rows)

    def subset(self, some: Int64Array) -> LabelledRows:
        """Give some rows, copied."""
        rows = replace(self.rows, array=self.rows.array[some], norms=self.rows.norms[some])
        return replace(self, rows=rows, labels=self.labels[some])

    def take(self, combination: Combination) -> Float32Array:
        """Give the columns of some blocks, copied."""
        parts = [self.rows.array[:, self.layout[name]] for name in combination]
        return np.concatenate(parts, axis=1, dtype=np.float32)


Sides: TypeAlias = tuple[LabelledRows, LabelledRows]  # to learn from, to judge


def read_sides(
    train: FeatureInput, train_labels: Labels, test: FeatureInput, test_labels: Labels
) -> tuple[LabelledRows, LabelledRows, tuple[str, ...]]:
    """Check training and test rows; give both, and a note about labels unseen in training."""
    known = read_labelled(train, train_labels, "train")
    judged = read_labelled(test, test_labels, "test")
    check_pair(known, judged)
    encode_labels(known.labels, "train labels")  # refuses a single class
    return known, judged, unseen_note(known.labels, judged.labels)


def read_labelled(features: FeatureInput, labels: Labels, name: str) -> LabelledRows:
    """Check features, as `read_blocks` does, and their labels, one a row.

    Raises:
        InputError: If there are no rows.
    """
    found = read_blocks(features, name)
    if not len(found):
        raise InputError(f"{name} has 0 rows; an evaluation needs at least 1")
    return replace(found, labels=read_labels(labels, f"{name} labels", len(found)))


def read_blocks(features: FeatureInput, name: str) -> LabelledRows:
    """Check features [N, F] without labels; a plain array is one block called "features".

    Float arrays are not copied. Messages call the features by the name.

    Raises:
        FeatureError: If the layout does not fit the columns.
    """
    rows = read_rows(features, name)
    whole = {"features": slice(0, rows.width)}
    layout = features.layout if isinstance(features, BlockFeatures) else whole
    if not layout:
        raise FeatureError(f"{name} has an empty layout; it must name at least one block")
    for block, columns in layout.items():
        if columns.step not in (None, 1) or not 0 <= columns.start < columns.stop <= rows.width:
            raise FeatureError(
                f"{name}: block {block!r} has the columns {columns.start} to {columns.stop}; "
                f"there are {rows.width}"
            )
    return LabelledRows(rows=rows, layout=dict(layout), labels=np.zeros(len(rows), np.int64))


def listed(
    what: str, given: object, of: str, error: type[FungiError] = InputTypeError
) -> list[Any]:
    """Give the members of a sequence `of` something; a text is none, "`what` 'a'" the error."""
    if isinstance(given, str) or not isinstance(given, Iterable):
        raise error(f"{what} {given!r} ({type(given).__name__}); give a sequence of {of}")
    return list(given)


def check_pair(
    first: LabelledRows, second: LabelledRows, names: tuple[str, str] = ("train", "test features")
) -> None:
    """Refuse rows that do not belong together.

    Raises:
        ShapeError: If widths or layouts differ.
    """
    if first.rows.width != second.rows.width or first.layout != second.layout:
        raise ShapeError(
            f"the columns of {names[0]} and {names[1]} differ: {first.rows.width} in "
            f"{_shown(first.layout)}; {second.rows.width} in {_shown(second.layout)}"
        )
    check_fingerprint(first.rows.fingerprint, second.rows.fingerprint, names[1])


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


def choose_combinations(
    layout: Mapping[str, slice], wanted: Sequence[Sequence[str]] | None
) -> list[Combination]:
    """Give the distinct block combinations to evaluate, each in the layout's order.

    Wanted are sequences of block names; None takes every combination, smaller ones first.

    Raises:
        FeatureError: If a block is unknown, or there are too many blocks for all combinations.
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
    chosen: dict[Combination, None] = {}
    for some in listed("combinations are", wanted, "sequences of block names"):
        given = listed("a combination is", some, "block names")
        check_known("the layout", given, names, noun="block", error=FeatureError)
        chosen[tuple(name for name in names if name in given)] = None
    chosen.pop((), None)
    if not chosen:
        raise FeatureError(f"no combination was named; blocks: {_shown(layout)}")
    return list(chosen)


def _shown(layout: Mapping[str, slice]) -> str:
    return ", ".join(f"{name} [{part.start}:{part.stop}]" for name, part in layout.items())
