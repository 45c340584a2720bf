"""Stored rows and three ways to compare queries with them: fast, exact in blocks, exact in pairs.

The fast one is float32 on rows scaled to a norm of at most 1, so that one bound on its error
holds whatever the vectors' magnitude.
"""

from __future__ import annotations

import threading
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from fungi_hf.errors import FeatureError
from fungi_hf.neighbors.topk import DECIMALS
from fungi_hf.neighbors.vectors import blocks

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    import numpy.typing as npt

    from fungi_hf.neighbors.base import Metric
    from fungi_hf.neighbors.topk import SimilarityBlock
    from fungi_hf.neighbors.vectors import RealArray, Rows
    from fungi_hf.types import Float32Array, Float64Array, Int64Array

_PAIR_NUMBERS = 1 << 16  # 0.5 MB as float64: stays in a core's cache
_PLAIN = (1e-30, 1e30)  # float32 rows can be divided by such numbers in float32
_LARGEST = 1e150  # products of such norms stay within float64


class Pool:
    """Checked rows with what their metric needs.

    With q, p the query and pool row (centred by the pool's mean for `euclidean`, which changes no
    distance and keeps far-away data precise) and r the largest pool norm, the fast similarity is

        cosine     <q, p> / (|q| |p|)
        dot        <q, p> / (|q| r)
        euclidean  (<q, p> - |p|^2 / 2) / (r max(|q|, r))

    each a rising function of the score within one query, with all factors at most 1.
    """

    def __init__(self, rows: Rows, metric: Metric) -> None:
        """Measure what the metric needs.

        Args:
            rows: [N, F], N at least 1.
            metric: How to compare.
        """
        if not rows.array.flags.c_contiguous:
            rows = replace(rows, array=np.ascontiguousarray(rows.array))
        self.rows, self.metric = rows, metric
        self.check_range(rows, "vectors")
        self._center = _mean(rows) if metric == "euclidean" else None
        self._norms = rows.norms if self._center is None else self._centred_norms(rows)
        self._largest = float(self._norms.max()) or 1.0

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

    def similarity(self, queries: Rows) -> SimilarityBlock:
        """Give the fast similarity: (query slice, pool slice) -> [q, b] float32.

        Every result lies in the same memory.
        """
        prepared: dict[str, tuple[slice, npt.NDArray[np.float32]]] = {}
        memory = np.empty(0, np.float32)
        scales = self.query_scales(queries)

        def compare(some: slice, part: slice) -> Float32Array:
            nonlocal memory
            if prepared.get("pool", (None,))[0] != part:
                prepared["pool"] = part, self.fast_rows(part)
            own = self.fast_queries(queries, some, scales)
            shape = (len(own), part.stop - part.start)
            numbers = shape[0] * shape[1]
            if memory.size < numbers:
                memory = np.empty(numbers, np.float32)
            out = memory[:numbers].reshape(shape)
            return np.matmul(own, prepared["pool"][1].T, out=out)

        return compare

    def margin(self, queries: Rows) -> Float64Array:
        """Give, per query, how far apart fast similarities must be to prove the exact order.

        Twice the error bound of a float32 dot product of vectors of norm at most 1 (any order of
        summation, inputs rounded), plus two units of the rounding of scores.
        """
        width = self.rows.width + 1
        error = 1.1 * (width + 16) * 2.0**-24
        units = 2 * 10.0**-DECIMALS
        if self.metric == "cosine":
            return np.full(len(queries), 2 * error + units)
        with np.errstate(divide="ignore", over="ignore"):
            scale = self._largest * self.query_scales(queries)
            if self.metric == "euclidean":
                # The score is twice the similarity times this scale; |p|^2 / 2 adds its own error.
                return np.minimum(3 * error + units / (2 * scale), 1e30)
            return np.minimum(2 * error + units / scale, 1e30)

    def exact_similarity(self, queries: Rows) -> SimilarityBlock:
        """Give the score: (query slice, pool slice) -> [q, b] float64."""

        def compare(some: slice, part: slice) -> Float64Array:
            own, rows = self._centred(queries.array[some]), self._centred(self.rows.array[part])
            if self.metric == "cosine":
                own /= _nonzero(queries.norms[some])[:, None]
                rows /= _nonzero(self.rows.norms[part])[:, None]
            scores: Float64Array = own @ rows.T
            if self.metric == "euclidean":
                scores *= 2
                scores -= np.einsum("ij,ij->i", own, own)[:, None]
                scores -= np.einsum("ij,ij->i", rows, rows)[None]
                np.minimum(scores, 0, out=scores)
            return scores

        return compare

    def rescorer(
        self, queries: Rows
    ) -> Callable[[Int64Array, Int64Array, Int64Array], Float64Array]:
        """Give the score of pairs, as `topk.Refinement` describes.

        A pair's score depends on its two vectors alone, so equal rows get equal scores.
        """
        array, width = self.rows.array, self.rows.width
        n_pairs = max(1, _PAIR_NUMBERS // width)
        local = threading.local()

        def rescore(some: Int64Array, rows: Int64Array, counts: Int64Array) -> Float64Array:
            # Memory is kept per thread: fresh pages cost more than the arithmetic.
            if not hasattr(local, "raw"):
                local.raw = np.empty((n_pairs, width), array.dtype)
                local.exact = np.empty((n_pairs, width))
            scores = np.full(rows.shape, -np.inf)
            own = self._exact_queries(queries, some)
            for group, columns in pair_groups(counts, n_pairs):
                part = rows[group, columns]
                raw, exact = local.raw[: part.size], local.exact[: part.size]
                array.take(part.ravel(), axis=0, out=raw, mode="clip")
                exact[:] = raw
                scores[group, columns] = self._score(own[group], exact.reshape(*part.shape, width))
            if self.metric == "cosine":
                scores /= _nonzero(self.rows.norms[rows])
            scores[np.arange(rows.shape[1]) >= counts[:, None]] = -np.inf
            return scores

        return rescore

    def _exact_queries(self, queries: Rows, some: Int64Array) -> Float64Array:
        own = queries.array[some].astype(np.float64)
        if self.metric == "cosine":
            own /= _nonzero(queries.norms[some])[:, None]
        return own

    def _score(self, queries: Float64Array, vectors: Float64Array) -> Float64Array:
        """Compare queries [g, F] with vectors [g, w, F], which may be overwritten."""
        if self.metric == "euclidean":
            vectors -= queries[:, None]
            return -np.einsum("gwf,gwf->gw", vectors, vectors)
        return np.einsum("gwf,gf->gw", vectors, queries)

    def fast_rows(self, part: slice | Int64Array) -> Float32Array:
        """Give pool rows scaled for the fast similarity; one more column for `euclidean`."""
        norms = self._norms[part]
        if self.metric == "cosine":
            return _divided(self.rows.array[part], _nonzero(norms))
        if self.metric == "dot":
            return _divided(self.rows.array[part], np.full(len(norms), self._largest))
        rows = np.empty((len(norms), self.rows.width + 1), np.float32)
        rows[:, :-1] = self._centred(self.rows.array[part]) / self._largest
        rows[:, -1] = (norms / self._largest) ** 2 / 2
        return rows

    def fast_queries(
        self, queries: Rows, some: slice | Int64Array, scales: Float64Array
    ) -> Float32Array:
        """Give queries whose dot products with `fast_rows` are the fast similarities."""
        if self._center is None:
            return _divided(queries.array[some], scales[some])
        own = self._centred(queries.array[some]) / scales[some][:, None]
        last = -self._largest / scales[some]
        return np.concatenate([own, last[:, None]], axis=1).astype(np.float32)

    def placed(self, queries: Rows, some: slice | Int64Array) -> Float32Array:
        """Give queries on the scale of `fast_rows` without their last column (`euclidean`)."""
        return np.asarray(self._centred(queries.array[some]) / self._largest, np.float32)

    def query_scales(self, queries: Rows) -> Float64Array:
        """Give what each query is divided by for the fast similarity, [Q]."""
        if self._center is None:
            return _nonzero(queries.norms)
        return np.maximum(self._centred_norms(queries), self._largest)

    def _centred(self, array: RealArray) -> Float64Array:
        rows = array.astype(np.float64)
        return rows if self._center is None else rows - self._center

    def _centred_norms(self, rows: Rows) -> Float64Array:
        norms = np.empty(len(rows))
        for part in blocks(len(rows), rows.width):
            norms[part] = np.linalg.norm(self._centred(rows.array[part]), axis=1)
        return norms


def pair_groups(counts: Int64Array, n_pairs: int) -> Iterator[tuple[slice, slice]]:
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


def _mean(rows: Rows) -> Float64Array:
    total = np.zeros(rows.width)
    for part in blocks(len(rows), rows.width):
        total += rows.array[part].sum(0, dtype=np.float64) / len(rows)
    return total


def _divided(array: RealArray, divisors: Float64Array) -> Float32Array:
    """Give rows / divisors in float32, by way of float64 where float32 lacks the range."""
    if array.dtype == np.float64 or divisors.min() < _PLAIN[0] or divisors.max() > _PLAIN[1]:
        return np.asarray(array.astype(np.float64) / divisors[:, None], np.float32)
    rows = array.astype(np.float32)
    rows *= (1 / divisors)[:, None].astype(np.float32)
    return rows


def _nonzero(norms: Float64Array) -> Float64Array:
    return np.where(norms > 0, norms, 1)
