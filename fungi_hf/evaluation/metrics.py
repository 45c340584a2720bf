"""Scores of predicted labels."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from fungi_hf.evaluation.protocols import need

if TYPE_CHECKING:
    import numpy.typing as npt

    from fungi_hf.neighbors.labels import LabelArray
    from fungi_hf.types import Float64Array


def recall_per_class(truth: LabelArray, right: npt.ArrayLike) -> dict[str, float]:
    """Give the mean outcome of each true class's rows.

    Not scikit-learn's `recall_score`: outcomes may be means over draws.

    Args:
        truth: [N] labels.
        right: [N] 1 where a row got its label.
    """
    classes, codes = np.unique(truth, return_inverse=True)
    shares = np.bincount(codes, right) / np.bincount(codes)
    return dict(zip(map(str, classes), shares.tolist(), strict=True))


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
    right = truth == predicted
    values = {
        "accuracy": float(right.mean()),
        "mean_per_class": float(np.mean(list(recall_per_class(truth, right).values()))),
    }
    if len(classes) == 2 and np.array_equal(np.unique(truth), classes):
        score = need("sklearn.metrics").roc_auc_score
        values["auc"] = float(score(truth == classes[1], votes[:, 1]))
    return values
