"""Which training rows vote: all of them, or a seeded, stratified draw of bounded size."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from fungi_hf.errors import InputError, LabelError
from fungi_hf.neighbors.labels import encode_labels
from fungi_hf.seeding import numpy_generator

if TYPE_CHECKING:
    from fungi_hf.neighbors.labels import LabelArray, Labels
    from fungi_hf.types import Int64Array


def draw_rows(codes: Int64Array, most: int, seed: int) -> Int64Array:
    """Draw about `most` rows of N class numbers, each class in proportion to its size, ascending.

    Each class keeps two rows if it has them, beyond `most`: one alone is never classified rightly.
    """
    if len(codes) <= most:
        return np.arange(len(codes))
    generator = numpy_generator(seed, "tuning", "rows")
    taken = []
    for code in range(int(codes.max()) + 1):
        rows = generator.permutation(np.flatnonzero(codes == code))
        taken.append(rows[: max(2, round(most * len(rows) / len(codes)))])
    return np.sort(np.concatenate(taken))


def check_votes(codes: Int64Array, groups: Int64Array) -> None:
    """Refuse rows of which none has a row of its class in another group.

    Raises:
        InputError: Since leaving groups out then says nothing.
    """
    pairs = np.unique(np.stack([codes, groups]), axis=1)  # of class and group
    if np.bincount(pairs[0]).max() < 2:
        raise InputError(
            "no class has rows of two groups, so that no row could be classified rightly by rows "
            "of other groups; give finer groups, or none"
        )


def read_groups(groups: Labels | None, n_rows: int) -> tuple[Int64Array, int]:
    """Give group numbers [N], one a row without groups, and how many groups were named.

    Raises:
        LabelError: If all rows are of one group, which leaves no neighbours.
    """
    if groups is None:
        return np.arange(n_rows), 0
    try:
        names, numbers = encode_labels(groups, "groups", n_rows)
    except LabelError as error:
        raise LabelError(
            f"{error}; groups are integers or strings, rows of one group (a speaker, a source) "
            "never vote for each other"
        ) from None
    return numbers, len(names)


def read_classes(labels: Labels, n_rows: int) -> tuple[LabelArray, Int64Array]:
    """Give classes and class numbers [N].

    Raises:
        InputError: If no class has two rows, so that leaving one out says nothing.
    """
    classes, codes = encode_labels(labels, "labels", n_rows)
    if np.bincount(codes).max() < 2:
        raise InputError(
            f"{len(classes)} classes have one row each; tuning classifies each row by the others "
            "and needs a class with at least 2 rows"
        )
    return classes, codes
