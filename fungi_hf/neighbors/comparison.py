"""The one search of nearest neighbours: by all columns, or by combinations of blocks of columns.

Fast similarities are float32 products; a proven bound on their error says which candidates may
belong to the answer, and these are scored again in float64. Each block is multiplied once, and
combinations of blocks only add. Rows are compared in float32 after they are scaled to a norm of at
most 1, so that one bound on the error holds whatever the vectors' magnitude.
"""

from __future__ import annotations

import copy
import threading
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from fungi_hf.errors import FeatureError
from fungi_hf.neighbors.base import DECIMALS, Neighbors, as_scores
from fungi_hf.neighbors.topk import Refinement, search_scores, sorts_all
from fungi_hf.neighbors.vectors import check_same_origin, mean_of, nonzero, norms_of, read_rows

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from fungi_hf.neighbors.base import Exclusions, Metric, Vectors
    from fungi_hf.neighbors.topk import Rescore
    from fungi_hf.neighbors.vectors import RealArray, Rows
    from fungi_hf.types import Float64Array, Int64Array, Layout

_PLAIN = (1e-30, 1e30)  # float32 rows can be divided by such numbers in float32
_LARGEST = 1e150  # products of such norms stay within float64
_PAIR_NUMBERS = 1 << 16  # 0.5 MB as float64: stays in a core's cache
_SMALL = 2048  # pool rows, e.g. few-shot: float64 throughout where combinations share the products
_UNEVEN = 1e15  # a whole row's norm by that of its blocks: beyond, float32 may lose the blocks


class Pool:
    """Checked rows with what their metric needs.

    With q, p the query and pool row (centred by the pool's mean for `euclidean`, which changes no
    distance and keeps far-away data precise), r the largest pool norm and s the query's scale, the
    fast similarity by a combination c of blocks is a sum over its blocks b of

        cosine     <q_b, p_b> / (|q| |p|), the sum times |p| / |p_c|
        dot        <q_b, p_b> / (s r), s = |q|
        euclidean  (<q_b, p_b> - |p_b|^2 / 2) / (s r), s = max(|q|, r)

    each a rising function of the score within one query, with all factors at most 1.

    Attributes:
        names, columns: Of the blocks; one nameless block of all columns without a layout.
        center: [F], or 0 where nothing is centred.
        norms: [N, b] of each block, centred; `whole` of all blocks, [N]; `largest` of all rows.
    """

    def __init__(self, rows: Rows, metric: Metric, layout: Layout | None = None) -> None:
        if not rows.array.flags.c_contiguous:
            rows = replace(rows, array=np.ascontiguousarray(rows.array))
        self.rows, self.metric = rows, metric
        layout = layout or {"": slice(0, rows.width)}
        self.names, self.columns = list(layout), list(layout.values())
        self.check_range(rows, "vectors")
        self.center = mean_of(rows) if metric == "euclidean" else 0.0
        self.norms = self.norms_of(rows)
        self.whole = np.hypot.reduce(self.norms, axis=1)
        self.largest = float(self.whole.max()) or 1.0

    def read(self, vectors: Vectors) -> Rows:
        """Read queries and refuse those that cannot be compared with these rows."""
        queries = read_rows(vectors, "queries")
        check_same_origin(self.rows, queries)
        self.check_range(queries, "queries")
        return queries

    def check_range(self, rows: Rows, name: str) -> None:
        """Refuse rows whose products leave float64.

        Raises:
            FeatureError: If a norm is too large for the metric.
        """
        if self.metric != "cosine" and len(rows) and rows.norms.max() > _LARGEST:
            raise FeatureError(
                f"{name} have a row of norm {rows.norms.max():.1e}; "
                f"metric {self.metric!r} needs norms of at most {_LARGEST:.0e}"
            )

    def norms_of(self, rows: Rows) -> Float64Array:
        """Give the norm of each block of each row, centred where the metric needs it, [n, b]."""
        if len(self.columns) == 1 and self.metric != "euclidean":
            return rows.norms[:, None]
        return norms_of(rows.array, self.columns, self.center)

    def divisors(self, some: slice | Int64Array) -> Float64Array:
        """Give what pool rows are divided by for the fast similarity, [n] or one for all."""
        is_cosine = self.metric == "cosine"
        return nonzero(self.whole[some]) if is_cosine else np.array(self.largest)

    def fast(self, some: slice | Int64Array) -> RealArray:
        """Give pool rows as the fast similarity takes them, float32."""
        return np.ascontiguousarray(self.scaled(self.rows.array[some], self.divisors(some)))

    def taken(self, rows: Int64Array) -> Pool:
        """Give some rows, read once, as a pool that gives pairs the same scores."""
        pool = copy.copy(self)
        array = self.rows.array.take(rows, 0)
        pool.rows = replace(self.rows, array=array, norms=self.rows.norms[rows])
        pool.norms, pool.whole = self.norms[rows], self.whole[rows]
        return pool

    def scaled(
        self, array: RealArray, divisors: Float64Array, dtype: type[np.floating] = np.float32
    ) -> RealArray:
        """Give (rows - center) / divisors, by way of float64 where float32 lacks the range."""
        column = divisors.reshape(-1, 1)
        in_range = column.min() >= _PLAIN[0] and column.max() <= _PLAIN[1]
        is_centred = self.metric == "euclidean"
        if dtype is np.float32 and array.dtype != np.float64 and in_range and not is_centred:
            rows = array.astype(np.float32)
            rows *= (1 / column).astype(np.float32)
            return rows
        exact = array.astype(np.float64)
        if is_centred:
            exact -= self.center
        exact /= column
        return exact.astype(dtype, copy=False)


