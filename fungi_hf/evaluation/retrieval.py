"""Retrieval: the ranking of a pool for each query, against same labels or given judgements."""

from __future__ import annotations

import itertools
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from numbers import Real
from typing import TYPE_CHECKING, Literal, get_args

import numpy as np

from fungi_hf.checks import check_choice, check_choices, check_fields, check_integer
from fungi_hf.errors import InputError, InputTypeError, ShapeError
from fungi_hf.evaluation.inputs import check_pair, choose_combinations, read_blocks
from fungi_hf.evaluation.protocols import AS_INPUT, check_each, expect, protocol_named, reduced
from fungi_hf.evaluation.records import Draw, summarise
from fungi_hf.neighbors import ExactIndex
from fungi_hf.neighbors.base import Metric
from fungi_hf.neighbors.labels import check_kinds, read_labels

if TYPE_CHECKING:
    from fungi_hf.evaluation.inputs import Combination, FeatureInput, Sides
    from fungi_hf.evaluation.records import EvaluationResult
    from fungi_hf.neighbors.labels import Labels
    from fungi_hf.types import Float64Array, Int64Array

Formula = Literal["standard", "trapezoid"]
Level = Literal["easy", "medium", "hard"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Relevance:
    """What each query should find.

    Attributes:
        gains: One mapping a query: pool row -> gain above 0; rows not named have gain 0.
        junk: One sequence a query: pool rows removed from its ranking, e.g. itself.
    """

    gains: Sequence[Mapping[int, float]]
    junk: Sequence[Sequence[int]] = field(default=())

    @classmethod
    def same_label(
        cls, query_labels: Labels, pool_labels: Labels, *, same_rows: bool = False
    ) -> Relevance:
        """Call every pool row of the query's label relevant, with gain 1.

        With `same_rows` queries are the pool's rows, and each is junk for itself.

        Raises:
            ShapeError: If the queries cannot be the pool's rows.
        """
        queries = read_labels(query_labels, "query labels")
        pool = read_labels(pool_labels, "pool labels")
        check_kinds(pool, queries, ("pool", "query"))
        if same_rows and len(queries) != len(pool):
            raise ShapeError(
                f"same_rows is for queries that are the pool's rows; there are {len(queries)} "
                f"query labels and {len(pool)} pool labels"
            )
        rows = {label: np.flatnonzero(pool == label).tolist() for label in np.unique(queries)}
        gains = [
            {row: 1.0 for row in rows[label] if not (same_rows and row == query)}
            for query, label in enumerate(queries)
        ]
        return cls(gains=gains, junk=[[i] for i in range(len(queries))] if same_rows else ())

    @classmethod
    def landmarks(
        cls,
        easy: Sequence[Sequence[int]],
        hard: Sequence[Sequence[int]],
        junk: Sequence[Sequence[int]],
        *,
        level: Level = "medium",
    ) -> Relevance:
        """Give the published landmark judgements from each query's easy, hard and junk pool rows.

        `easy`: easy alone is positive, hard is junk too. `medium`: easy and hard are positive.
        `hard`: hard alone, easy is junk too.

        Raises:
            ShapeError: If the three differ in length.
        """
        check_choice("level", level, get_args(Level))
        if not len(easy) == len(hard) == len(junk):
            raise ShapeError(
                f"landmarks have {len(easy)} easy, {len(hard)} hard and {len(junk)} junk lists; "
                "each query needs one of each"
            )
        wanted, ignored = [], []
        for e, h, j in zip(easy, hard, junk, strict=True):
            wanted.append({"easy": [*e], "medium": [*e, *h], "hard": [*h]}[level])
            ignored.append({"easy": [*j, *h], "medium": [*j], "hard": [*j, *e]}[level])
        for row in itertools.chain.from_iterable(wanted):
            check_integer("a landmark row", row, 0, **AS_INPUT)
        return cls(gains=[dict.fromkeys(map(int, rows), 1.0) for rows in wanted], junk=ignored)


@dataclass(frozen=True, slots=True, kw_only=True)
class RetrievalProtocol:
    """How to rank and score.

    Attributes:
        cutoffs: The k of mP@k and nDCG@k.
        formula: `standard`: average precision is the mean precision at the relevant ranks, mP@k
            divides by k. `trapezoid`: the published landmark formulas.
        pca: Components fitted on the pool, see `KNNProtocol`.
    """

    name: str = "fungi"
    metric: Metric = "cosine"
    cutoffs: tuple[int, ...] = (1, 5, 10)
    formula: Formula = "standard"
    pca: int | None = None

    def __post_init__(self) -> None:
        check_choices(self, {"metric": Metric, "formula": Formula})
        check_fields(self, ("pca",), check_integer, optional=True, **AS_INPUT)
        check_fields(self, ("cutoffs",), check_each, check_integer, **AS_INPUT)


_LANDMARKS = RetrievalProtocol(name="paper-landmarks", metric="dot", formula="trapezoid", pca=512)
RETRIEVAL_PROTOCOLS: Mapping[str, RetrievalProtocol] = {
    one.name: one for one in (RetrievalProtocol(), _LANDMARKS)
}


def evaluate_retrieval(
    pool: FeatureInput,
    queries: FeatureInput,
    relevance: Relevance,
    *,
    protocol: RetrievalProtocol | str = "fungi",
    combinations: Sequence[Sequence[str]] | None = None,
) -> list[EvaluationResult]:
    """Rank the pool [N, F] for each query [Q, F] by every combination of blocks.

    Features and combinations are as for `evaluate_knn`. Relevance has one judgement a query;
    queries without a relevant row that is not junk are left out and noted. The protocol is a
    `RetrievalProtocol` or the name of one of `RETRIEVAL_PROTOCOLS`. Records, one a combination,
    hold `map`, `mp@k` and `ndcg@k`.

    Raises:
        InputError: If no query has a relevant row.
    """
    rule = protocol_named(protocol, RETRIEVAL_PROTOCOLS, "retrieval")
    expect(relevance, Relevance, "relevance")
    held, asked = read_blocks(pool, "pool"), read_blocks(queries, "queries")
    check_pair(held, asked, ("pool", "queries"))
    _check_relevance(relevance, len(asked), len(held))
    junk = [set(rows) for rows in relevance.junk] or [set()] * len(asked)
    lost = sum(set(gains) <= rows for gains, rows in zip(relevance.gains, junk, strict=True))
    if lost == len(asked):
        raise InputError(
            f"none of the {len(asked)} queries has a relevant row in the pool that is not junk"
        )
    notes = (f"{lost} queries without a relevant row are left out",) if lost else ()
    wanted = choose_combinations(held.layout, combinations)
    draws = {some: [_rank(some, (held, asked), relevance, rule)] for some in wanted}
    return summarise("retrieval", rule, draws, asked, notes=notes)


def average_precision(ranks: Int64Array, formula: Formula = "standard") -> float:
    """Give the average precision of a ranking.

    Formula: with 0-based ranks r_0 < r_1 < ... of n > 0 relevant rows, `standard` is the mean of
    (j + 1) / (r_j + 1); `trapezoid` the mean of the halves of that and of j / r_j (1 if r_j = 0).
    Not scikit-learn's, which reads scores, averages over their ties and takes 400 times as long.
    """
    places = np.arange(len(ranks))
    after = (places + 1) / (ranks + 1)
    if formula == "standard":
        return float(after.mean())
    before = np.where(ranks == 0, 1.0, places / np.maximum(ranks, 1))
    return float((before + after).mean() / 2)


def precision_at(ranks: Int64Array, k: int, formula: Formula = "standard") -> float:
    """Give the share of relevant rows, of the ranks of `average_precision`, among the first k.

    For `trapezoid` k is at most the last relevant rank (1-based), as published.
    """
    depth = k if formula == "standard" else min(int(ranks[-1]) + 1, k)
    return float((ranks < depth).sum() / depth)


def discounted_gain_at(gains: Float64Array, ideal: Float64Array, k: int) -> float:
    """Give nDCG@k: sum of gain / log2(rank + 1), 1-based, over that of the best ranking.

    Gains are those of the ranked rows, best rank first; ideal are all positive ones, in any order.
    Not scikit-learn's, which averages the gains of tied scores: ties here are ranked by row.
    """
    best = np.sort(ideal)[::-1][:k]
    top = gains[:k]
    discount = 1 / np.log2(np.arange(2, k + 2))
    return float((top * discount[: len(top)]).sum() / (best * discount[: len(best)]).sum())


def _rank(some: Combination, sides: Sides, relevance: Relevance, rule: RetrievalProtocol) -> Draw:
    pool, asked = sides
    low, high, notes = reduced(*sides, some, rule.pca)
    names = ["map", *[f"mp@{k}" for k in rule.cutoffs], *[f"ndcg@{k}" for k in rule.cutoffs]]
    table = np.full((len(asked), len(names)), np.nan)
    junk = {query: list(rows) for query, rows in enumerate(relevance.junk)}
    ranked = ExactIndex(rule.metric).fit(low).rankings(high, exclude=junk)
    for query, (one, judged) in enumerate(zip(ranked, relevance.gains, strict=True)):
        order = one.indices[0][one.indices[0] >= 0]
        gains = np.zeros(len(pool))
        gains[list(judged)] = list(judged.values())
        gains[junk.get(query, [])] = 0
        ideal = gains[gains > 0]
        if not len(ideal):
            continue
        ranks = np.flatnonzero(gains[order] > 0)
        table[query] = [
            average_precision(ranks, rule.formula),
            *[precision_at(ranks, k, rule.formula) for k in rule.cutoffs],
            *[discounted_gain_at(gains[order], ideal, k) for k in rule.cutoffs],
        ]
    metrics = dict(zip(names, np.nanmean(table, axis=0).tolist(), strict=True))
    return Draw(metrics=metrics, scores=table[:, 0], notes=notes, n_train=len(pool))


def _check_relevance(relevance: Relevance, n_queries: int, n_pool: int) -> None:
    # Refuse what is not one judgement a query, of rows of the pool.
    for name, given in (("gains", relevance.gains), ("junk", relevance.junk)):
        if isinstance(given, str | Mapping) or not isinstance(given, Sequence | np.ndarray):
            raise InputTypeError(
                f"relevance {name} are a {type(given).__name__}; give a sequence, one a query"
            )
        if len(given) != n_queries and not (name == "junk" and not len(given)):
            raise ShapeError(f"relevance has {len(given)} {name} for {n_queries} queries")
        for query, rows in enumerate(given):
            _check_rows(rows, f"relevance {name} of query {query}", n_pool, gains=name == "gains")


def _check_rows(rows: object, what: str, n_pool: int, *, gains: bool) -> None:
    # Refuse what does not name rows of the pool, or (gains) give each a number above 0.
    is_text = isinstance(rows, str | bytes)
    if is_text or not isinstance(rows, Collection) or isinstance(rows, Mapping) is not gains:
        words = "a mapping of pool row to gain, as {3: 1.0}" if gains else "pool rows, as [3]"
        raise InputTypeError(f"{what} are a {type(rows).__name__}; give {words}")
    for row in rows:
        # Called for odd rows alone: there may be millions.
        if type(row) is not int or not 0 <= row < n_pool:
            check_integer(f"{what}: a pool row", row, 0, n_pool - 1, **AS_INPUT)
    for row, gain in rows.items() if isinstance(rows, Mapping) else ():
        is_number = isinstance(gain, Real)
        if not is_number or not 0 < gain < np.inf:
            raise (InputError if is_number else InputTypeError)(
                f"{what}: the gain of row {row} must be a number above 0; got {gain!r}"
            )
