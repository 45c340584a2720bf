"""Deterministic top-k from blocks of a similarity matrix that is never whole in memory.

Order: scores rounded to 9 decimals, highest first, ties to the lowest row. Similarities may be
approximate (float32): every row that could belong to the answer is kept as a candidate, and the
candidates are scored again exactly before anything is decided.
"""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import repeat
from typing import TYPE_CHECKING, TypeAlias, TypeVar

import numpy as np
import numpy.typing as npt

from fungi_hf.errors import FeatureError, ShapeError
from fungi_hf.neighbors.base import check_count, check_exclusions

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from fungi_hf.neighbors.base import Exclusions
    from fungi_hf.neighbors.vectors import RealArray
    from fungi_hf.types import Float64Array, Int64Array

DECIMALS = 9
QUERY_ROWS, POOL_ROWS = 2048, 10240  # a float32 block of 80 MB: smaller products are slower
_PIECE_ROWS = 128  # queries whose candidates are sorted out together, by one thread
_MOST_THREADS = 8
_DENSE_NUMBERS = 1 << 22

Owners: TypeAlias = npt.NDArray[np.int16]  # query within a chunk; stable sorting is a radix sort
Skipped: TypeAlias = "tuple[Int64Array, Int64Array]"  # query row and pool row of each pair
Number = TypeVar("Number", bound=np.number)
SimilarityBlock: TypeAlias = "Callable[[slice, slice], RealArray]"


@dataclass(frozen=True, slots=True, kw_only=True)
class Refinement:
    """How to make up for approximate similarities.

    Attributes:
        margin: [Q] a row more than this below k others, by the approximate similarity, is
            certainly not among the k nearest by the exact one.
        rescore: (query rows [q], pool rows [q, w], how many of the w count [q]) -> exact scores
            [q, w], -inf for those that do not count.
    """

    margin: Float64Array
    rescore: Callable[[Int64Array, Int64Array, Int64Array], Float64Array]


def search_similarity(
    similarity: SimilarityBlock,
    n_pool: int,
    n_queries: int,
    k: int,
    *,
    exclude: Exclusions | None = None,
    refinement: Refinement | None = None,
) -> tuple[Int64Array, Float64Array]:
    """Find the k most similar pool rows of each query.

    Args:
        similarity: (slice of queries, slice of pool rows) -> [q, b] floats. Blocks are asked for
            in no promised order, one at a time. The result may be overwritten; its memory may be
            used again by the next call but one.
        n_pool: Number of pool rows.
        n_queries: Number of queries.
        k: 1 to n_pool.
        exclude: Query row -> pool rows that it may not get.
        refinement: For approximate similarities; without it they are taken as exact.

    Returns:
        [Q, k] rows and [Q, k] float64 scores, best first; -1 and -inf where exclusions leave
        fewer than k rows.

    Raises:
        FeatureError: If similarities are NaN.
        InputError: If k or an excluded row is out of range.
        InputTypeError: If k or an excluded row is not an integer.
    """
    k = check_count(k, "k", 1, n_pool, f" (rows in the index: {n_pool})")
    skipped = excluded_pairs(exclude, n_queries, n_pool)
    rows = np.full((n_queries, k), -1, np.int64)
    scores = np.full((n_queries, k), -np.inf)
    if refinement is None and sorts_all(k, n_pool):
        _sort_all(similarity, skipped, rows, scores, n_pool)
        return rows, scores
    chunks = [
        (chunk, [Candidates(part, k, skipped, refinement) for part in _cut(chunk, _PIECE_ROWS)])
        for chunk in _cut(slice(0, n_queries), QUERY_ROWS)
    ]

    def take(piece: Candidates, block: RealArray, pool: slice) -> None:
        piece.offer(block, pool)
        if pool.stop == n_pool:
            piece.finish(rows[piece.queries], scores[piece.queries])

    # All cores multiply a block, then all sort it out: a product whose cores have other work to do
    # waits for the slowest of them.
    with ThreadPoolExecutor(max_workers=_n_threads()) as workers:
        for pool in _cut(slice(0, n_pool), POOL_ROWS):
            for chunk, pieces in chunks:
                block = _checked(similarity(chunk, pool), chunk, pool)
                offsets = (piece.queries.start - chunk.start for piece in pieces)
                parts = [block[start : start + _PIECE_ROWS] for start in offsets]
                run = map if len(pieces) == 1 else workers.map
                list(run(take, pieces, parts, repeat(pool)))
    left = n_pool - np.bincount(skipped[0], minlength=n_queries)
    short = np.flatnonzero((rows >= 0).sum(1) < np.minimum(k, left))
    if len(short):
        raise FeatureError(f"similarities of query row {short[0]} are NaN")
    return rows, scores


