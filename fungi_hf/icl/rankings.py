"""Rankings of the pool for each query: by features, by words, or by what several agree on.

Order, everywhere: scores rounded to 9 decimals, highest first, ties to the lowest row.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol, TypeAlias

import numpy as np
import numpy.typing as npt

from fungi_hf.errors import InputError
from fungi_hf.icl.bm25 import InvertedIndex
from fungi_hf.icl.strategies import BM25, KNN
from fungi_hf.neighbors.comparison import Comparison
from fungi_hf.neighbors.exact import ExactIndex
from fungi_hf.neighbors.topk import search_similarity
from fungi_hf.neighbors.vectors import check_same_origin, nonzero, read_rows, warn_zero

if TYPE_CHECKING:
    from collections.abc import Mapping

    from fungi_hf.icl.demos import ScoreKind
    from fungi_hf.icl.examples import Examples
    from fungi_hf.icl.strategies import Hybrid, Metric, Ranking

Rows: TypeAlias = npt.NDArray[np.int64]
Scores: TypeAlias = npt.NDArray[np.float64]
_RRF = 60  # Cormack et al. 2009
_QUERIES = 256  # queries whose scores over the whole pool are held at once


@dataclass(frozen=True, slots=True, eq=False)
class Asked:
    """Queries of one search: which rows of the query set, and what each may not get.

    Attributes:
        examples: The whole query set.
        rows: [b] rows of it.
        exclude: Query row -> pool rows, for the whole set.
    """

    examples: Examples
    rows: Rows
    exclude: Mapping[int, Rows]

    def only(self, positions: Rows | slice) -> Asked:
        """Return a part of the queries."""
        return Asked(self.examples, self.rows[positions], self.exclude)

    def excluded(self) -> dict[int, Rows]:
        """Return the exclusions by position within `rows`."""
        own = {position: self.exclude.get(int(row)) for position, row in enumerate(self.rows)}
        return {position: rows for position, rows in own.items() if rows is not None}

    def parts(self, size: int) -> list[Asked]:
        """Return parts of at most `size` queries."""
        starts = range(0, len(self.rows), size)
        return [self.only(slice(start, start + size)) for start in starts]


class Ranker(Protocol):
    """Ranks a fixed pool."""

    kind: ScoreKind

    def check(self, queries: Examples) -> None:
        """Refuse queries that cannot be ranked, and warn about odd ones."""

    def search(self, asked: Asked, depth: int) -> tuple[Rows, Scores]:
        """Give the first rows and their scores, [b, depth]; -1 and -inf where none is left."""

    def pairs(self, asked: Asked, rows: Rows) -> Scores:
        """Give the scores of given pool rows, [b, m]."""


class DenseRanking:
    """By cosine, dot product, or minus the squared Euclidean distance, in float64."""

    def __init__(self, pool: Examples, metric: Metric) -> None:
        """Index the pool's features."""
        self.metric: Metric = metric
        self.kind: ScoreKind = "distance" if metric == "euclidean" else "similarity"
        self._pool = pool
        self._index = ExactIndex(metric).fit(matrix_of(pool), fingerprint=pool.fingerprint)

    def check(self, queries: Examples) -> None:
        """Refuse queries of another width or origin; warn about all-zero ones."""
        rows = read_rows(matrix_of(queries), "queries", queries.fingerprint)
        check_same_origin(self._index.pool.rows, rows)
        if self.metric == "cosine" and queries is not self._pool:
            warn_zero(rows, "queries", stacklevel=5)

    def search(self, asked: Asked, depth: int) -> tuple[Rows, Scores]:
        """Return the first rows of an exact search and their scores."""
        found = self._compared(asked).nearest(depth, asked.excluded())
        return found.indices, found.scores.astype(np.float64)

    def pairs(self, asked: Asked, rows: Rows) -> Scores:
        """Return the scores of given rows, in float64."""
        counts = np.full(len(rows), rows.shape[1])
        return self._compared(asked).rescorer()(np.arange(len(rows)), rows, counts)

    def _compared(self, asked: Asked) -> Comparison:
        pool = self._index.pool
        return Comparison(pool, pool.read(matrix_of(asked.examples)[asked.rows]))

    def vectors(self, rows: Rows) -> Scores:
        """Return pool rows in float64, of length 1 if the metric is the cosine, [m, F]."""
        held = matrix_of(self._pool)[rows].astype(np.float64)
        if self.metric == "cosine":
            held /= nonzero(self._index.pool.rows.norms[rows])[:, None]
        return held


