"""Rankings of the pool for each query: by features, by words, or by what several agree on.

Order, everywhere: scores rounded to 9 decimals, highest first, ties to the lowest row.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol, TypeAlias

import numpy as np
import numpy.typing as npt

from fungi_hf.errors import FeatureError, FingerprintMismatchError, InputError
from fungi_hf.icl.bm25 import InvertedIndex
from fungi_hf.icl.strategies import BM25, KNN, Hybrid, Stratified
from fungi_hf.neighbors.exact import ExactIndex
from fungi_hf.neighbors.topk import search_similarity
from fungi_hf.neighbors.vectors import read_rows

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from fungi_hf.icl.demos import ScoreKind
    from fungi_hf.icl.examples import Examples
    from fungi_hf.icl.strategies import Strategy
    from fungi_hf.neighbors.base import Metric

Rows: TypeAlias = npt.NDArray[np.int64]
Scores: TypeAlias = npt.NDArray[np.float64]
_RRF = 60  # Cormack et al. 2009
_QUERIES = 256  # queries whose scores over the whole pool are held at once


@dataclass(frozen=True, slots=True, eq=False)
class QueryRows:
    """Queries of one search: which rows of the query set, and what each may not get.

    Attributes:
        examples: The whole query set.
        rows: [b] rows of it.
        exclude: Query row -> pool rows, for the whole set.
    """

    examples: Examples
    rows: Rows
    exclude: Mapping[int, Rows]

    def only(self, positions: Rows | slice) -> QueryRows:
        """Return a part of the queries."""
        return QueryRows(self.examples, self.rows[positions], self.exclude)

    def excluded(self) -> dict[int, Rows]:
        """Return the exclusions by position within `rows`."""
        own = {position: self.exclude.get(int(row)) for position, row in enumerate(self.rows)}
        return {position: rows for position, rows in own.items() if rows is not None}


class Ranker(Protocol):
    """Ranks a fixed pool."""

    kind: ScoreKind

    def check(self, queries: Examples) -> None:
        """Refuse queries that cannot be ranked, and warn about odd ones."""

    def search(self, asked: QueryRows, depth: int) -> tuple[Rows, Scores]:
        """Give the first rows and their scores, [b, depth]; -1 and -inf where none is left."""

    def pairs(self, asked: QueryRows, rows: Rows) -> Scores:
        """Give the scores of given pool rows, [b, m]."""


class DenseRanking:
    """By cosine, dot product, or minus the squared Euclidean distance, in float64."""

    def __init__(self, pool: Examples, metric: Metric) -> None:
        """Index the pool's features."""
        self.metric: Metric = metric
        self.kind: ScoreKind = "distance" if metric == "euclidean" else "similarity"
        self.n_rows = len(pool)
        self._pool = pool
        self._index = ExactIndex(metric).fit(matrix_of(pool))

    def check(self, queries: Examples) -> None:
        """Refuse queries of another width or origin; warn about all-zero ones.

        Raises:
            FeatureError: If the widths differ.
            FingerprintMismatchError: If the features come from elsewhere.
        """
        own, other = matrix_of(self._pool), matrix_of(queries)
        if own.shape[1] != other.shape[1]:
            raise FeatureError(
                f"queries have features {list(other.shape)}, the pool {list(own.shape)}; "
                "the widths must be equal"
            )
        prints = self._pool.fingerprint, queries.fingerprint
        if None not in prints and prints[0] != prints[1]:
            raise FingerprintMismatchError(
                f"queries have fingerprint {prints[1]!r}, the pool {prints[0]!r}; "
                "extract both with the same extractor"
            )
        zero = int(np.count_nonzero(~other.any(axis=1)))
        if zero and self.metric == "cosine" and queries is not self._pool:
            warnings.warn(
                f"{zero} of {len(other)} queries have all-zero features; "
                "their similarity to everything is 0",
                UserWarning,
                stacklevel=4,
            )

    def search(self, asked: QueryRows, depth: int) -> tuple[Rows, Scores]:
        """Return the first rows of an exact search and their scores."""
        with warnings.catch_warnings():  # `check` has warned once about all-zero queries
            warnings.filterwarnings("ignore", message=".*all zeros", category=UserWarning)
            found = self._index.search(
                matrix_of(asked.examples)[asked.rows], depth, exclude=asked.excluded()
            )
        return found.indices, found.scores.astype(np.float64)

    def pairs(self, asked: QueryRows, rows: Rows) -> Scores:
        """Return the scores of given rows, in float64."""
        queries = read_rows(matrix_of(asked.examples)[asked.rows], "queries")
        rescore = self._index.pool.rescorer(queries)
        return rescore(np.arange(len(rows)), rows, np.full(len(rows), rows.shape[1]))

    def units(self, rows: Rows) -> Scores:
        """Return pool rows in float64, scaled to length 1, [m, F]; all-zero ones stay zero."""
        held = self._index.pool.rows
        return _scaled(held.array[rows], held.norms[rows])

    def query_units(self, asked: QueryRows) -> Scores:
        """Return queries in float64, scaled to length 1, [b, F]; all-zero ones stay zero."""
        held = read_rows(matrix_of(asked.examples)[asked.rows], "queries")
        return _scaled(held.array, held.norms)


