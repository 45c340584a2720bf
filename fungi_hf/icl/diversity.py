"""Greedy choices that trade nearness for difference: MMR, DPP, and which rows to annotate first.

Many queries advance one pick at a time together. Gains are rounded to 9 decimals and ties go to
the lowest pool row, as everywhere.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from fungi_hf.checks import check_integer, check_number
from fungi_hf.errors import DemoConfigError
from fungi_hf.icl.examples import feature_matrix
from fungi_hf.icl.picking import already_held, pick, taken
from fungi_hf.icl.rankings import QueryRows
from fungi_hf.icl.strategies import MMR
from fungi_hf.neighbors.exact import ExactIndex

if TYPE_CHECKING:
    import numpy.typing as npt

    from fungi_hf.icl.picking import Quota
    from fungi_hf.icl.rankings import DenseRanking, Rows, Scores
    from fungi_hf.icl.strategies import DPP
    from fungi_hf.types import Features

_NUMBERS = 1 << 22  # numbers gathered at once: 32 MB as float64
_FEW = 256  # candidates whose products are too small to be worth a second BLAS thread
_SQUARE, _ONE_THREAD = 64, 1 << 18  # rows of A A^T, multiplications of A B on one BLAS thread
_LEAST_GAIN = float(np.log(1e-10))  # under it the ranking decides
_NOISE = 1e-12  # a conditional variance below this is rounding noise


class _Relevance:
    """MMR: relevance less the largest similarity to a chosen row; below `least` rank decides."""

    least = -np.inf

    def __init__(self, near: Scores, alike: Scores, lam: float) -> None:
        self._near, self._alike, self._lam = near, alike, lam
        self._closest: Scores | None = None

    def values(self) -> Scores:
        """Give the gains, [b, C]."""
        if self._closest is None:  # the nearest row first, whatever lam is
            return np.full(self._near.shape, -np.inf)
        return self._lam * self._near - (1 - self._lam) * self._closest

    def add(self, picked: Rows) -> None:
        """Take in the picks [b]."""
        similar = self._alike[np.arange(len(picked)), picked]
        self._closest = similar if self._closest is None else np.maximum(self._closest, similar)


class _LogVolume:
    """DPP: gain in log determinant, by Cholesky updates of the kernel without relevance.

    The relevance factors out of the determinant, so it is added as a logarithm; the update works
    on entries of at most 1 and keeps its precision for any scale.
    """

    least = _LEAST_GAIN

    def __init__(self, near: Scores, alike: Scores, scale: float, steps: int) -> None:
        similarity = (1 + near) / 2
        self._kernel = (1 + alike) / 2
        self._log_relevance = (similarity - similarity.max(axis=1, keepdims=True)) / scale
        self._left = np.diagonal(self._kernel, axis1=1, axis2=2).copy()  # conditional variances
        self._factors = np.zeros((len(near), steps, near.shape[1]))  # Cholesky rows
        self._step = 0

    def values(self) -> Scores:
        gains = np.full(self._left.shape, -np.inf)
        np.log(self._left, where=self._left > 0, out=gains)
        return gains + self._log_relevance

    def add(self, picked: Rows) -> None:
        queries = np.arange(len(picked))
        before = self._factors[:, : self._step]  # [b, s, C]
        own = np.take_along_axis(before, picked[:, None, None], axis=2)  # [b, s, 1]
        left = self._left[queries, picked]
        rest = self._kernel[queries, picked] - (own.transpose(0, 2, 1) @ before)[:, 0]
        with np.errstate(divide="ignore", invalid="ignore"):
            factor = rest / np.sqrt(left)[:, None]
        factor[~(left > _NOISE)] = 0  # picked by rank: it spans nothing new
        self._factors[:, self._step] = factor
        self._left -= factor**2
        self._left[queries, picked] = 0
        self._step += 1


def pick_diverse(
    ranker: DenseRanking, options: MMR | DPP, asked: QueryRows, quota: Quota
) -> tuple[Rows, Scores]:
    """Choose k rows for each query, [n, k], among its nearest candidates by a cosine ranking.

    Where a cap leaves too few candidates, the rest comes from further down the ranking. Rows stand
    in rank order, with their cosines; they are -1 where the ranking ran out.
    """
    n_candidates = min(options.candidates, ranker.n_rows)
    rows = np.full((len(asked.rows), quota.k), -1, np.int64)
    scores = np.full((len(asked.rows), quota.k), -np.inf)
    step = max(1, _NUMBERS // (n_candidates * (n_candidates + quota.k)))
    found, values = ranker.search(asked, n_candidates)
    for start in range(0, len(asked.rows), step):
        part = slice(start, start + step)
        own = replace(quota, held=quota.held[part])
        places = _places(ranker, options, asked.only(part), found[part], own)
        places.sort(axis=1)  # ranks, so nearest first; -1 comes first and is moved
        places = np.take_along_axis(places, np.argsort(places < 0, axis=1, kind="stable"), 1)
        rows[part] = taken(found[part], places, -1)
        scores[part] = taken(values[part], places, -np.inf)
    for query in np.flatnonzero((rows < 0).any(axis=1)):
        own_rows = rows[query][rows[query] >= 0]
        row, n = int(asked.rows[query]), len(own_rows)
        exclude = {row: np.union1d(asked.exclude.get(row, own_rows[:0]), own_rows)}
        held = np.concatenate([quota.held[query], own_rows])[None]
        one = QueryRows(asked.examples, asked.rows[[query]], exclude)
        more, more_scores = pick(ranker, one, replace(quota, k=quota.k - n, held=held))
        rows[query, n:], scores[query, n:] = more[0], more_scores[0]
    return rows, scores


def _places(
    ranker: DenseRanking, options: MMR | DPP, asked: QueryRows, found: Rows, quota: Quota
) -> Rows:
    """Return places among the candidates [b, k], in the order of picking."""
    near = np.empty(found.shape)
    alike = np.empty((*found.shape, found.shape[1]))  # [b, C, C]
    for position, query in enumerate(ranker.query_units(asked)):
        # One at a time: the rows stay in the cache.
        vectors = ranker.units(np.maximum(found[position], 0))  # [C, F]
        near[position] = vectors @ query
        alike[position] = _products(vectors)
    near[found < 0] = -1
    gain: _Relevance | _LogVolume
    if isinstance(options, MMR):
        gain = _Relevance(near, alike, options.lam)
    else:
        gain = _LogVolume(near, alike, options.scale, quota.k)
    free = found >= 0
    codes = None if quota.codes is None or quota.cap is None else quota.codes[found]
    taken = np.zeros(found.shape, np.int64)
    if codes is not None and quota.codes is not None:
        taken += already_held(quota.codes, codes, quota.held)
    places = np.full((len(found), quota.k), -1, np.int64)
    everyone = np.arange(len(found))
    for step in range(quota.k):
        eligible = free if quota.cap is None else free & (taken < quota.cap)
        picked = _best(gain, found, eligible)
        alive = eligible[everyone, picked]
        places[alive, step] = picked[alive]
        free[everyone, picked] = False
        if codes is not None:
            taken += (codes == codes[everyone, picked][:, None]) & alive[:, None]
        gain.add(picked)
    return places


def _products(vectors: Scores) -> Scores:
    """Return all products of rows, [C, C], in parts that OpenBLAS leaves on the calling thread.

    Thousands of products of some 0.2 ms would else wait for a second thread each time.
    """
    n, width = vectors.shape
    tall = -(-n // -(-n // _SQUARE))
    wide = _ONE_THREAD // (tall * width)
    if n > _FEW or wide < 4:
        return vectors @ vectors.T
    products = np.empty((n, n))
    for start in range(0, n, tall):
        own = slice(start, start + tall)
        products[own, own] = vectors[own] @ vectors[own].T
        for first in range(0, start, wide):
            other = slice(first, min(first + wide, start))
            products[own, other] = vectors[own] @ vectors[other].T
    for start in range(tall, n, tall):
        products[:start, start : start + tall] = products[start : start + tall, :start].T
    return products


def _best(gain: _Relevance | _LogVolume, rows: Rows, eligible: np.ndarray) -> Rows:
    """Return the eligible place of the largest gain, ties to the lowest row; else by rank."""
    open_gains = np.where(eligible, np.round(gain.values(), 9), -np.inf)
    largest = open_gains.max(axis=1, keepdims=True)
    tied = np.where(eligible & (open_gains == largest), rows, np.iinfo(np.int64).max)
    by_rank = eligible.argmax(axis=1)
    decided = (largest[:, 0] > -np.inf) & (largest[:, 0] >= gain.least)
    return np.where(decided, tied.argmin(axis=1), by_rank)


def vote_k_pool(
    features: npt.ArrayLike | Features, size: int, k: int = 150, rho: float = 10.0
) -> Rows:
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


def _take(near: Rows, size: int, rho: float) -> Rows:
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