class TextRanking:
    """By BM25."""

    kind: ScoreKind = "similarity"

    def __init__(self, pool: Examples, options: BM25) -> None:
        """Index the pool's texts."""
        self._n_rows = len(pool)
        self._index = InvertedIndex(texts_of(pool), options.k1, options.b, options.tokens)

    def check(self, queries: Examples) -> None:
        """Warn about queries that share no word with the pool."""
        lost = self._index.n_unknown(texts_of(queries))
        if lost:
            warnings.warn(
                f"{lost} of {len(queries)} queries share no token with the pool; they get the "
                "lowest rows",
                UserWarning,
                stacklevel=4,
            )

    def search(self, asked: Asked, depth: int) -> tuple[Rows, Scores]:
        """Return the best rows; every row is scored, a few queries at a time."""
        parts = [_best(self._scores(part), part, depth) for part in asked.parts(_QUERIES)]
        return _stacked(parts, depth)

    def pairs(self, asked: Asked, rows: Rows) -> Scores:
        """Return the scores of given rows."""
        scores = np.empty(rows.shape)
        for start in range(0, len(rows), _QUERIES):
            part = slice(start, start + _QUERIES)
            scores[part] = np.take_along_axis(self._scores(asked.only(part)), rows[part], axis=1)
        return scores

    def _scores(self, asked: Asked) -> Scores:
        texts = texts_of(asked.examples)
        return self._index.scores([texts[row] for row in asked.rows])


class FusedRanking:
    """By reciprocal rank fusion, or by a convex sum of normalised scores."""

    kind: ScoreKind = "similarity"

    def __init__(self, pool: Examples, options: Hybrid) -> None:
        """Index the pool for each ranking."""
        self._options = options
        self._rankers = [ranker_for(ranker, pool) for ranker in options.rankers]
        self._n_rows = len(pool)

    def check(self, queries: Examples) -> None:
        """Check the queries for each ranking."""
        for ranker in self._rankers:
            ranker.check(queries)

    def search(self, asked: Asked, depth: int) -> tuple[Rows, Scores]:
        """Return the best rows by fused score, a few queries at a time."""
        fuse = self._by_ranks if self._options.fusion == "rrf" else self._by_scores
        first = min(self._options.depth, self._n_rows)
        lists = [ranker.search(asked, first)[0] for ranker in self._rankers]
        parts = []
        for start in range(0, len(asked.rows), _QUERIES):
            part = asked.only(slice(start, start + _QUERIES))
            fused = fuse(part, [rows[start : start + _QUERIES] for rows in lists])
            parts.append(_best(fused, part, depth))
        return _stacked(parts, depth)

    def pairs(self, asked: Asked, rows: Rows) -> Scores:
        """Return 0: rows outside the ranking, as shared ones are, have no fused score."""
        return np.zeros((len(asked.rows), rows.shape[1]))

    def _by_ranks(self, asked: Asked, lists: list[Rows]) -> Scores:
        fused = np.zeros((len(asked.rows), self._n_rows))
        weights = self._options.weights or (1.0,) * len(self._rankers)
        for weight, rows in zip(weights, lists, strict=True):
            queries, places = np.nonzero(rows >= 0)
            fused[queries, rows[queries, places]] += weight / (_RRF + 1 + places)
        return fused

    def _by_scores(self, asked: Asked, lists: list[Rows]) -> Scores:
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


def ranker_for(ranking: Ranking, pool: Examples) -> Ranker:
    """Return the ranker that a record describes, with the pool indexed."""
    if isinstance(ranking, KNN):
        return DenseRanking(pool, ranking.metric)
    return TextRanking(pool, ranking) if isinstance(ranking, BM25) else FusedRanking(pool, ranking)


def matrix_of(examples: Examples) -> npt.NDArray[np.floating]:
    """Return the features, known to be there.

    Raises:
        InputError: If there are none.
    """
    if examples.features is None:
        raise InputError("these examples have no features")
    return examples.features


def texts_of(examples: Examples) -> tuple[str, ...]:
    """Return the texts, known to be there.

    Raises:
        InputError: If there are none.
    """
    texts = examples.texts
    if texts is None:
        raise InputError("these examples have no texts")
    return texts


def unit(vectors: Scores) -> Scores:
    """Return vectors of length 1 along the last axis; all-zero ones stay zero."""
    largest = np.abs(vectors).max(axis=-1, keepdims=True)
    scaled = vectors / np.where(largest == 0, 1, largest)  # squares stay in range
    norms = np.sqrt((scaled**2).sum(axis=-1, keepdims=True))
    return scaled / np.where(norms == 0, 1, norms)


def _best(scores: Scores, asked: Asked, depth: int) -> tuple[Rows, Scores]:
    def block(queries: slice, pool: slice) -> Scores:
        return scores[queries, pool]

    n_queries, n_pool = scores.shape
    return search_similarity(block, n_pool, n_queries, depth, exclude=asked.excluded())


def _stacked(parts: list[tuple[Rows, Scores]], depth: int) -> tuple[Rows, Scores]:
    if not parts:
        return np.empty((0, depth), np.int64), np.empty((0, depth))
    return np.vstack([rows for rows, _ in parts]), np.vstack([scores for _, scores in parts])