class Comparison:
    """Some queries against a pool: their norms [Q, b] and [Q], and scales [Q], as in `Pool`."""

    def __init__(self, pool: Pool, queries: Rows) -> None:
        self.pool, self.queries = pool, queries
        self.norms = pool.norms_of(queries)
        self.whole = np.hypot.reduce(self.norms, axis=1)
        floor = pool.largest if pool.metric == "euclidean" else 0.0
        self.scales = np.maximum(nonzero(self.whole), floor)

    def nearest(self, k: int, exclude: Exclusions | None = None) -> Neighbors:
        """Give the k nearest rows of each query by all columns, as `ExactIndex.search` does."""
        return self.nearest_by([self.pool.names], k, exclude)[0]

    def nearest_by(
        self, combinations: Sequence[Sequence[str]], k: int, exclude: Exclusions | None = None
    ) -> list[Neighbors]:
        """Give the k nearest rows of each query by the concatenation of each choice of blocks."""
        pool, n_pool = self.pool, len(self.pool.rows)
        chosen = [[pool.names.index(name) for name in some] for some in combinations]
        is_small = sorts_all(k, n_pool) or (len(pool.names) > 1 and n_pool <= _SMALL)
        is_exact = is_small or any(self._is_uneven(some) for some in chosen)
        refinements = [
            None if is_exact else Refinement(self._margin(some), self.rescorer(some))
            for some in chosen
        ]
        products = _Products(self, chosen, is_exact=is_exact)
        found = search_scores(products, refinements, n_pool, len(self.queries), k, exclude)
        return [
            Neighbors(indices=rows, scores=as_scores(scores), metric=pool.metric, exact=scores)
            for rows, scores in found
        ]

    def has_ratio(self, some: list[int]) -> bool:
        """Tell whether the sum of products is still to be multiplied by |p| / |p_c|."""
        return self.pool.metric == "cosine" and len(some) < len(self.pool.columns)

    def _is_uneven(self, some: list[int]) -> bool:
        """Tell whether blocks are too small a part of a row for float32 rows of length 1."""
        if not self.has_ratio(some):
            return False
        norms = _norms(self.pool.norms, some)
        return bool(((norms > 0) & (self.pool.whole / _UNEVEN > norms)).any())

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

    def rescorer(self, some: list[int] | None = None) -> Rescore:
        """Give the score of pairs by some blocks, as `topk.Refinement` describes.

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


class _Products:
    """Similarities by some combinations of blocks, fast or (in float64) exact."""

    def __init__(self, compared: Comparison, chosen: list[list[int]], *, is_exact: bool) -> None:
        self.compared, self.pool, self.chosen = compared, compared.pool, chosen
        self.is_exact, self.dtype = is_exact, np.float64 if is_exact else np.float32
        self.part: slice | None = None  # of the pool, scaled last
        self.rights: list[RealArray] = []
        self.ratios: list[RealArray | None] = []
        self.memory: dict[int, RealArray] = {}

    def __call__(self, queries: slice, part: slice) -> Iterator[RealArray]:
        """Give the similarity by each combination in turn, [q, b]; exact ones are the score."""
        compared, n_parts = self.compared, len(self.pool.columns)
        grams = self._grams(queries, part)
        for some, ratio in zip(self.chosen, self.ratios, strict=True):
            total = grams[some[0]]
            if n_parts > 1:  # the products are for all combinations
                total = self._empty(-1, total.shape)
                np.add(grams[some[0]], grams[some[1]] if len(some) > 1 else 0, out=total)
                for place in some[2:]:
                    total += grams[place]
            own = _norms(compared.norms[queries], some)
            if ratio is not None:
                total *= ratio
                if self.is_exact:
                    total *= _ratio(compared.whole[queries], own)[:, None]
            if self.pool.metric == "euclidean" and self.is_exact:
                total *= 2
                total -= own[:, None] ** 2
                np.minimum(total, 0, out=total)
            yield total

    def _grams(self, queries: slice, part: slice) -> list[RealArray]:
        """Give the product of each block."""
        pool, is_plain = self.pool, self.is_exact and self.pool.metric != "cosine"
        if self.part != part:
            divisors = np.ones(1) if is_plain else pool.divisors(part)
            rows = pool.scaled(pool.rows.array[part], divisors, self.dtype)
            halves = (pool.norms[part] / divisors.reshape(-1, 1)) ** 2 / 2
            self.part, self.rights = part, self._split(rows, halves)
            self.ratios = [self._ratio_of(some, part) for some in self.chosen]
        divisors = np.ones(1) if is_plain else self.compared.scales[queries]
        rows = pool.scaled(self.compared.queries.array[queries], divisors, self.dtype)
        last = -(1 if is_plain else pool.largest) / divisors[:, None]
        lefts = self._split(rows, np.broadcast_to(last, (len(rows), len(pool.columns))))
        shape = (len(rows), part.stop - part.start)
        pairs = enumerate(zip(lefts, self.rights, strict=True))
        return [np.matmul(a, b.T, out=self._empty(place, shape)) for place, (a, b) in pairs]

    def _ratio_of(self, some: list[int], part: slice) -> RealArray | None:
        if not self.compared.has_ratio(some):
            return None
        norms = _norms(self.pool.norms[part], some)
        return _ratio(self.pool.whole[part], norms).astype(self.dtype)

    def _split(self, rows: RealArray, last: Float64Array) -> list[RealArray]:
        """Give the blocks of columns; those of `euclidean` have one column more."""
        parts = [rows[:, columns] for columns in self.pool.columns]
        if self.pool.metric != "euclidean":
            return parts
        added = last.T[..., None].astype(rows.dtype)
        return [np.concatenate(pair, axis=1) for pair in zip(parts, added, strict=True)]

    def _empty(self, place: int, shape: tuple[int, ...]) -> RealArray:
        """Give memory that the next call for this place gives again: fresh pages are slow."""
        numbers = shape[0] * shape[1]
        if place not in self.memory or self.memory[place].size < numbers:
            self.memory[place] = np.empty(numbers, self.dtype)
        return self.memory[place][:numbers].reshape(shape)


def _ratio(whole: Float64Array, norms: Float64Array) -> Float64Array:
    """Give whole / norms, 0 where the norm is 0."""
    return np.where(norms > 0, whole / nonzero(norms), 0)


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
    if len(some) == 1:
        return norms[..., some[0]]
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
