"""Rankings of the pool for each query: by features, by words, or by what several agree on.

Every ranking has a `kind` of scores and three methods: `check` refuses queries that cannot be
ranked and warns about odd ones, `search` gives the first rows and their scores, [b, depth], with -1
and -inf where none is left, and `pairs` gives the scores of given pool rows, [b, m].

Order, everywhere: scores rounded to 9 decimals, highest first, ties to the lowest row.
"""

from __future__ import annotations

import itertools
import re
import unicodedata
import warnings
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias

import numpy as np
import numpy.typing as npt

from fungi_hf.errors import InputTypeError
from fungi_hf.icl.scripts import MARKS, UNSPACED
from fungi_hf.icl.strategies import BM25, KNN, Hybrid, Stratified
from fungi_hf.neighbors.comparison import Comparison
from fungi_hf.neighbors.exact import ExactIndex
from fungi_hf.neighbors.topk import search_similarity
from fungi_hf.neighbors.vectors import check_same_origin, nonzero, read_rows, warn_zero

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
_RUN = re.compile(rf"[{UNSPACED}]+|(?:[^\W_{UNSPACED}]|[{MARKS}])+")
_UNSPACED = re.compile(rf"[{UNSPACED}]")


@dataclass(frozen=True, slots=True, eq=False)
class QueryRows:
    """Queries of one search: which rows of the query set, and what each may not get."""

    examples: Examples  # the whole query set
    rows: Rows  # [b] rows of it
    exclude: Mapping[int, Rows]  # query row -> pool rows, for the whole set

    def features(self) -> npt.NDArray[np.floating]:
        """Return the features of the rows, which the selector has seen to be there."""
        return np.asarray(self.examples.features)[self.rows]

    def only(self, positions: Rows | slice) -> QueryRows:
        """Return a part of the queries."""
        return QueryRows(self.examples, self.rows[positions], self.exclude)

    def without(self, drawn: Rows) -> QueryRows:
        """Return the whole query set with more pool rows excluded, [n, m]."""
        none = np.empty(0, np.int64)
        exclude = {q: np.union1d(self.exclude.get(q, none), own) for q, own in enumerate(drawn)}
        return QueryRows(self.examples, self.rows, exclude)

    def excluded(self) -> dict[int, Rows]:
        """Return the exclusions by position within `rows`."""
        places = enumerate(self.rows.tolist())
        return {place: self.exclude[row] for place, row in places if row in self.exclude}


class DenseRanking:
    """By cosine, dot product, or minus the squared Euclidean distance, in float64."""

    def __init__(self, pool: Examples, metric: Metric) -> None:
        self.metric: Metric = metric
        self.kind: ScoreKind = "distance" if metric == "euclidean" else "similarity"
        self.n_rows = pool.n_rows
        self._pool = pool
        self._index = ExactIndex(metric).fit(
            np.asarray(pool.features), fingerprint=pool.fingerprint
        )

    def check(self, queries: Examples) -> None:
        """Refuse queries of another width or origin; warn about all-zero ones."""
        rows = read_rows(np.asarray(queries.features), "queries", queries.fingerprint)
        check_same_origin(self._index.pool.rows, rows)
        if self.metric == "cosine" and queries is not self._pool:
            warn_zero(rows, "queries", stacklevel=5)

    def search(self, asked: QueryRows, depth: int) -> tuple[Rows, Scores]:
        """Return the first rows of an exact search and their scores."""
        found = self._compared(asked).nearest(depth, asked.excluded())
        return found.indices, found.scores.astype(np.float64)

    def pairs(self, asked: QueryRows, rows: Rows) -> Scores:
        """Return the scores of given rows, in float64."""
        counts = np.full(len(rows), rows.shape[1])
        return self._compared(asked).rescorer()(np.arange(len(rows)), rows, counts)

    def units(self, rows: Rows) -> Scores:
        """Return pool rows in float64, scaled to length 1, [m, F]; all-zero ones stay zero."""
        held = self._index.pool.rows
        return held.array[rows].astype(np.float64) / nonzero(held.norms[rows])[:, None]

    def query_units(self, asked: QueryRows) -> Scores:
        """Return queries in float64, scaled to length 1, [b, F]; all-zero ones stay zero."""
        held = self._index.pool.read(asked.features())
        return held.array.astype(np.float64) / nonzero(held.norms)[:, None]

    def _compared(self, asked: QueryRows) -> Comparison:
        pool = self._index.pool
        return Comparison(pool, pool.read(asked.features()))


