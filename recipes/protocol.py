"""kNN over features: every combination of blocks from one extraction, full and few-shot."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from fungi_hf.evaluation.grams import combination_neighbors
from fungi_hf.features import make_layout
from fungi_hf.neighbors.classifier import vote
from fungi_hf.neighbors.shots import draw_few
from fungi_hf.neighbors.vectors import read_rows

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from fungi_hf.neighbors.base import Metric

    Blocks = Mapping[str, np.ndarray]
    Combination = tuple[str, ...]

N_NEIGHBORS = 20


def accuracies(
    train: Blocks,
    test: Blocks,
    y_train: np.ndarray,
    y_test: np.ndarray,
    combinations: Sequence[Sequence[str]],
    *,
    metric: Metric = "dot",
    shots: int = 5,
    draws: int = 5,
    seed: int = 0,
) -> dict[str, Any]:
    """Give kNN accuracy (k = 20, majority vote, ties to the smallest label).

    Args:
        train: Block name -> [N, width]; unit rows, so that a dot product sums the cosines.
        test: The same for the test rows.
        y_train: [N] labels.
        y_test: Labels of the test rows.
        combinations: Block names to concatenate.
        metric: Of the concatenation.
        shots: Training rows per class in the few-shot runs.
        draws: Few-shot draws; mean and standard deviation are reported.
        seed: Of the first draw; the next ones count on.

    Returns:
        "a+b" -> {"full", "few_mean", "few_sd", "few"}, and the test rows "gained" and "lost"
        against the first combination.
    """
    wanted = [tuple(c) for c in combinations]
    whole = _predict(train, test, y_train, wanted, metric)
    codes = np.unique(y_train, return_inverse=True)[1]
    picks = [draw_few(codes, shots, seed + draw) for draw in range(draws)]
    few = [
        _predict({n: rows[pick] for n, rows in train.items()}, test, y_train[pick], wanted, metric)
        for pick in picks
    ]
    first = whole[wanted[0]] == y_test
    result = {}
    for some in wanted:
        right = whole[some] == y_test
        shares = [float((drawn[some] == y_test).mean()) for drawn in few]
        result["+".join(some)] = {
            "full": float(right.mean()),
            "gained": int((right & ~first).sum()),
            "lost": int((first & ~right).sum()),
            "few_mean": float(np.mean(shares)),
            "few_sd": float(np.std(shares, ddof=1)),
            "few": shares,
        }
    return result


def leave_one_out(
    train: Blocks, y: np.ndarray, combinations: Sequence[Sequence[str]], *, metric: Metric = "dot"
) -> dict[str, float]:
    """Give leave-one-out kNN accuracy on the training rows alone.

    Args:
        train: Block name -> [N, width].
        y: [N] labels.
        combinations: Block names to concatenate.
        metric: Of the concatenation.

    Returns:
        "a+b" -> accuracy.
    """
    wanted = [tuple(c) for c in combinations]
    found = _predict(train, train, y, wanted, metric, itself=False)
    return {"+".join(some): float((found[some] == y).mean()) for some in wanted}


def predict(similarity: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Give the majority label of each row's most similar columns, ties to the smallest, [Q]."""
    k = min(N_NEIGHBORS, similarity.shape[1])
    nearest = np.argpartition(-similarity, k - 1, axis=1)[:, :k]
    return _majority(nearest, labels)


def _predict(
    train: Blocks,
    queries: Blocks,
    labels: np.ndarray,
    combinations: list[Combination],
    metric: Metric,
    *,
    itself: bool = True,
) -> dict[Combination, np.ndarray]:
    names = sorted({name for some in combinations for name in some})
    layout = make_layout({name: train[name].shape[1] for name in names})
    left, right = (
        read_rows(np.concatenate([rows[name] for name in names], axis=1), "rows")
        for rows in (train, queries)
    )
    found = combination_neighbors(
        left,
        right,
        layout,
        combinations,
        min(N_NEIGHBORS, len(left) - (not itself)),
        metric,
        None if itself else {row: [row] for row in range(len(left))},
    )
    return {some: _majority(neighbors.indices, labels) for some, neighbors in found.items()}


def _majority(nearest: np.ndarray, labels: np.ndarray) -> np.ndarray:
    classes, codes = np.unique(labels, return_inverse=True)
    near = codes[nearest]
    return classes[vote(near, np.ones(near.shape), len(classes))]
