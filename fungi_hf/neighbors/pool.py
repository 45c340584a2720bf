"""Stored rows, checked and measured for their metric.

Rows are compared in float32 after they are scaled to a norm of at most 1, so that one bound on the
error holds whatever the vectors' magnitude.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from fungi_hf.errors import FeatureError
from fungi_hf.neighbors.vectors import blocks, check_same_origin, nonzero, norms_of, read_rows

if TYPE_CHECKING:
    from fungi_hf.neighbors.base import Metric, Vectors
    from fungi_hf.neighbors.vectors import RealArray, Rows
    from fungi_hf.types import Float64Array, Int64Array, Layout

_PLAIN = (1e-30, 1e30)  # float32 rows can be divided by such numbers in float32
_LARGEST = 1e150  # products of such norms stay within float64


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
        """Measure what the metric needs.

        Args:
            rows: [N, F], N at least 1.
            metric: How to compare.
            layout: Blocks of columns, where combinations of blocks are to be compared.
        """
        if not rows.array.flags.c_contiguous:
            rows = replace(rows, array=np.ascontiguousarray(rows.array))
        self.rows, self.metric = rows, metric
        self.names = list(layout or {"": slice(0, rows.width)})
        self.columns = list((layout or {"": slice(0, rows.width)}).values())
        self.check_range(rows, "vectors")
        self.center = _mean(rows) if metric == "euclidean" else 0.0
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


def _mean(rows: Rows) -> Float64Array:
    total = np.zeros(rows.width)
    for part in blocks(len(rows), rows.width):
        total += rows.array[part].sum(0, dtype=np.float64) / len(rows)
    return total