def words(text: str) -> list[str]:
    """Return the runs of letters and digits of a text, without regard to case and Unicode form.

    Scripts without blanks between words (Chinese, Japanese, Thai, ...) give pairs of neighbours.
    """
    if text.isascii():
        return _RUN.findall(text.lower())
    found: list[str] = []
    for run in _RUN.findall(unicodedata.normalize("NFC", text).casefold()):
        paired = len(run) > 1 and _UNSPACED.match(run)
        found += map("".join, itertools.pairwise(run)) if paired else [run]
    return found


class TextRanking:
    """By BM25 over inverted lists of weights that are computed once.

    Formula: s(q, d) = sum over the distinct tokens w of q of
    idf(w) tf(w, d) (k1 + 1) / (tf(w, d) + k1 (1 - b + b len(d) / avglen)), with
    idf(w) = ln(1 + (N - n_w + 0.5) / (n_w + 0.5)); all statistics come from the pool.
    """

    kind: ScoreKind = "similarity"

    def __init__(self, pool: Examples, options: BM25) -> None:
        self._tokens, texts = options.tokens or words, pool.texts or ()
        self.n_rows = len(texts)
        vocabulary: dict[str, int] = {}
        codes: list[int] = []
        lengths = np.zeros(len(texts))
        for row, text in enumerate(texts):
            found = self._listed(text)
            lengths[row] = len(found)
            codes.extend(vocabulary.setdefault(token, len(vocabulary)) for token in found)
        self._vocabulary = vocabulary
        # One number per (token, row) pair; sorted, so that each token's rows lie together.
        rows = np.repeat(np.arange(len(texts)), lengths.astype(np.int64))
        pairs, counts = np.unique(np.array(codes, np.int64) * len(texts) + rows, return_counts=True)
        owners, self._rows = np.divmod(pairs, len(texts))
        held_by = np.bincount(owners, minlength=len(vocabulary))  # n_w
        self._starts = np.concatenate([[0], np.cumsum(held_by)])
        idf = np.log(1 + (len(texts) - held_by + 0.5) / (held_by + 0.5))
        average = lengths.mean() or 1.0
        norm = options.k1 * (1 - options.b + options.b * lengths / average)
        self._weights = idf[owners] * counts * (options.k1 + 1) / (counts + norm[self._rows])

    def check(self, queries: Examples) -> None:
        """Warn about queries that share no word with the pool."""
        known, texts = self._vocabulary, queries.texts or ()
        lost = sum(not any(token in known for token in self._listed(text)) for text in texts)
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
        scores = ((part, self._scores(asked.only(part))) for part in _parts(asked))
        return np.vstack([np.take_along_axis(own, rows[part], 1) for part, own in scores])

    def _scores(self, asked: QueryRows) -> Scores:
        """Return the scores of all pool rows, [b, N]; 0 where no token is shared."""
        texts, known = asked.examples.texts or (), self._vocabulary
        scores = np.zeros((len(asked.rows), self.n_rows))
        for position, row in enumerate(asked.rows):
            # In order of first use, not of hashing, so that every process adds in the same order.
            tokens = dict.fromkeys(self._listed(texts[row]))
            codes = [known[token] for token in tokens if token in known]
            held = [slice(self._starts[code], self._starts[code + 1]) for code in codes]
            if held:
                rows = np.concatenate([self._rows[part] for part in held])
                weights = np.concatenate([self._weights[part] for part in held])
                scores[position] = np.bincount(rows, weights, self.n_rows)
        return scores

    def _listed(self, text: str) -> list[str]:
        found = self._tokens(text)
        if isinstance(found, str):
            raise InputTypeError("tokens gave one string; it returns a list of tokens")
        return list(found)


class FusedRanking:
    """By reciprocal rank fusion, or by a convex sum of normalised scores."""

    kind: ScoreKind = "similarity"

    def __init__(self, pool: Examples, options: Hybrid) -> None:
        self._options = options
        self._rankers = [
            TextRanking(pool, ranker)
            if isinstance(ranker, BM25)
            else DenseRanking(pool, ranker.metric)
            for ranker in options.rankers
        ]
        self._n_rows = pool.n_rows

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


Ranker: TypeAlias = DenseRanking | TextRanking | FusedRanking


def ranker_for(strategy: Strategy, pool: Examples) -> Ranker | None:
    """Return what ranks the pool, indexed; None for random rows without features."""
    if isinstance(strategy, Stratified):
        strategy = strategy.ranker
    if isinstance(strategy, Hybrid):
        return FusedRanking(pool, strategy)
    if isinstance(strategy, BM25):
        return TextRanking(pool, strategy)
    if isinstance(strategy, KNN):
        return DenseRanking(pool, strategy.metric)
    return None if pool.features is None else DenseRanking(pool, "cosine")


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