def sorts_all(k: int, n_pool: int) -> bool:
    """Tell whether k is so large that sorting whole rows of exact scores is the faster way."""
    return 4 * k > n_pool


def _cut(rows: slice, size: int) -> Iterator[slice]:
    for start in range(rows.start, rows.stop, size):
        yield slice(start, min(start + size, rows.stop))


def _n_threads() -> int:
    if hasattr(os, "sched_getaffinity"):
        return min(len(os.sched_getaffinity(0)), _MOST_THREADS)
    return min(os.cpu_count() or 1, _MOST_THREADS)


class Candidates:
    """What may still belong to the answer of some queries, while blocks of the pool come in.

    Held as pairs, sorted by query and then by pool row.
    """

    def __init__(
        self, queries: slice, k: int, skipped: Skipped, refinement: Refinement | None
    ) -> None:
        """Begin without candidates.

        Args:
            queries: At most 32,767 query rows.
            k: 1 to the number of pool rows.
            skipped: Query row and pool row of each pair that is left out, sorted by query.
            refinement: For approximate similarities.
        """
        self.queries, self.k, self.refinement = queries, k, refinement
        self.skipped = _skipped_of(queries, skipped)
        n_queries = queries.stop - queries.start
        self.parts: list[tuple[Owners, Int64Array, RealArray]] = []
        self.n_pairs, self.limit = 0, n_queries * (3 * k + 32)
        self.floor = np.full(n_queries, -np.inf)  # k rows are known at or above it
        two_units = np.full(n_queries, 2 * 10.0**-DECIMALS)
        self.margin = two_units if refinement is None else refinement.margin[queries]

    def offer(self, block: RealArray, pool: slice) -> None:
        """Take in the similarities [q, b] to a slice of the pool; slices come in order."""
        block = self._without_skipped(block, pool)
        if pool.start == 0:
            self.floor = _kth_bound(block, self.k)
        # Rounded down to the block's precision, so that nothing is lost; may become -inf.
        with np.errstate(over="ignore"):
            bound = np.nextafter((self.floor - self.margin).astype(block.dtype), -np.inf)
        found = np.flatnonzero(block >= np.maximum(bound, np.finfo(block.dtype).min)[:, None])
        owners, columns = np.divmod(found, block.shape[1])
        self._append(owners.astype(np.int16), columns + pool.start, block.ravel()[found])
        if self.n_pairs > self.limit:
            self._tighten()
            if self.n_pairs > self.limit:  # many rows within the margin, e.g. duplicates
                self._cut()

    def finish(self, rows: Int64Array, scores: Float64Array) -> None:
        """Write the answer into [q, k] arrays of -1 and -inf."""
        if len(self.parts) > 1:
            self._tighten()
        order, exact, padded = self._ranked()
        best = np.take_along_axis(exact, order, axis=1)
        scores[:, : order.shape[1]] = best
        rows[:, : order.shape[1]] = np.where(
            best == -np.inf, -1, np.take_along_axis(padded, order, axis=1)
        )

    def _append(self, owners: Owners, rows: Int64Array, scores: RealArray) -> None:
        self.parts.append((owners, rows, scores))
        self.n_pairs += len(owners)

    def _pairs(self) -> tuple[Owners, Int64Array, RealArray]:
        """Give all pairs, sorted; parts come with ascending rows, so a stable sort will do."""
        owners, rows, scores = (np.concatenate(column) for column in zip(*self.parts, strict=True))
        if len(self.parts) > 1:
            order = np.argsort(owners, kind="stable")
            owners, rows, scores = owners[order], rows[order], scores[order]
            self.parts = [(owners, rows, scores)]
        return owners, rows, scores

    def _tighten(self) -> None:
        """Raise the floors by what is known and drop what fell below."""
        owners, _rows, scores = self._pairs()
        padded = self._padded(owners, scores, -np.inf)
        if padded.shape[1] >= self.k:
            kth = padded.shape[1] - self.k
            known = np.partition(padded, kth, axis=1)[:, kth]
            self.floor = np.maximum(self.floor, known)
        self._keep(scores >= (self.floor - self.margin)[owners])

    def _cut(self) -> None:
        """Score all pairs exactly and keep the best k of each query."""
        order, exact, _ = self._ranked()
        best = np.zeros(exact.shape, bool)
        np.put_along_axis(best, order, values=True, axis=1)
        owners = self._pairs()[0]
        self._keep(best[owners, _positions(owners, len(best))])

    def _keep(self, kept: npt.NDArray[np.bool_]) -> None:
        owners, rows, scores = self._pairs()
        self.parts = [(owners[kept], rows[kept], scores[kept])]
        self.n_pairs = int(np.count_nonzero(kept))

    def _ranked(self) -> tuple[Int64Array, Float64Array, Int64Array]:
        """Give, per query, the order of its k best candidates, exact scores, and pool rows."""
        owners, rows, scores = self._pairs()
        padded = self._padded(owners, rows, 0)
        if self.refinement is None:
            exact = self._padded(owners, scores.astype(np.float64), -np.inf)
        else:
            counts = np.bincount(owners, minlength=len(padded))
            queries = np.arange(self.queries.start, self.queries.stop)
            exact = self.refinement.rescore(queries, padded, counts)
        order = np.argsort(-np.round(exact, DECIMALS), axis=1, kind="stable")[:, : self.k]
        return order, exact, padded

    def _padded(
        self, owners: Owners, values: npt.NDArray[Number], fill: float
    ) -> npt.NDArray[Number]:
        """Give [q, most candidates], one query a row."""
        n_queries = len(self.floor)
        width = int(np.bincount(owners, minlength=n_queries).max())
        matrix = np.full((n_queries, width), fill, values.dtype)
        matrix[owners, _positions(owners, n_queries)] = values
        return matrix

    def _without_skipped(self, block: RealArray, pool: slice) -> RealArray:
        owners, rows = self.skipped
        hit = (rows >= pool.start) & (rows < pool.stop)
        if hit.any():
            block = block if block.flags.writeable else block.copy()
            block[owners[hit], rows[hit] - pool.start] = -np.inf
        return block


