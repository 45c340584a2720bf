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
from fungi_hf.neighbors.vectors import cut

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from fungi_hf.neighbors.base import Exclusions
    from fungi_hf.neighbors.vectors import RealArray
    from fungi_hf.types import Float64Array, Int64Array

DECIMALS = 9
QUERY_ROWS, POOL_ROWS = 2048, 10240  # a float32 block of 80 MB: smaller products are slower
_SHARED_ROWS = 256  # queries a block where several similarities are searched in turn
_PIECE_ROWS = 128  # queries whose candidates are sorted out together, by one thread
_MOST_THREADS = 8
_DENSE_NUMBERS = 1 << 22

Owners: TypeAlias = npt.NDArray[np.int16]  # query within a piece; stable sorting is a radix sort
Skipped: TypeAlias = "tuple[Int64Array, Int64Array]"  # query row and pool row of each pair
Found: TypeAlias = "tuple[Int64Array, Float64Array]"  # rows and scores, best first
Number = TypeVar("Number", bound=np.number)
SimilarityBlock: TypeAlias = "Callable[[slice, slice], RealArray]"
Rescore: TypeAlias = "Callable[[Int64Array, Int64Array, Int64Array], Float64Array]"


@dataclass(frozen=True, slots=True, kw_only=True)
class Scores:
    """How alike queries and pool rows are.

    Attributes:
        block: (slice of queries, slice of pool rows) -> [q, b] floats. Blocks are asked for in
            no promised order, one at a time. The result may be overwritten; its memory may be
            used again by the next call but one.
        rescore: (query rows [q], pool rows [q, w], how many of the w count [q]) -> exact scores
            [q, w], -inf for those that do not count. None: blocks are exact.
        margin: [Q] with `rescore`: a row more than this below k others, by the block, is
            certainly not among the k nearest by the exact score.
    """

    block: SimilarityBlock
    rescore: Rescore | None = None
    margin: Float64Array | None = None


def search_similarity(
    similarity: SimilarityBlock,
    n_pool: int,
    n_queries: int,
    k: int,
    *,
    exclude: Exclusions | None = None,
) -> tuple[Int64Array, Float64Array]:
    """Find the k most similar pool rows of each query.

    Args:
        similarity: Gives exact similarities, see `Scores.block`.
        n_pool: Number of pool rows.
        n_queries: Number of queries.
        k: 1 to n_pool.
        exclude: Query row -> pool rows that it may not get.

    Returns:
        [Q, k] rows and [Q, k] float64 scores, best first; -1 and -inf where exclusions leave
        fewer than k rows.
    """
    return search_scores([Scores(block=similarity)], n_pool, n_queries, k, exclude)[0]


def search_scores(
    kinds: Sequence[Scores], n_pool: int, n_queries: int, k: int, exclude: Exclusions | None
) -> list[Found]:
    """Do what `search_similarity` does by several similarities, block by block in turn.

    Raises:
        FeatureError: If similarities are NaN.
    """
    k = check_count(k, f"k (rows in the index: {n_pool})", 1, n_pool)
    skipped = excluded_pairs(exclude, n_queries, n_pool)
    found = [(np.full((n_queries, k), -1), np.full((n_queries, k), -np.inf)) for _ in kinds]
    if sorts_all(k, n_pool) and not any(one.rescore for one in kinds):
        _sort_all(kinds, n_pool, skipped, found)
    else:
        _sort_candidates(kinds, n_pool, skipped, found)
    left = n_pool - np.bincount(skipped[0], minlength=n_queries)
    for rows, _ in found:
        short = np.flatnonzero((rows >= 0).sum(1) < np.minimum(k, left))
        if len(short):
            raise FeatureError(f"similarities of query row {short[0]} are NaN")
    return found


def sorts_all(k: int, n_pool: int) -> bool:
    """Tell whether k is so large that sorting whole rows of exact scores is the faster way."""
    return 4 * k > n_pool


def best(scores: Float64Array, k: int, rows: Int64Array | None = None) -> Found:
    """Give the k best columns of [q, b] scores, or the `rows` that stand there: -1 for -inf."""
    order = np.argsort(-np.round(scores, DECIMALS), axis=1, kind="stable")[:, :k]
    top = np.take_along_axis(scores, order, axis=1)
    found = order if rows is None else np.take_along_axis(rows, order, axis=1)
    return np.where(top == -np.inf, -1, found), top


