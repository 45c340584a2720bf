"""Few-shot training sets, ours and the two rules of the published code, and validation splits."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import numpy as np

from fungi_hf.errors import LabelError
from fungi_hf.evaluation.protocols import need
from fungi_hf.neighbors.labels import encode_labels
from fungi_hf.neighbors.shots import draw_few
from fungi_hf.seeding import numpy_generator

if TYPE_CHECKING:
    from fungi_hf.neighbors.labels import LabelArray
    from fungi_hf.types import Int64Array

Sampling = Literal["balanced", "first", "proportional"]


def draw_shots(labels: LabelArray, n_shots: int, sampling: Sampling, seed: int) -> Int64Array:
    """Give the rows of a few-shot training set, ascending.

    Args:
        labels: [N].
        n_shots: Rows a class; this and what follows as a `KNNProtocol` has checked it.
        sampling: `balanced`: n random rows of each class, see `draw_few`. `first`: the first
            n of each class in file order (published for images). `proportional`: n x classes rows
            in proportion to the classes' sizes, by StratifiedShuffleSplit (published for text).
        seed: Of the draw; `first` uses none.

    Raises:
        LabelError: If a class is too small.
    """
    classes, codes = encode_labels(labels, "train labels")
    if sampling == "proportional":
        return _proportional(codes, n_shots, len(classes), seed)
    counts = np.bincount(codes)
    small = np.flatnonzero(counts < n_shots)
    if len(small):
        shown = ", ".join(f"{classes[i]!s} ({counts[i]})" for i in small[:10])
        raise LabelError(
            f"{n_shots}-shot needs {n_shots} rows of each class; {len(small)} of {len(classes)} "
            f"classes have fewer: {shown}"
        )
    if sampling == "balanced":
        return draw_few(codes, n_shots, seed)
    first = [np.flatnonzero(codes == code)[:n_shots] for code in range(len(classes))]
    return np.sort(np.concatenate(first))


def split_validation(labels: LabelArray, share: float, seed: int) -> tuple[Int64Array, Int64Array]:
    """Give (training rows, validation rows) of a seeded, stratified split.

    Each class of at least two rows gives round(share x rows) of them, at least one, to the
    validation; a class of one row, which scikit-learn's splits refuse, stays in the training part.

    Args:
        labels: [N].
        share: Of the validation part, in (0, 1).
        seed: Of the split.

    Raises:
        LabelError: If no class has two rows.
    """
    _, codes = encode_labels(labels, "train labels")
    generator = numpy_generator(seed, "evaluation", "validation")
    held = []
    for code in range(int(codes.max()) + 1):
        rows = generator.permutation(np.flatnonzero(codes == code))
        if len(rows) > 1:
            held.append(rows[: min(len(rows) - 1, max(1, round(share * len(rows))))])
    if not held:
        raise LabelError("no class has two rows, so none can be held out to choose by")
    validation = np.sort(np.concatenate(held))
    return np.setdiff1d(np.arange(len(codes)), validation), validation


def _proportional(codes: Int64Array, n_shots: int, n_classes: int, seed: int) -> Int64Array:
    size = n_shots * n_classes
    smallest = int(np.bincount(codes).min())
    if size > len(codes) - n_classes or smallest < 2:
        raise LabelError(
            f"proportional {n_shots}-shot takes {size} of {len(codes)} rows and leaves at least "
            f"one of each of {n_classes} classes, each of which needs 2 (smallest: {smallest})"
        )
    splitter = need("sklearn.model_selection").StratifiedShuffleSplit(
        n_splits=1, train_size=size, random_state=seed
    )
    chosen, _ = next(splitter.split(np.zeros((len(codes), 1)), codes))
    return np.sort(chosen)