def _kth_bound(block: RealArray, k: int) -> Float64Array:
    """Give, per row, a value that at least k entries reach: the k-th of group maxima, [q]."""
    n_columns = block.shape[1]
    if n_columns < k:
        return np.full(len(block), -np.inf)
    n_groups = max(4 * k, 512)
    if n_groups * 2 > n_columns:
        maxima = block
    else:
        maxima = block[:, :n_groups].copy()
        for start in range(n_groups, n_columns, n_groups):
            part = block[:, start : start + n_groups]
            np.maximum(maxima[:, : part.shape[1]], part, out=maxima[:, : part.shape[1]])
    kth = maxima.shape[1] - k
    return np.partition(maxima, kth, axis=1)[:, kth].astype(np.float64)


def _sort_all(
    similarity: SimilarityBlock,
    skipped: Skipped,
    rows: Int64Array,
    scores: Float64Array,
    n_pool: int,
) -> None:
    """Fill rows and scores by sorting whole rows of the matrix, a few queries at a time.

    Raises:
        FeatureError: If similarities are NaN.
    """
    n_queries, k = rows.shape
    step = min(QUERY_ROWS, max(1, _DENSE_NUMBERS // n_pool))
    for start in range(0, n_queries, step):
        queries = slice(start, min(start + step, n_queries))
        full = np.empty((queries.stop - start, n_pool))
        for first in range(0, n_pool, POOL_ROWS):
            pool = slice(first, min(first + POOL_ROWS, n_pool))
            full[:, pool] = _checked(similarity(queries, pool), queries, pool)
        if np.isnan(full).any():
            bad = start + int(np.flatnonzero(np.isnan(full).any(1))[0])
            raise FeatureError(f"similarities of query row {bad} are NaN")
        owners, taken = _skipped_of(queries, skipped)
        full[owners, taken] = -np.inf
        order = np.argsort(-np.round(full, DECIMALS), axis=1, kind="stable")[:, :k]
        best = np.take_along_axis(full, order, axis=1)
        rows[queries] = np.where(best == -np.inf, -1, order)
        scores[queries] = best


def _checked(block: RealArray, queries: slice, pool: slice) -> RealArray:
    wanted = (queries.stop - queries.start, pool.stop - pool.start)
    if block.shape != wanted:
        raise ShapeError(f"the similarity function gave shape {block.shape} for a {wanted} block")
    return block


def _positions(owners: Owners, n_queries: int) -> Int64Array:
    """Give each pair's position among the pairs of its query; pairs are sorted by query."""
    counts = np.bincount(owners, minlength=n_queries)
    starts = np.cumsum(counts) - counts
    return np.arange(len(owners)) - np.repeat(starts, counts)


def excluded_pairs(exclude: Exclusions | None, n_queries: int, n_pool: int) -> Skipped:
    """Give (query rows, pool rows) of all excluded pairs, sorted by query, after checks."""
    skipped = check_exclusions(exclude, n_queries, n_pool)
    if not skipped:
        return np.empty(0, np.int64), np.empty(0, np.int64)
    queries = sorted(skipped)
    owners = np.repeat(queries, [len(skipped[query]) for query in queries]).astype(np.int64)
    return owners, np.concatenate([skipped[query] for query in queries])


def _skipped_of(queries: slice, skipped: Skipped) -> Skipped:
    """Give the excluded pairs of some queries, counted from the first of these."""
    first, last = np.searchsorted(skipped[0], [queries.start, queries.stop])
    return skipped[0][first:last] - queries.start, skipped[1][first:last]
