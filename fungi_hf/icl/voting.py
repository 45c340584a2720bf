"""Votes over the labels of demonstrations: what k-NN alone would answer."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import numpy.typing as npt

VOTES = ("majority", "weighted", "reciprocal_rank")
_ROWS = 512  # queries per block, so that a block of [rows, L] counts stays small


def majority(codes: npt.NDArray[np.int64], n_labels: int) -> npt.NDArray[np.int64]:
    """Elect the most frequent label; ties go to the tied label whose nearest row ranks first.

    Args:
        codes: [n, k] labels in rank order, in [0, n_labels).
        n_labels: Number of labels.

    Returns:
        [n] labels.
    """
    winners = np.empty(len(codes), dtype=np.int64)
    for start in range(0, len(codes), _ROWS):
        part = codes[start : start + _ROWS]
        counts = _totals(part, np.ones(part.shape), n_labels)  # [b, L]
        own = np.take_along_axis(counts, part, axis=1)  # [b, k]: votes for the label at each rank
        best = own.argmax(axis=1)  # the first rank that reaches the maximum
        winners[start : start + _ROWS] = np.take_along_axis(part, best[:, None], axis=1)[:, 0]
    return winners


def weighted(
    codes: npt.NDArray[np.int64], weights: npt.NDArray[np.floating], n_labels: int
) -> npt.NDArray[np.int64]:
    """Elect the label with the largest sum of weights; ties go to the lowest label.

    Args:
        codes: [n, k] labels, in [0, n_labels).
        weights: [n, k], summed in float64 and rounded to 9 decimals.
        n_labels: Number of labels.

    Returns:
        [n] labels; a label without a row never wins.
    """
    winners = np.empty(len(codes), dtype=np.int64)
    for start in range(0, len(codes), _ROWS):
        part = codes[start : start + _ROWS]
        given = weights[start : start + _ROWS].astype(np.float64)
        totals = np.round(_totals(part, given, n_labels), 9)
        present = _totals(part, np.ones(part.shape), n_labels) > 0
        winners[start : start + _ROWS] = np.where(present, totals, -np.inf).argmax(axis=1)
    return winners


def _totals(
    codes: npt.NDArray[np.int64], weights: npt.NDArray[np.float64], n_labels: int
) -> npt.NDArray[np.float64]:
    rows = np.arange(len(codes))[:, None] * n_labels
    sums = np.bincount((rows + codes).ravel(), weights.ravel(), len(codes) * n_labels)
    return np.asarray(sums, dtype=np.float64).reshape(len(codes), n_labels)
