"""Deterministic top-k from blocks of a similarity matrix that is never whole in memory.

Order: scores rounded to 9 decimals, highest first, ties to the lowest row. Similarities may be
approximate (float32): every row that could belong to the answer is kept as a candidate, and the
candidates are scored again exactly before anything is decided.
"""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from itertools import repeat
from typing import TYPE_CHECKING, NamedTuple, TypeAlias, TypeVar

import numpy as np
import numpy.typing as npt

from fungi_hf.errors import FeatureError, ShapeError
from fungi_hf.neighbors.base import DECIMALS, check_count, check_exclusions

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from fungi_hf.neighbors.base import Exclusions
    from fungi_hf.neighbors.vectors import RealArray
    from fungi_hf.types import Float64Array, Int64Array

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
Blocks: TypeAlias = "Callable[[slice, slice], Iterable[RealArray]]"
Rescore: TypeAlias = "Callable[[Int64Array, Int64Array, Int64Array], Float64Array]"


class Refinement(NamedTuple):
    """How to make up for approximate similarities.

    A row more than the margin [Q] below k others is certainly not among the k nearest. `rescore`
    takes query rows [q], pool rows [q, w] and how many of these count [q]; it gives exact scores
    [q, w], -inf for those that do not count.
    """

    margin: Float64Array
    rescore: Rescore


def search_similarity(
    similarity: SimilarityBlock,
    n_pool: int,
    n_queries: int,
    k: int,
    *,
    exclude: Exclusions | None = None,
) -> tuple[Int64Array, Float64Array]:
    """Find the k (1 to n_pool) most similar pool rows of each query, save its excluded ones.

    `similarity` gives floats [q, b] for (slice of queries, slice of pool rows). Blocks are asked
    for in no promised order, one at a time. A block may be overwritten; its memory may be used
    again by the next call but one.

    Returns:
        [Q, k] rows and [Q, k] float64 scores, best first; -1 and -inf where exclusions leave
        fewer than k rows.
    """
    return search_scores(
        lambda queries, pool: (similarity(queries, pool),), [None], n_pool, n_queries, k, exclude
    )[0]


def search_scores(
    blocks: Blocks,
    refinements: Sequence[Refinement | None],
    n_pool: int,
    n_queries: int,
    k: int,
    exclude: Exclusions | None,
) -> list[Found]:
    """Do what `search_similarity` does by several similarities, whose blocks come in turn.

    Each has a refinement, None if it is exact.

    Raises:
        FeatureError: If similarities are NaN.
    """
    k = check_count(k, f"k (rows in the index: {n_pool})", 1, n_pool)
    skipped = _excluded_pairs(exclude, n_queries, n_pool)
    found = [(np.full((n_queries, k), -1), np.full((n_queries, k), -np.inf)) for _ in refinements]
    if sorts_all(k, n_pool) and not any(refinements):
        _sort_all(blocks, n_pool, skipped, found)
    else:
        _sort_candidates(blocks, refinements, n_pool, skipped, found)
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


