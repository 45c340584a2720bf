"""Nearest neighbours for every combination of blocks from one pass over the training rows.

The dot product of concatenated blocks is the sum of the blocks' dot products, so each block is
multiplied once and combinations only add. Candidates are scored again in float64: neighbours and
ties are those of `ExactIndex` on the concatenation. Memory does not grow with the training rows.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from fungi_hf.errors import FeatureError
from fungi_hf.neighbors.base import Neighbors, as_scores, check_count, check_metric
from fungi_hf.neighbors.pool import pair_groups
from fungi_hf.neighbors.topk import DECIMALS, Candidates, Refinement, excluded_pairs
from fungi_hf.neighbors.vectors import blocks

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from fungi_hf.evaluation.inputs import Combination
    from fungi_hf.neighbors.base import Exclusions, Metric
    from fungi_hf.neighbors.vectors import RealArray, Rows
    from fungi_hf.types import Float32Array, Float64Array, Int64Array, Layout

_QUERIES, _POOL = 256, 8192  # 8 MB a block of float32
_SMALL = 2048  # training rows, e.g. few-shot: float64 throughout
_PAIR_NUMBERS = 1 << 17
_LARGEST = 1e15  # squares of such norms, and their scaling, stay within float32's range


@dataclass(frozen=True, slots=True)
class _Side:
    """Rows with the squared norm of each block, [N, blocks] float64."""

    rows: Rows
    squares: Float64Array

    def norms(self, places: list[int], some: slice | Int64Array = slice(None)) -> Float64Array:
        return np.sqrt(self.squares[some][:, places].sum(axis=1))


def combination_neighbors(
    train: Rows,
    test: Rows,
    layout: Layout,
    combinations: Sequence[Combination],
    k: int,
    metric: Metric = "cosine",
    exclude: Exclusions | None = None,
) -> dict[Combination, Neighbors]:
    """Find the k nearest training rows of each test row, by every combination.

    Args:
        train: [N, F], may be memory-mapped.
        test: [Q, F].
        layout: Block name -> columns, the same for both.
        combinations: Tuples of block names.
        k: 1 to N.
        metric: As for `ExactIndex`, on the concatenated blocks.
        exclude: Test row -> training rows that it may not get.

    Returns:
        Combination -> neighbours [Q, k].

    Raises:
        FeatureError: If a norm is beyond what float32 can compare.
    """
    check_metric(metric)
    k = check_count(k, "k", 1, len(train), f" (training rows: {len(train)})")
    for name, rows in (("train", train), ("test", test)):
        if len(rows) and rows.norms.max() > _LARGEST:
            raise FeatureError(f"{name} has a row of norm {rows.norms.max():.1e}; scale it down")
    comparison = _Comparison(
        _Side(train, _squares(train, layout)), _Side(test, _squares(test, layout)), layout, metric
    )
    skipped = excluded_pairs(exclude, len(test), len(train))
    found = {some: _answer(len(test), k) for some in combinations}
    small = len(train) <= _SMALL
    holders = {
        some: [Candidates(part, k, skipped, refinement) for part in _cut(len(test), _QUERIES)]
        for some in combinations
        for refinement in [None if small else comparison.refinement(some)]
    }
    for pool in _cut(len(train), _POOL):
        scaled = None if small else comparison.scaled_pool(pool)
        for number, queries in enumerate(_cut(len(test), _QUERIES)):
            if scaled is None:
                exact = comparison.exact_grams(queries, pool)
                for some in combinations:
                    block = comparison.exact(some, exact, queries, pool)
                    holders[some][number].offer(block, pool)
                continue
            grams = comparison.grams(scaled, queries)
            for some in combinations:
                fast = comparison.combined(some, grams, queries, pool)
                holders[some][number].offer(fast, pool)
    for some, (indices, scores) in found.items():
        for holder in holders.pop(some):
            holder.finish(indices[holder.queries], scores[holder.queries])
    return {
        some: Neighbors(indices=indices, scores=as_scores(scores), metric=metric)
        for some, (indices, scores) in found.items()
    }


class _Comparison:
    """Fast similarities of combinations, r the largest training norm and s a query's scale.

    cosine     sum of <q_b, p_b> / (s |p|)          s = |q| over all blocks
    dot        sum of <q_b, p_b> / (s r)
    euclidean  (sum of <q_b, p_b> - |p|^2 / 2) / (s r)   s = max(|q|, r)
    """

    def __init__(self, train: _Side, test: _Side, layout: Layout, metric: Metric) -> None:
        self.train, self.test, self.layout, self.metric = train, test, layout, metric
        self.names = list(layout)
        self.largest = float(train.rows.norms.max()) or 1.0
        norms = test.rows.norms
        floor = self.largest if metric == "euclidean" else 0.0
        self.scales = np.maximum(np.where(norms > 0, norms, 1), floor)

    def scaled_pool(self, part: slice) -> Float32Array:
        return _divided(self.train.rows.array[part], np.full(1, self.largest))

    def grams(self, pool: Float32Array, queries: slice) -> dict[str, Float32Array]:
        own = _divided(self.test.rows.array[queries], self.scales[queries])
        return {name: own[:, part] @ pool[:, part].T for name, part in self.layout.items()}

    def combined(
        self, some: Combination, grams: dict[str, Float32Array], queries: slice, pool: slice
    ) -> Float32Array:
        total = grams[some[0]].copy()
        for name in some[1:]:
            total += grams[name]
        if self.metric == "dot":
            return total
        norms = self.train.norms(self._places(some), pool) / self.largest
        if self.metric == "cosine":
            total *= np.where(norms > 0, 1 / np.where(norms > 0, norms, 1), 0).astype(np.float32)
        else:
            ratio = (self.largest / self.scales[queries]).astype(np.float32)
            total -= ratio[:, None] * (norms**2 / 2).astype(np.float32)
        return total

    def refinement(self, some: Combination) -> Refinement:
        """Bound the float32 error as `Pool.margin` does, one rounding more a block."""
        places = self._places(some)
        share = self.test.norms(places) / self.scales  # at most 1
        error = 1.1 * (self.train.rows.width + 24 + len(some)) * 2.0**-24
        units = 2 * 10.0**-DECIMALS
        if self.metric == "cosine":
            margin = (2 * error + units) * share
        elif self.metric == "dot":
            margin = 2 * error * share + units / (self.largest * self.scales)
        else:
            margin = np.full(len(share), 3 * error) + units / (2 * self.largest * self.scales)
        # A query whose blocks are all zero has equal scores everywhere.
        return Refinement(margin=np.maximum(margin, 1e-30), rescore=self._rescorer(some, places))

    def _rescorer(
        self, some: Combination, places: list[int]
    ) -> Callable[[Int64Array, Int64Array, Int64Array], Float64Array]:
        parts = [self.layout[name] for name in some]
        own_norms = self.test.norms(places)
        step = max(1, _PAIR_NUMBERS // self.train.rows.width)

        def rescore(queries: Int64Array, rows: Int64Array, counts: Int64Array) -> Float64Array:
            scores = np.full(rows.shape, -np.inf)
            for group, columns in pair_groups(counts, step):
                held = rows[group, columns]
                near = self.train.rows.array[held.ravel()].reshape(*held.shape, -1)
                own = self.test.rows.array[queries[group]]
                scores[group, columns] = self._score(near, own, parts)
                if self.metric == "cosine":
                    norms = self.train.norms(places, held.ravel()).reshape(held.shape)
                    norms = norms * own_norms[queries[group]][:, None]
                    scores[group, columns] /= _nonzero(norms)
            scores[np.arange(rows.shape[1]) >= counts[:, None]] = -np.inf
            return scores

        return rescore

    def _score(self, near: RealArray, own: RealArray, parts: list[slice]) -> Float64Array:
        """Compare queries [g, F] with vectors [g, w, F] by some columns, [g, w]."""
        total = np.zeros(near.shape[:2])
        for part in parts:
            some, query = near[..., part].astype(np.float64), own[:, part].astype(np.float64)
            if self.metric == "euclidean":
                some -= query[:, None]
                total -= np.einsum("gwf,gwf->gw", some, some)
            else:
                total += np.einsum("gwf,gf->gw", some, query)
        return total

    def exact_grams(self, queries: slice, pool: slice) -> dict[str, Float64Array]:
        """Give each block's dot products in float64, [q, b]."""
        own = self.test.rows.array[queries].astype(np.float64)
        rows = self.train.rows.array[pool].astype(np.float64)
        return {name: own[:, part] @ rows[:, part].T for name, part in self.layout.items()}

    def exact(
        self, some: Combination, grams: dict[str, Float64Array], queries: slice, pool: slice
    ) -> Float64Array:
        """Give the scores of a combination, [q, b]."""
        places = self._places(some)
        total = grams[some[0]].copy()
        for name in some[1:]:
            total += grams[name]
        if self.metric == "dot":
            return total
        own, near = self.test.norms(places, queries)[:, None], self.train.norms(places, pool)
        if self.metric == "cosine":
            return total / _nonzero(own * near)
        return np.minimum(2 * total - own**2 - near**2, 0)

    def _places(self, some: Combination) -> list[int]:
        return [self.names.index(name) for name in some]


def _squares(rows: Rows, layout: Layout) -> Float64Array:
    squares = np.empty((len(rows), len(layout)))
    for part in blocks(len(rows), rows.width):
        exact = rows.array[part].astype(np.float64)
        for place, columns in enumerate(layout.values()):
            squares[part, place] = np.einsum("ij,ij->i", exact[:, columns], exact[:, columns])
    return squares


def _divided(array: RealArray, divisors: Float64Array) -> Float32Array:
    if array.dtype == np.float32 and divisors.min() > 1e-30:
        return np.asarray(array * (1 / divisors)[:, None].astype(np.float32), np.float32)
    return np.asarray(array.astype(np.float64) / divisors[:, None], np.float32)


def _cut(n_rows: int, step: int) -> Iterator[slice]:
    for start in range(0, n_rows, step):
        yield slice(start, min(start + step, n_rows))


def _answer(n_queries: int, k: int) -> tuple[Int64Array, Float64Array]:
    return np.full((n_queries, k), -1, np.int64), np.full((n_queries, k), -np.inf)


def _nonzero(norms: Float64Array) -> Float64Array:
    return np.where(norms > 0, norms, 1)
