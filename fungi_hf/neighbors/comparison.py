"""The one search of nearest neighbours: by all columns, or by combinations of blocks of columns.

Fast similarities are float32 products; a proven bound on their error says which candidates may
belong to the answer, and these are scored again in float64. Each block is multiplied once, and
combinations of blocks only add.
"""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any

import numpy as np

from fungi_hf.neighbors.base import Neighbors, as_scores
from fungi_hf.neighbors.topk import DECIMALS, Scores, search_scores, sorts_all
from fungi_hf.neighbors.vectors import nonzero

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from fungi_hf.neighbors.base import Exclusions, Metric
    from fungi_hf.neighbors.pool import Pool, Precision
    from fungi_hf.neighbors.topk import Rescore, SimilarityBlock
    from fungi_hf.neighbors.vectors import RealArray, Rows
    from fungi_hf.types import Float64Array, Int64Array

_PAIR_NUMBERS = 1 << 16  # 0.5 MB as float64: stays in a core's cache
_SMALL = 2048  # pool rows, e.g. few-shot: float64 throughout where combinations share the products
_UNEVEN = 1e15  # a whole row's norm by that of its blocks: beyond, float32 may lose the blocks


class Comparison:
    """Some queries against a pool: fast, exact in blocks, and exact in pairs."""

    def __init__(self, pool: Pool, queries: Rows) -> None:
        """Measure the queries."""
        self.pool, self.queries = pool, queries
        self.norms = pool.norms_of(queries)
        self.whole = np.hypot.reduce(self.norms, axis=1)
        floor = pool.largest if pool.metric == "euclidean" else 0.0
        self.scales = np.maximum(nonzero(self.whole), floor)
        self._rights, self._grams = _Last(), _Last()
        self._memory: dict[object, RealArray] = {}

    def nearest(self, k: int, exclude: Exclusions | None = None) -> Neighbors:
        """Give the k nearest rows of each query by all columns, as `ExactIndex.search` does."""
        return self.nearest_by([self.pool.names], k, exclude)[0]

    def nearest_by(
        self, combinations: Sequence[Sequence[str]], k: int, exclude: Exclusions | None = None
    ) -> list[Neighbors]:
        """Give the k nearest rows of each query by the concatenation of some blocks.

        Args:
            combinations: Names of blocks.
            k: 1 to the number of pool rows.
            exclude: Query row -> pool rows that it may not get.
        """
        names, n_pool = self.pool.names, len(self.pool.rows)
        small = sorts_all(k, n_pool) or (len(names) > 1 and n_pool <= _SMALL)
        kinds = [
            self._scores([names.index(name) for name in some], is_exact=small)
            for some in combinations
        ]
        return [
            Neighbors(indices=rows, scores=as_scores(scores), metric=self.pool.metric)
            for rows, scores in search_scores(kinds, n_pool, len(self.queries), k, exclude)
        ]

    def _scores(self, some: list[int], *, is_exact: bool) -> Scores:
        """Compare by some blocks, by their numbers; `is_exact` in float64 throughout."""
        if is_exact or not self._keeps(some):
            return Scores(block=self._block(some, np.float64))
        rescore, margin = self.rescorer(some), self._margin(some)
        return Scores(block=self._block(some, np.float32), rescore=rescore, margin=margin)

    def _keeps(self, some: list[int]) -> bool:
        """Tell whether the blocks hold enough of each pool row to be told from the others."""
        if self.pool.metric != "cosine" or len(some) == len(self.pool.columns):
            return True
        norms = _norms(self.pool.norms, some)
        return bool((self.pool.whole <= _UNEVEN * norms)[norms > 0].all())

    def _margin(self, some: list[int]) -> Float64Array:
        """Give, per query, how far apart fast similarities must be to prove the exact order.

        Twice the error bound of a float32 dot product of vectors of norm at most 1 (any order of
        summation, inputs rounded, two roundings a block), plus two units of the rounding of
        scores; and no less than what the smallest float32 numbers lose.
        """
        share = _norms(self.norms, some) / self.scales  # at most 1
        error = 1.1 * (self.pool.rows.width + 24 + 2 * len(some)) * 2.0**-24
        units = 2 * 10.0**-DECIMALS
        if self.pool.metric == "cosine":
            return np.maximum((2 * error + units) * share, 1e-24)
        with np.errstate(divide="ignore", over="ignore"):
            scale = self.pool.largest * self.scales
            if self.pool.metric == "euclidean":
                # The score is twice the similarity times this scale; |p|^2 / 2 adds its own error.
                return np.minimum(3 * error + units / (2 * scale), 1e30)
            return np.clip(2 * error * share + units / scale, 1e-24, 1e30)

    def _block(self, some: list[int], dtype: Precision) -> SimilarityBlock:
        """Give the similarity as `topk.Scores` describes; that of float64 is the score."""
        pool, own = self.pool, _norms(self.norms, some)
        last = _Last()

        def lost(part: slice) -> RealArray:
            return _ratio(pool.whole[part], _norms(pool.norms[part], some), dtype)

        is_cosine, has_all = pool.metric == "cosine", len(some) == len(pool.columns)

        def compare(queries: slice, part: slice) -> RealArray:
            total = self._sum(some, queries, part, dtype)
            if is_cosine and not has_all:
                total *= last.get(part, lambda: lost(part))
            if dtype is np.float64 and is_cosine and not has_all:
                total *= _ratio(self.whole[queries], own[queries], dtype)[:, None]
            if dtype is np.float64 and pool.metric == "euclidean":
                total *= 2
                total -= own[queries, None] ** 2
                np.minimum(total, 0, out=total)
            return total

        return compare

    def _sum(self, some: list[int], queries: slice, part: slice, dtype: Precision) -> RealArray:
        """Add up the products of some blocks; each product is computed once a block of rows."""
        if len(self.pool.columns) == 1:
            return self._products(queries, part, dtype)[0]
        grams = self._grams.get(
            (queries, part, dtype), lambda: self._products(queries, part, dtype)
        )
        total = self._empty("total", grams[0].shape, dtype)
        if len(some) == 1:
            total[...] = grams[some[0]]
            return total
        np.add(grams[some[0]], grams[some[1]], out=total)
        for place in some[2:]:
            total += grams[place]
        return total

    def _products(self, queries: slice, part: slice, dtype: Precision) -> list[RealArray]:
        """Give the product of each block, [q, b]."""
        is_plain = dtype is np.float64 and self.pool.metric != "cosine"
        divisors = np.ones(1) if is_plain else self.scales[queries]
        own = self.pool.scaled(self.queries.array[queries], divisors, dtype)
        ratio = (1 if is_plain else self.pool.largest) / divisors[:, None]
        lefts = self._split(own, np.broadcast_to(-ratio, (len(own), len(self.pool.columns))))
        rights = self._rights.get((part, dtype), lambda: self._scaled_pool(part, dtype))
        shape = (len(own), part.stop - part.start)
        return [
            np.matmul(left, right.T, out=self._empty(place, shape, dtype))
            for place, (left, right) in enumerate(zip(lefts, rights, strict=True))
        ]

    def _scaled_pool(self, part: slice, dtype: Precision) -> list[RealArray]:
        """Give the blocks of columns of pool rows, scaled for the products."""
        is_plain = dtype is np.float64 and self.pool.metric != "cosine"
        divisors = np.ones(1) if is_plain else self.pool.divisors(part)
        rows = self.pool.scaled(self.pool.rows.array[part], divisors, dtype)
        return self._split(rows, (self.pool.norms[part] / divisors.reshape(-1, 1)) ** 2 / 2)

    def _split(self, rows: RealArray, last: Float64Array) -> list[RealArray]:
        """Give the blocks of columns; those of `euclidean` have one column more."""
        parts = [rows[:, columns] for columns in self.pool.columns]
        if self.pool.metric != "euclidean":
            return parts
        added = last.T[..., None].astype(rows.dtype)
        return [np.concatenate(pair, axis=1) for pair in zip(parts, added, strict=True)]

    def _empty(self, name: object, shape: tuple[int, int], dtype: Precision) -> RealArray:
        """Give memory that the next call of this name gives again: fresh pages are slow."""
        numbers = shape[0] * shape[1]
        held = self._memory.get(name)
        if held is None or held.size < numbers or held.dtype != dtype:
            held = self._memory[name] = np.empty(numbers, dtype)
        return held[:numbers].reshape(shape)

    def rescorer(self, some: list[int] | None = None) -> Rescore:
        """Give the score of pairs by some blocks, as `topk.Scores` describes.

        A pair's score depends on its two vectors alone, so equal rows get equal scores.
        """
        places = list(range(len(self.pool.columns))) if some is None else some
        parts = _joined([self.pool.columns[place] for place in places])
        array, width, metric = self.pool.rows.array, self.pool.rows.width, self.pool.metric
        own_norms = nonzero(_norms(self.norms, places))
        widest = max(part.stop - part.start for part in parts)
        n_pairs = max(1, _PAIR_NUMBERS // widest)
        local = threading.local()

        def rescore(queries: Int64Array, rows: Int64Array, counts: Int64Array) -> Float64Array:
            # Memory is kept per thread: fresh pages cost more than the arithmetic.
            if not hasattr(local, "raw"):
                local.raw = np.empty((n_pairs, width), array.dtype)
                local.exact = np.empty(n_pairs * widest)
            own = self.queries.array[queries].astype(np.float64)
            if metric == "cosine":
                own /= own_norms[queries, None]
            scores = np.zeros(rows.shape)
            for group, columns in _pair_groups(counts, n_pairs):
                held = rows[group, columns]
                raw = array.take(held.ravel(), 0, local.raw[: held.size], mode="clip")
                for part in parts:
                    exact = local.exact[: held.size * (part.stop - part.start)]
                    exact = exact.reshape(held.size, -1)
                    exact[:] = raw[:, part]
                    near = exact.reshape(*held.shape, -1)
                    scores[group, columns] += _score(own[group, part], near, metric)
            if metric == "cosine":
                scores /= nonzero(_norms(self.pool.norms[rows], places))
            scores[np.arange(rows.shape[1]) >= counts[:, None]] = -np.inf
            return scores

        return rescore


class _Last:
    """The value that was made last, and for what."""

    def __init__(self) -> None:
        self.key: object = None
        self.value: Any = None

    def get(self, key: object, make: Callable[[], Any]) -> Any:
        if key != self.key:
            self.key, self.value = key, make()
        return self.value


def _ratio(whole: Float64Array, norms: Float64Array, dtype: Precision) -> RealArray:
    """Give whole / norms, 0 where the norm is 0."""
    return np.where(norms > 0, whole / nonzero(norms), 0).astype(dtype)


def _joined(parts: list[slice]) -> list[slice]:
    """Join slices of columns that touch, in the order given."""
    joined = parts[:1]
    for part in parts[1:]:
        if joined[-1].stop == part.start:
            joined[-1] = slice(joined[-1].start, part.stop)
        else:
            joined.append(part)
    return joined


def _norms(norms: Float64Array, some: list[int]) -> Float64Array:
    """Give the norm of some blocks together from the norm of each, [..., b]."""
    return np.asarray(np.hypot.reduce(norms[..., some], axis=-1))


def _score(queries: Float64Array, vectors: Float64Array, metric: Metric) -> Float64Array:
    """Compare queries [g, F] with vectors [g, w, F], which may be overwritten."""
    if metric == "euclidean":
        vectors -= queries[:, None]
        return -np.einsum("gwf,gwf->gw", vectors, vectors)
    return np.einsum("gwf,gf->gw", vectors, queries)


def _pair_groups(counts: Int64Array, n_pairs: int) -> Iterator[tuple[slice, slice]]:
    """Cut [q, w] pairs into rectangles of at most n_pairs that cover each row's count."""
    start, wanted = 0, counts.tolist()
    while start < len(counts):
        stop, width = start, 0
        while stop < len(counts):
            wider = max(width, wanted[stop])
            if stop > start and (stop + 1 - start) * wider > n_pairs:
                break
            stop, width = stop + 1, wider
        for first in range(0, width, n_pairs):
            yield slice(start, stop), slice(first, min(first + n_pairs, width))
        start = stop
