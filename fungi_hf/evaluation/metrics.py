"""Scores of predicted labels."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from fungi_hf.neighbors.labels import LabelArray
    from fungi_hf.types import Float64Array


def recall_per_class(truth: LabelArray, predicted: LabelArray) -> dict[str, float]:
    """Give the share of each true class's rows that got its label."""
    right = truth == predicted
    classes, codes = np.unique(truth, return_inverse=True)
    hits = np.bincount(codes, right, len(classes)) / np.bincount(codes)
    return {str(name): float(hit) for name, hit in zip(classes, hits, strict=True)}


def classification_metrics(
    truth: LabelArray, predicted: LabelArray, votes: Float64Array, classes: LabelArray
) -> dict[str, float]:
    """Give `accuracy`, `mean_per_class`, and `auc` where there are two classes.

    Args:
        truth: [N] labels; those not among the classes are always wrong.
        predicted: [N] labels.
        votes: [N, C] each class's share, in the order of the classes.
        classes: [C].

    Returns:
        Values in [0, 1]. `mean_per_class` averages recall over the classes of the truth.
    """
    values = {
        "accuracy": float(np.mean(truth == predicted)),
        "mean_per_class": float(np.mean(list(recall_per_class(truth, predicted).values()))),
    }
    if len(classes) == 2 and np.array_equal(np.unique(truth), classes):
        values["auc"] = area_under_curve(truth == classes[1], votes[:, 1])
    return values


def area_under_curve(
    positive: np.ndarray[tuple[int], np.dtype[np.bool_]], scores: Float64Array
) -> float:
    """Give the share of (positive, negative) pairs ordered rightly, ties counting half.

    Args:
        positive: [N], with both values present.
        scores: [N], larger for positives.
    """
    _, places, counts = np.unique(scores, return_inverse=True, return_counts=True)
    ranks = (np.cumsum(counts) - (counts - 1) / 2)[places]
    n_positive = int(positive.sum())
    n_pairs = n_positive * (len(positive) - n_positive)
    return float((ranks[positive].sum() - n_positive * (n_positive + 1) / 2) / n_pairs)