def _sort_all(blocks: Blocks, n_pool: int, skipped: Skipped, found: Sequence[Found]) -> None:
    """Fill in the answer by sorting whole rows of the matrix, a few queries at a time."""
    n_queries, k = found[0][0].shape
    step = min(QUERY_ROWS, max(1, _DENSE_NUMBERS // (n_pool * len(found))))
    for queries in cut(slice(0, n_queries), step):
        full = np.empty((len(found), queries.stop - queries.start, n_pool))
        for pool in cut(slice(0, n_pool), POOL_ROWS):
            for matrix, block in zip(full, blocks(queries, pool), strict=True):
                matrix[:, pool] = _checked(block, queries, pool)
        for matrix, (rows, scores) in zip(full, found, strict=True):
            matrix[np.isnan(matrix).any(axis=1)] = -np.inf
            matrix[_skipped_of(queries, skipped)] = -np.inf
            rows[queries], scores[queries] = best(matrix, k)


def _sort_candidates(
    blocks: Blocks,
    refinements: Sequence[Refinement | None],
    n_pool: int,
    skipped: Skipped,
    found: Sequence[Found],
) -> None:
    """Fill in the answer from the candidates of each block."""
    size = QUERY_ROWS if len(found) == 1 else min(QUERY_ROWS, _SHARED_ROWS)
    chunks = list(cut(slice(0, len(found[0][0])), size))
    kinds = list(zip(refinements, found, strict=True))
    held = [
        [[_Candidates(part, *one, skipped) for part in cut(chunk, _PIECE_ROWS)] for one in kinds]
        for chunk in chunks
    ]
    # All cores multiply a block, then all sort it out: a product whose cores have other work to do
    # waits for the slowest of them.
    with ThreadPoolExecutor(max_workers=n_threads()) as workers:
        for pool in cut(slice(0, n_pool), POOL_ROWS):
            for chunk, pieces in zip(chunks, held, strict=True):
                for some, block in zip(pieces, blocks(chunk, pool), strict=True):
                    whole = _checked(block, chunk, pool)
                    parts = (whole[part] for part in cut(slice(0, len(whole)), _PIECE_ROWS))
                    run = map if len(some) == 1 else workers.map
                    is_last = repeat(pool.stop == n_pool)
                    list(run(_Candidates.take, some, parts, repeat(pool), is_last))


def cut(rows: slice, size: int) -> Iterator[slice]:
    """Cut a slice into slices of at most `size` rows."""
    for start in range(rows.start, rows.stop, size):
        yield slice(start, min(start + size, rows.stop))


def n_threads() -> int:
    """Give the number of threads for work that is cut into pieces."""
    has_list = hasattr(os, "sched_getaffinity")
    return min(len(os.sched_getaffinity(0)) if has_list else os.cpu_count() or 1, _MOST_THREADS)


class _Candidates:
    """What may still belong to the answer of some queries: pairs sorted by query, then pool row."""

    def __init__(
        self, queries: slice, refinement: Refinement | None, answer: Found, skipped: Skipped
    ) -> None:
        self.queries, self.refinement = queries, refinement
        self.rows, self.scores = answer[0][queries], answer[1][queries]
        self.skipped = _skipped_of(queries, skipped)
        n_queries, self.k = self.rows.shape
        self.parts: list[tuple[Owners, Int64Array, RealArray]] = []
        self.n_pairs, self.limit = 0, n_queries * (3 * self.k + 32)
        self.floor = np.full(n_queries, -np.inf)  # k rows are known at or above it
        two_units = np.full(n_queries, 2 * 10.0**-DECIMALS)
        self.margin = two_units if refinement is None else refinement.margin[queries]

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
        if self.n_pairs > self.limit or is_last:
            self._sort_out(is_last=is_last)

    def _sort_out(self, *, is_last: bool) -> None:
        """Raise the floors by what is known, drop what fell below; answer, if this is the end."""
        owners, rows, scores = (np.concatenate(column) for column in zip(*self.parts, strict=True))
        if len(self.parts) > 1 or not is_last:
            # Parts come with ascending rows, so a stable sort will do.
            order = np.argsort(owners, kind="stable")
            owners, rows, scores = owners[order], rows[order], scores[order]
            table = _Table(owners, len(self.floor))
            if table.width >= self.k:
                kth = table.width - self.k
                known = np.partition(table.filled(scores, -np.inf), kth, axis=1)[:, kth]
                self.floor = np.maximum(self.floor, known)
            kept = scores >= (self.floor - self.margin)[owners]
            owners, rows, scores = owners[kept], rows[kept], scores[kept]
        if is_last or len(owners) > self.limit:  # many rows within the margin, e.g. duplicates
            table = _Table(owners, len(self.floor))
            held = table.filled(rows, 0)
            if self.refinement is None:
                exact = table.filled(scores.astype(np.float64), -np.inf)
            else:
                queries = np.arange(self.queries.start, self.queries.stop)
                exact = self.refinement.rescore(queries, held, table.counts)
            if is_last:
                width = min(self.k, table.width)
                self.rows[:, :width], self.scores[:, :width] = best(exact, self.k, held)
                self.parts.clear()
                return
            kept = np.zeros(exact.shape, bool)
            np.put_along_axis(kept, best(exact, self.k)[0], values=True, axis=1)
            kept = kept[owners, table.places]
            owners, rows, scores = owners[kept], rows[kept], scores[kept]
        self.parts, self.n_pairs = [(owners, rows, scores)], len(owners)

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


def _checked(block: RealArray, queries: slice, pool: slice) -> RealArray:
    wanted = (queries.stop - queries.start, pool.stop - pool.start)
    if block.shape != wanted:
        raise ShapeError(f"the similarity function gave shape {block.shape} for a {wanted} block")
    return block


class _Table:
    """Where pairs, sorted by query, stand in a table with one query a row."""

    def __init__(self, owners: Owners, n_queries: int) -> None:
        self.owners = owners
        self.counts = np.bincount(owners, minlength=n_queries)
        self.width = int(self.counts.max())
        starts = np.cumsum(self.counts) - self.counts
        self.places = np.arange(len(owners)) - np.repeat(starts, self.counts)

    def filled(self, values: npt.NDArray[Number], fill: float) -> npt.NDArray[Number]:
        """Give the values as [q, most pairs of a query]."""
        matrix = np.full((len(self.counts), self.width), fill, values.dtype)
        matrix[self.owners, self.places] = values
        return matrix


def _excluded_pairs(exclude: Exclusions | None, n_queries: int, n_pool: int) -> Skipped:
    """Give (query rows, pool rows) of all excluded pairs, sorted by query, after checks."""
    skipped = sorted(check_exclusions(exclude, n_queries, n_pool).items())
    owners = [np.full(len(rows), query) for query, rows in skipped]
    none = np.empty(0, np.int64)
    return np.concatenate([none, *owners]), np.concatenate([none, *[rows for _, rows in skipped]])


def _skipped_of(queries: slice, skipped: Skipped) -> Skipped:
    """Give the excluded pairs of some queries, counted from the first of these."""
    first, last = np.searchsorted(skipped[0], [queries.start, queries.stop])
    return skipped[0][first:last] - queries.start, skipped[1][first:last]
