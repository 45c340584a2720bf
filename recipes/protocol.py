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
        "a+b" -> {"full", "few_mean", "few_sd", "few"}, and the test rows "gained" and "lost"
        against the first combination.
    """
    picks = [_draw(y_train, shots, seed, draw) for draw in range(draws)]
    sums = _summed(test, train, combinations)
    result = {}
    first = None
    for combination, total in sums.items():
        right = _vote(total, y_train) == y_test
        first = right if first is None else first
        few = [float((_vote(total[:, pick], y_train[pick]) == y_test).mean()) for pick in picks]
        result["+".join(combination)] = {
            "full": float(right.mean()),
            "gained": int((right & ~first).sum()),
            "lost": int((first & ~right).sum()),
            "few_mean": float(np.mean(few)),
            "few_sd": float(np.std(few, ddof=1)),
            "few": few,
        }
    return result


def leave_one_out(
    train: dict[str, np.ndarray],
    queries: dict[str, np.ndarray],
    y: np.ndarray,
    combinations: Sequence[Sequence[str]],
) -> dict[str, float]:
    """Give leave-one-out kNN accuracy on the training rows alone.

    Args:
        train: Block name -> [N, width].
        queries: The same rows in query form.
        y: [N] labels.
        combinations: Block names to sum.

    Returns:
        "a+b" -> accuracy.
    """
    sums = _summed(queries, train, combinations)
    for similarity in sums.values():
        np.fill_diagonal(similarity, -np.inf)
    return {"+".join(c): float((_vote(total, y) == y).mean()) for c, total in sums.items()}


def euclidean(train: np.ndarray, test: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Give training, training-query and test-query rows whose dot products rank by distance.

    Formula: <[x, 1], [y, -|y|^2 / 2]> = (|x|^2 - |x - y|^2) / 2.
    """
    ones = (np.ones((len(rows), 1), np.float32) for rows in (train, test))
    lifted = np.concatenate([train, -0.5 * (train**2).sum(1, keepdims=True)], axis=1)
    return lifted, *(np.hstack([rows, one]) for rows, one in zip((train, test), ones, strict=True))


def _summed(
    queries: dict[str, np.ndarray],
    train: dict[str, np.ndarray],
    combinations: Sequence[Sequence[str]],
) -> dict[tuple[str, ...], np.ndarray]:
    n_queries, n_train = (len(next(iter(rows.values()))) for rows in (queries, train))
    sums = {tuple(c): np.zeros((n_queries, n_train), np.float32) for c in combinations}
    for name in {name for c in combinations for name in c}:
        similarity = queries[name] @ train[name].T
        for combination in sums:
            if name in combination:
                sums[combination] += similarity
    return sums


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
