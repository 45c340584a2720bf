"""kNN over features: every combination of blocks from one extraction, full and few-shot."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from fungi_hf.seeding import numpy_generator

if TYPE_CHECKING:
    from collections.abc import Sequence

N_NEIGHBORS = 20


def accuracies(
    train: dict[str, np.ndarray],
    test: dict[str, np.ndarray],
    y_train: np.ndarray,
    y_test: np.ndarray,
    combinations: Sequence[Sequence[str]],
    *,
    shots: int = 5,
    draws: int = 5,
    seed: int = 0,
) -> dict[str, Any]:
    """Give kNN accuracy (k = 20, cosine sums, majority vote, ties to the smallest label).

    Args:
        train: Block name -> [N, width] unit rows.
        test: The same for the test rows.
        y_train: [N] labels.
        y_test: Labels of the test rows.
        combinations: Block names to sum.
        shots: Training rows per class in the few-shot runs.
        draws: Few-shot draws; mean and standard deviation are reported.
        seed: Of the draws.

    Returns:
        "a+b" -> {"full", "few_mean", "few_sd", "few"}.
    """
    picks = [_draw(y_train, shots, seed, draw) for draw in range(draws)]
    sums = {tuple(c): np.zeros((len(y_test), len(y_train)), np.float32) for c in combinations}
    for name in {name for c in combinations for name in c}:
        similarity = test[name] @ train[name].T
        for combination, total in sums.items():
            if name in combination:
                total += similarity
    result = {}
    for combination, total in sums.items():
        few = [float((_vote(total[:, pick], y_train[pick]) == y_test).mean()) for pick in picks]
        result["+".join(combination)] = {
            "full": float((_vote(total, y_train) == y_test).mean()),
            "few_mean": float(np.mean(few)),
            "few_sd": float(np.std(few, ddof=1)),
            "few": few,
        }
    return result


def leave_one_out(
    train: dict[str, np.ndarray], y: np.ndarray, combinations: Sequence[Sequence[str]]
) -> dict[str, float]:
    """Give leave-one-out kNN accuracy on the training rows alone."""
    sums = {tuple(c): np.zeros((len(y), len(y)), np.float32) for c in combinations}
    for name in {name for c in combinations for name in c}:
        similarity = train[name] @ train[name].T
        for combination, total in sums.items():
            if name in combination:
                total += similarity
    for total in sums.values():
        np.fill_diagonal(total, -np.inf)
    return {"+".join(c): float((_vote(total, y) == y).mean()) for c, total in sums.items()}


def _vote(similarity: np.ndarray, labels: np.ndarray) -> np.ndarray:
    k = min(N_NEIGHBORS, similarity.shape[1])
    nearest = np.argpartition(-similarity, k - 1, axis=1)[:, :k]
    votes = np.zeros((len(similarity), int(labels.max()) + 1), np.int32)
    np.add.at(votes, (np.arange(len(similarity))[:, None], labels[nearest]), 1)
    return votes.argmax(1)


def _draw(labels: np.ndarray, shots: int, seed: int, draw: int) -> np.ndarray:
    generator = numpy_generator(seed, "few-shot", str(draw))
    rows = [
        generator.choice(np.flatnonzero(labels == label), shots, replace=False)
        for label in np.unique(labels)
    ]
    return np.sort(np.concatenate(rows))