def _sort_all(
    kinds: Sequence[Scores], n_pool: int, skipped: Skipped, found: Sequence[Found]
) -> None:
    """Fill in the answer by sorting whole rows of the matrix, a few queries at a time."""
    (n_queries, k), step = found[0][0].shape, min(QUERY_ROWS, max(1, _DENSE_NUMBERS // n_pool))
    for queries in cut(slice(0, n_queries), step):
        for one, (rows, scores) in zip(kinds, found, strict=True):
            full = np.empty((queries.stop - queries.start, n_pool))
            for pool in cut(slice(0, n_pool), POOL_ROWS):
                full[:, pool] = _block(one, queries, pool)
            full[np.isnan(full).any(axis=1)] = -np.inf
            full[_skipped_of(queries, skipped)] = -np.inf
            rows[queries], scores[queries] = best(full, k)


def _sort_candidates(
    kinds: Sequence[Scores], n_pool: int, skipped: Skipped, found: Sequence[Found]
) -> None:
    """Fill in the answer from the candidates of each block."""
    n_queries = len(found[0][0])
    size = QUERY_ROWS if len(kinds) == 1 else min(QUERY_ROWS, _SHARED_ROWS)
    chunks = [
        (
            chunk,
            [
                [_Candidates(part, one, answer, skipped) for part in cut(chunk, _PIECE_ROWS)]
                for one, answer in zip(kinds, found, strict=True)
            ],
        )
        for chunk in cut(slice(0, n_queries), size)
    ]
    # All cores multiply a block, then all sort it out: a product whose cores have other work to do
    # waits for the slowest of them.
    with ThreadPoolExecutor(max_workers=_n_threads()) as workers:
        for pool in cut(slice(0, n_pool), POOL_ROWS):
            for chunk, holders in chunks:
                for one, pieces in zip(kinds, holders, strict=True):
                    block = _block(one, chunk, pool)
                    offsets = (piece.queries.start - chunk.start for piece in pieces)
                    parts = [block[start : start + _PIECE_ROWS] for start in offsets]
                    run = map if len(pieces) == 1 else workers.map
                    is_last = repeat(pool.stop == n_pool)
                    list(run(_Candidates.take, pieces, parts, repeat(pool), is_last))


def _n_threads() -> int:
    if hasattr(os, "sched_getaffinity"):
        return min(len(os.sched_getaffinity(0)), _MOST_THREADS)
    return min(os.cpu_count() or 1, _MOST_THREADS)


class _Candidates:
    """What may still belong to the answer of some queries, while blocks of the pool come in.

    Held as pairs, sorted by query and then by pool row.
    """

    def __init__(self, queries: slice, scores: Scores, answer: Found, skipped: Skipped) -> None:
        self.queries, self.scores = queries, scores
        self.answer = answer[0][queries], answer[1][queries]
        self.skipped = _skipped_of(queries, skipped)
        n_queries, self.k = self.answer[0].shape
        self.parts: list[tuple[Owners, Int64Array, RealArray]] = []
        self.n_pairs, self.limit = 0, n_queries * (3 * self.k + 32)
        self.floor = np.full(n_queries, -np.inf)  # k rows are known at or above it
        two_units = np.full(n_queries, 2 * 10.0**-DECIMALS)
        self.margin = two_units if scores.margin is None else scores.margin[queries]

    def take(self, block: RealArray, pool: slice, is_last: bool) -> None:
        """Take in the similarities [q, b] to a slice of the pool; slices come in order."""
        block = self._without_skipped(block, pool)
        if pool.start == 0:
            self.floor = _kth_bound(block, self.k)
        # Rounded down to the block's precision, so that nothing is lost; may become -inf.
        with np.errstate(over="ignore"):
            bound = np.nextafter((self.floor - self.margin).astype(block.dtype), -np.inf)
        found = np.flatnonzero(block >= np.maximum(bound, np.finfo(block.dtype).min)[:, None])
        owners, columns = np.divmod(found, block.shape[1])
        self.parts.append((owners.astype(np.int16), columns + pool.start, block.ravel()[found]))
        self.n_pairs += len(found)
        if self.n_pairs > self.limit or (is_last and len(self.parts) > 1):
            self._tighten()
        if is_last:
            exact, rows = self._exact()
            top, scores = best(exact, self.k, rows)
            self.answer[0][:, : top.shape[1]], self.answer[1][:, : top.shape[1]] = top, scores
            self.parts.clear()
        elif self.n_pairs > self.limit:  # many rows within the margin, e.g. duplicates
            self._keep_best()

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

    def _keep_best(self) -> None:
        """Score all pairs exactly and keep the best k of each query."""
        exact, _ = self._exact()
        kept = np.zeros(exact.shape, bool)
        np.put_along_axis(kept, best(exact, self.k)[0], values=True, axis=1)
        owners = self._pairs()[0]
        self._keep(kept[owners, _positions(owners, len(kept))])

    def _keep(self, kept: npt.NDArray[np.bool_]) -> None:
        owners, rows, scores = self._pairs()
        self.parts = [(owners[kept], rows[kept], scores[kept])]
        self.n_pairs = int(np.count_nonzero(kept))

    def _exact(self) -> tuple[Float64Array, Int64Array]:
        """Give exact scores and pool rows, [q, most candidates] each, one query a row."""
        owners, rows, scores = self._pairs()
        padded = self._padded(owners, rows, 0)
        if self.scores.rescore is None:
            return self._padded(owners, scores.astype(np.float64), -np.inf), padded
        counts = np.bincount(owners, minlength=len(padded))
        queries = np.arange(self.queries.start, self.queries.stop)
        return self.scores.rescore(queries, padded, counts), padded

    def _padded(
        self, owners: Owners, values: npt.NDArray[Number], fill: float
    ) -> npt.NDArray[Number]:
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
    maxima = block
    if n_groups * 2 <= n_columns:
        maxima = block[:, :n_groups].copy()
        for columns in cut(slice(n_groups, n_columns), n_groups):
            part = block[:, columns]
            np.maximum(maxima[:, : part.shape[1]], part, out=maxima[:, : part.shape[1]])
    kth = maxima.shape[1] - k
    return np.partition(maxima, kth, axis=1)[:, kth].astype(np.float64)


def _block(scores: Scores, queries: slice, pool: slice) -> RealArray:
    block = scores.block(queries, pool)
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
    skipped = sorted(check_exclusions(exclude, n_queries, n_pool).items())
    owners = [np.full(len(rows), query) for query, rows in skipped]
    none = np.empty(0, np.int64)
    return np.concatenate([none, *owners]), np.concatenate([none, *[rows for _, rows in skipped]])


def _skipped_of(queries: slice, skipped: Skipped) -> Skipped:
    """Give the excluded pairs of some queries, counted from the first of these."""
    first, last = np.searchsorted(skipped[0], [queries.start, queries.stop])
    return skipped[0][first:last] - queries.start, skipped[1][first:last]