class TextRanking:
    """By BM25."""

    kind: ScoreKind = "similarity"

    def __init__(self, pool: Examples, options: BM25) -> None:
        """Index the pool's texts."""
        self._index = InvertedIndex(pool.texts or (), options.k1, options.b, options.tokens)

    def check(self, queries: Examples) -> None:
        """Warn about queries that share no word with the pool."""
        texts = queries.texts or ()
        lost = self._index.n_unknown(texts)
        if lost:
            warnings.warn(
                f"{lost} of {len(texts)} queries share no token with the pool; they get the "
                "lowest rows",
                UserWarning,
                stacklevel=4,
            )

    def search(self, asked: QueryRows, depth: int) -> tuple[Rows, Scores]:
        """Return the best rows; every row is scored, a few queries at a time."""
        return _best(lambda part: self._scores(asked.only(part)), asked, depth)

    def pairs(self, asked: QueryRows, rows: Rows) -> Scores:
        """Return the scores of given rows."""
        scores = np.empty(rows.shape)
        for part in _parts(asked):
            found = self._scores(asked.only(part))
            scores[part] = np.take_along_axis(found, rows[part], axis=1)
        return scores

    def _scores(self, asked: QueryRows) -> Scores:
        texts = asked.examples.texts or ()
        return self._index.scores([texts[row] for row in asked.rows])


class FusedRanking:
    """By reciprocal rank fusion, or by a convex sum of normalised scores."""

    kind: ScoreKind = "similarity"

    def __init__(self, pool: Examples, options: Hybrid) -> None:
        """Index the pool for each ranking."""
        self._options = options
        self._rankers = [_single(ranker, pool) for ranker in options.rankers]
        self._n_rows = len(pool)

    def check(self, queries: Examples) -> None:
        """Check the queries for each ranking."""
        for ranker in self._rankers:
            ranker.check(queries)

    def search(self, asked: QueryRows, depth: int) -> tuple[Rows, Scores]:
        """Return the best rows by fused score, a few queries at a time."""
        fuse = self._by_ranks if self._options.fusion == "rrf" else self._by_scores
        first = min(self._options.depth, self._n_rows)
        lists = [ranker.search(asked, first)[0] for ranker in self._rankers]
        return _best(
            lambda part: fuse(asked.only(part), [rows[part] for rows in lists]), asked, depth
        )

    def pairs(self, asked: QueryRows, rows: Rows) -> Scores:
        """Return 0: rows outside the ranking, as shared ones are, have no fused score."""
        return np.zeros((len(asked.rows), rows.shape[1]))

    def _by_ranks(self, asked: QueryRows, lists: list[Rows]) -> Scores:
        fused = np.zeros((len(asked.rows), self._n_rows))
        weights = self._options.weights or (1.0,) * len(self._rankers)
        for weight, rows in zip(weights, lists, strict=True):
            queries, places = np.nonzero(rows >= 0)
            fused[queries, rows[queries, places]] += weight / (_RRF + 1 + places)
        return fused

    def _by_scores(self, asked: QueryRows, lists: list[Rows]) -> Scores:
        fused = np.zeros((len(asked.rows), self._n_rows))
        union = np.hstack(lists)  # [b, 2 depth]; a row of both lists stands there twice
        queries, places = np.nonzero(union >= 0)
        shares = (self._options.alpha, 1 - self._options.alpha)
        for share, ranker in zip(shares, self._rankers, strict=True):
            scores = ranker.pairs(asked, np.maximum(union, 0))
            low = np.where(union < 0, np.inf, scores).min(axis=1, keepdims=True)
            high = np.where(union < 0, -np.inf, scores).max(axis=1, keepdims=True)
            spread = np.where(high > low, high - low, np.inf)  # equal scores say nothing
            part = np.zeros_like(fused)
            part[queries, union[queries, places]] = ((scores - low) / spread)[queries, places]
            fused += share * part
        return fused


def ranker_for(strategy: Strategy, pool: Examples) -> Ranker | None:
    """Return what ranks the pool, indexed; None for random rows without features."""
    if isinstance(strategy, Stratified):
        strategy = strategy.ranker
    if isinstance(strategy, Hybrid):
        return FusedRanking(pool, strategy)
    if isinstance(strategy, (KNN, BM25)):
        return _single(strategy, pool)
    return None if pool.features is None else DenseRanking(pool, "cosine")


def _single(ranking: KNN | BM25, pool: Examples) -> Ranker:
    if isinstance(ranking, BM25):
        return TextRanking(pool, ranking)
    return DenseRanking(pool, ranking.metric)


def matrix_of(examples: Examples) -> npt.NDArray[np.floating]:
    """Return the features, known to be there.

    Raises:
        InputError: If there are none.
    """
    if examples.features is None:
        raise InputError("these examples have no features")
    return examples.features


def _scaled(array: npt.NDArray[np.floating], norms: Scores) -> Scores:
    return array.astype(np.float64) / np.where(norms > 0, norms, 1)[:, None]


def _parts(asked: QueryRows) -> list[slice]:
    """Return slices of a few queries."""
    return [slice(start, start + _QUERIES) for start in range(0, len(asked.rows), _QUERIES)]


def _best(
    scores_of: Callable[[slice], Scores], asked: QueryRows, depth: int
) -> tuple[Rows, Scores]:
    """Return the best rows of queries whose whole rows of scores are computed a few at a time."""
    found = [(np.empty((0, depth), np.int64), np.empty((0, depth)))]
    for part in _parts(asked):
        scores = scores_of(part)

        def block(some: slice, pool: slice, scores: Scores = scores) -> Scores:
            return scores[some, pool]

        n_queries, n_pool = scores.shape
        exclude = asked.only(part).excluded()
        found.append(search_similarity(block, n_pool, n_queries, depth, exclude=exclude))
    rows, values = zip(*found, strict=True)
    return np.vstack(rows), np.vstack(values)
