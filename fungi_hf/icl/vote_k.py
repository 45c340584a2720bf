"""Which unlabelled rows to annotate first, so that they are near to much of the rest."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from fungi_hf.checks import check_integer, check_number
from fungi_hf.errors import DemoConfigError
from fungi_hf.icl.examples import feature_matrix
from fungi_hf.neighbors.exact import ExactIndex

if TYPE_CHECKING:
    import numpy.typing as npt

    from fungi_hf.types import Features, Int64Array


def vote_k_pool(
    features: npt.ArrayLike | Features, size: int, k: int = 150, rho: float = 10.0
) -> Int64Array:
    """Choose rows to annotate (Su et al. 2023, the variant without model confidences).

    Formula: an edge v -> u if u is among the k nearest of v by cosine. Again and again the
    unlabelled u with the largest sum over unlabelled v -> u of
    rho ** -(number of v's neighbours already taken) is taken, ties to the lowest row.

    Args:
        features: [N, F], as for `Examples`.
        size: Rows to take, 1 to N.
        k: Neighbours of each row, 1 to N - 1.
        rho: Discount of rows whose neighbours were taken, above 1.

    Returns:
        [size] pool rows, in the order taken.

    Raises:
        DemoConfigError: If size, k or rho is out of range.
    """
    matrix = feature_matrix(features)
    n = len(matrix)
    size = check_integer("size", size, error=DemoConfigError)
    k = check_integer("k", k, error=DemoConfigError)
    rho = check_number("rho", rho, 1, inclusive="neither", error=DemoConfigError)
    if size > n:
        raise DemoConfigError(f"size is {size}, the pool has {n} rows")
    if k > n - 1:
        raise DemoConfigError(f"k is {k}, but a row of a pool of {n} has {n - 1} neighbours")
    own = {row: np.array([row]) for row in range(n)}
    near = ExactIndex("cosine").fit(matrix).search(matrix, k, exclude=own).indices  # [N, k]
    return _take(near, size, rho)


def _take(near: Int64Array, size: int, rho: float) -> Int64Array:
    """Return rows in the order taken; sums are kept up to date, not added up again."""
    n, k = near.shape
    voters = np.argsort(near.ravel(), kind="stable") // k  # rows v, grouped by the u they point to
    starts = np.searchsorted(np.sort(near.ravel()), np.arange(n + 1))
    weights = np.ones(n)  # s(v); 0 once v is labelled
    sums = np.bincount(near.ravel(), minlength=n).astype(np.float64)
    free = np.ones(n, dtype=bool)
    taken = np.empty(size, np.int64)
    for step in range(size):
        row = int(np.where(free, np.round(sums, 9), -np.inf).argmax())
        taken[step] = row
        free[row] = False
        pointing = voters[starts[row] : starts[row + 1]]
        changed = np.append(pointing, row)
        lost = weights[changed] * (1 - 1 / rho)
        lost[-1] = weights[row]
        weights[changed] -= lost
        np.subtract.at(sums, near[changed].ravel(), np.repeat(lost, k))
    return taken
