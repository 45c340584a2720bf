"""Retrieval: the ranking of a pool for each query, against what it should find."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal

import numpy as np

from fungi_hf.checks import check_choices, check_fields, check_integer
from fungi_hf.errors import InputError
from fungi_hf.evaluation.inputs import check_pair, choose_combinations, read_blocks
from fungi_hf.evaluation.protocols import AS_INPUT, check_each, expect, protocol_named, reduced
from fungi_hf.evaluation.records import Draw, summarise
from fungi_hf.evaluation.relevance import Relevance, check_relevance
from fungi_hf.neighbors import ExactIndex
from fungi_hf.neighbors.base import Metric

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from fungi_hf.evaluation.inputs import Combination, FeatureInput, Sides
    from fungi_hf.evaluation.records import EvaluationResult
    from fungi_hf.types import Float64Array, Int64Array

Formula = Literal["standard", "trapezoid"]


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
    hold `map`, `mp@k` and `ndcg@k`; a level of landmarks ends their protocol's name.

    Raises:
        InputError: If no query has a relevant row.
    """
    return evaluate_rankings(
        pool, queries, [relevance], protocol=protocol, combinations=combinations
    )


def evaluate_rankings(
    pool: FeatureInput,
    queries: FeatureInput,
    relevances: Sequence[Relevance],
    *,
    protocol: RetrievalProtocol | str,
    combinations: Sequence[Sequence[str]] | None,
) -> list[EvaluationResult]:
    """Rank once and judge by several relevances; give the records of one after the other.

    Arguments and errors are those of `evaluate_retrieval`.
    """
    rule = protocol_named(protocol, RETRIEVAL_PROTOCOLS, "retrieval")
    held, asked = read_blocks(pool, "pool"), read_blocks(queries, "queries")
    check_pair(held, asked, ("pool", "queries"))
    lost = [_count_lost(one, len(asked), len(held)) for one in relevances]
    wanted = choose_combinations(held.layout, combinations)
    ranked = {some: _rank(some, (held, asked), relevances, rule) for some in wanted}
    records = []
    for place, (one, n_lost) in enumerate(zip(relevances, lost, strict=True)):
        named = rule if one.level is None else replace(rule, name=f"{rule.name}-{one.level}")
        notes = (f"{n_lost} queries without a relevant row are left out",) if n_lost else ()
        draws = {some: [found[place]] for some, found in ranked.items()}
        found = summarise("retrieval", named, draws, asked, notes=notes)
        level = {} if one.level is None else {"level": one.level}
        records += [replace(record, settings={**record.settings, **level}) for record in found]
    return records


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


def _rank(
    some: Combination, sides: Sides, relevances: Sequence[Relevance], rule: RetrievalProtocol
) -> list[Draw]:
    # Rank the pool for each query, and score the ranking by each relevance without its junk.
    pool, asked = sides
    low, high, notes = reduced(*sides, some, rule.pca)
    names = ["map", *[f"mp@{k}" for k in rule.cutoffs], *[f"ndcg@{k}" for k in rule.cutoffs]]
    tables = np.full((len(relevances), len(asked), len(names)), np.nan)
    for query, one in enumerate(ExactIndex(rule.metric).fit(low).rankings(high)):
        for table, relevance in zip(tables, relevances, strict=True):
            gains = np.zeros(len(pool))
            judged, kept = relevance.gains[query], np.ones(len(pool), bool)
            gains[list(judged)] = list(judged.values())
            kept[list(relevance.junk[query]) if len(relevance.junk) else []] = False
            ideal = gains[kept & (gains > 0)]
            if len(ideal):
                order = one.indices[0]
                table[query] = _scores(gains[order[kept[order]]], ideal, rule)
    return [
        Draw(
            metrics=dict(zip(names, np.nanmean(table, axis=0).tolist(), strict=True)),
            scores=table[:, 0],
            notes=notes,
            n_train=len(pool),
        )
        for table in tables
    ]


def _scores(gains: Float64Array, ideal: Float64Array, rule: RetrievalProtocol) -> list[float]:
    ranks = np.flatnonzero(gains > 0)
    return [
        average_precision(ranks, rule.formula),
        *[precision_at(ranks, k, rule.formula) for k in rule.cutoffs],
        *[discounted_gain_at(gains, ideal, k) for k in rule.cutoffs],
    ]


def _count_lost(relevance: Relevance, n_queries: int, n_pool: int) -> int:
    # Check the relevance; count the queries that have nothing to find, not all of them.
    expect(relevance, Relevance, "relevance")
    check_relevance(relevance, n_queries, n_pool)
    junk = [set(rows) for rows in relevance.junk] or [set()] * n_queries
    lost = sum(set(gains) <= rows for gains, rows in zip(relevance.gains, junk, strict=True))
    if lost == n_queries:
        where = "" if relevance.level is None else f"level {relevance.level!r}: "
        raise InputError(
            f"{where}none of the {n_queries} queries has a relevant row in the pool that is not "
            "junk"
        )
    return lost
