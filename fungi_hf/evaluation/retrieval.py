"""Retrieval: the ranking of a pool for each query, against same labels or given judgements."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from numbers import Real
from typing import TYPE_CHECKING, Literal, get_args

import numpy as np

from fungi_hf.errors import ConfigError, InputError, InputTypeError, ShapeError, choices
from fungi_hf.evaluation.inputs import (
    LabelledRows,
    check_kinds,
    choose_combinations,
    expect,
    read_blocks,
)
from fungi_hf.evaluation.summary import Context, Draw, summarise
from fungi_hf.neighbors import ExactIndex
from fungi_hf.neighbors.base import check_count, check_metric
from fungi_hf.neighbors.labels import read_labels
from fungi_hf.neighbors.vectors import check_fingerprint

if TYPE_CHECKING:
    from fungi_hf.evaluation.inputs import Combination, FeatureInput
    from fungi_hf.evaluation.records import EvaluationResult
    from fungi_hf.neighbors.base import Metric
    from fungi_hf.neighbors.labels import Labels
    from fungi_hf.types import Float32Array, Float64Array, Int64Array

Formula = Literal["standard", "trapezoid"]
Level = Literal["medium", "hard"]


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

        Args:
            query_labels: One a query.
            pool_labels: One a pool row.
            same_rows: Queries are the pool's rows: each is junk for itself.

        Returns:
            The judgements.

        Raises:
            ShapeError: If the queries cannot be the pool's rows.
        """
        queries, pool = (
            read_labels(query_labels, "query labels"),
            read_labels(pool_labels, "pool labels"),
        )
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
        """Give the published landmark judgements.

        Args:
            easy: Easy pool rows of each query.
            hard: Hard ones.
            junk: Rows to ignore.
            level: `medium`: easy and hard are positive. `hard`: hard alone, easy is junk too.

        Returns:
            The judgements.

        Raises:
            ConfigError: If the level is unknown.
            ShapeError: If the three differ in length.
        """
        if level not in get_args(Level):
            raise ConfigError(f"unknown level {choices(level, get_args(Level))}")
        if not len(easy) == len(hard) == len(junk):
            raise ShapeError(
                f"landmarks have {len(easy)} easy, {len(hard)} hard and {len(junk)} junk lists; "
                "each query needs one of each"
            )
        medium = level == "medium"
        rows = zip(easy, hard, junk, strict=True)
        split = [([*e, *h], [*j]) if medium else ([*h], [*j, *e]) for e, h, j in rows]
        gains = [
            {check_count(row, "a landmark row", 0, None): 1.0 for row in positive}
            for positive, _ in split
        ]
        return cls(gains=gains, junk=[ignored for _, ignored in split])


@dataclass(frozen=True, slots=True, kw_only=True)
class RetrievalProtocol:
    """How to rank and score.

    Attributes:
        name: For the records.
        metric: Of the ranking.
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
        """Check the choices.

        Raises:
            ConfigError: If the formula is unknown.
        """
        check_metric(self.metric)
        expect(self.cutoffs, tuple, "cutoffs")
        for k in self.cutoffs:
            check_count(k, "cutoffs", 1, None)
        if self.pca is not None:
            check_count(self.pca, "pca", 1, None)
        if self.formula not in get_args(Formula):
            raise ConfigError(f"unknown formula {choices(self.formula, get_args(Formula))}")


RETRIEVAL_PROTOCOLS: Mapping[str, RetrievalProtocol] = {
    "fungi": RetrievalProtocol(),
    "paper-landmarks": RetrievalProtocol(
        name="paper-landmarks", metric="dot", formula="trapezoid", pca=512
    ),
}


def evaluate_retrieval(
    pool: FeatureInput,
    queries: FeatureInput,
    relevance: Relevance,
    *,
    protocol: RetrievalProtocol | str = "fungi",
    combinations: Sequence[Sequence[str]] | None = None,
) -> list[EvaluationResult]:
    """Rank the pool for each query by every combination of blocks.

    Args:
        pool: [N, F] features with a layout, or an array.
        queries: [Q, F] features of the same layout and fingerprint.
        relevance: One judgement a query; queries without a relevant row that is not junk are left
            out and noted.
        protocol: A `RetrievalProtocol`, or the name of one of `RETRIEVAL_PROTOCOLS`.
        combinations: Block names to combine; None takes every combination.

    Returns:
        One record a combination, with `map`, `mp@k` and `ndcg@k`.

    Raises:
        ShapeError: If layouts differ, or judgements and queries differ in number.
        InputError: If a judgement names a row that does not exist, or no query has a relevant row.
        InputTypeError: If judgements are not of rows and gains.
    """
    rule = _protocol(protocol)
    expect(relevance, Relevance, "relevance")
    rows, layout = read_blocks(pool, "pool")
    asked, asked_layout = read_blocks(queries, "queries")
    if layout != asked_layout or rows.width != asked.width:
        raise ShapeError(
            f"pool has {rows.width} columns in blocks {list(layout)}, "
            f"queries have {asked.width} in {list(asked_layout)}"
        )
    check_fingerprint(rows.fingerprint, asked.fingerprint, "queries")
    _check_relevance(relevance, len(asked), len(rows))
    judged = LabelledRows(rows=asked, layout=layout, labels=np.zeros(len(asked), np.int64))
    held = LabelledRows(rows=rows, layout=layout, labels=np.zeros(len(rows), np.int64))
    junk = relevance.junk if len(relevance.junk) else [()] * len(asked)
    pairs = zip(relevance.gains, junk, strict=True)
    lost = sum(set(gains) <= set(ignored) for gains, ignored in pairs)
    if lost == len(asked):
        raise InputError(
            f"none of the {len(asked)} queries has a relevant row in the pool that is not junk"
        )
    notes = (f"{lost} queries without a relevant row are left out",) if lost else ()
    draws = {
        some: [_rank(some, held, judged, relevance, rule)]
        for some in choose_combinations(layout, combinations)
    }
    context = Context(
        task="retrieval", protocol=rule.name, settings=rule, seeds=(), main="map", notes=notes
    )
    return summarise(context, draws, judged)


def average_precision(ranks: Int64Array, formula: Formula = "standard") -> float:
    """Give the average precision of a ranking.

    Formula: with 0-based ranks r_0 < r_1 < ... of n relevant rows, `standard` is the mean of
    (j + 1) / (r_j + 1); `trapezoid` the mean of the halves of that and of j / r_j (1 if r_j = 0).

    Args:
        ranks: [n] ascending, n at least 1.
        formula: Which.
    """
    places = np.arange(len(ranks))
    after = (places + 1) / (ranks + 1)
    if formula == "standard":
        return float(after.mean())
    before = np.where(ranks == 0, 1.0, places / np.maximum(ranks, 1))
    return float((before + after).mean() / 2)


def precision_at(ranks: Int64Array, k: int, formula: Formula = "standard") -> float:
    """Give the share of relevant rows among the first k.

    Args:
        ranks: [n] 0-based ranks of the relevant rows, ascending.
        k: Cutoff; for `trapezoid` at most the last relevant rank (1-based), as published.
        formula: Which.
    """
    depth = k if formula == "standard" else min(int(ranks[-1]) + 1, k)
    return float((ranks < depth).sum() / depth)


def discounted_gain_at(gains: Float64Array, ideal: Float64Array, k: int) -> float:
    """Give nDCG@k: sum of gain / log2(rank + 1), 1-based, over that of the best ranking.

    Args:
        gains: Of the ranked rows, best rank first.
        ideal: All positive gains of the query, any order.
        k: Cutoff.
    """
    best = np.sort(ideal)[::-1][:k]
    top = gains[:k]
    discount = 1 / np.log2(np.arange(2, k + 2))
    return float((top * discount[: len(top)]).sum() / (best * discount[: len(best)]).sum())


def _rank(
    some: Combination,
    pool: LabelledRows,
    asked: LabelledRows,
    relevance: Relevance,
    rule: RetrievalProtocol,
) -> Draw:
    low, high, notes = _reduced(some, pool, asked, rule.pca)
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
    means = np.nanmean(table, axis=0)
    metrics = {name: float(mean) for name, mean in zip(names, means, strict=True)}
    return Draw(metrics=metrics, scores=table[:, 0], notes=notes, n_train=len(pool))


def _reduced(
    some: Combination, pool: LabelledRows, asked: LabelledRows, n_components: int | None
) -> tuple[Float32Array, Float32Array, tuple[str, ...]]:
    from fungi_hf.extraction.reduction import project

    low, high = pool.take(some), asked.take(some)
    if n_components is None:
        return low, high, ()
    if n_components < min(low.shape):
        return *project(low, high, n_components), ()
    note = f"PCA to {n_components} skipped: {len(low)} rows, width {low.shape[1]}"
    return low, high, (note,)


def _check_relevance(relevance: Relevance, n_queries: int, n_pool: int) -> None:
    for name, given in (("gains", relevance.gains), ("junk", relevance.junk)):
        if isinstance(given, str | Mapping) or not isinstance(given, Sequence | np.ndarray):
            raise InputTypeError(
                f"relevance {name} are a {type(given).__name__}; give a sequence, one a query"
            )
        if len(given) != n_queries and not (name == "junk" and not len(given)):
            raise ShapeError(f"relevance has {len(given)} {name} for {n_queries} queries")
        for query, rows in enumerate(given):
            _check_rows(rows, f"relevance {name} of query {query}", n_pool, gains=name == "gains")
    for query, gains in enumerate(relevance.gains):
        odd = [gain for gain in gains.values() if not isinstance(gain, Real)]
        if odd:
            raise InputTypeError(f"query {query} has the gain {odd[0]!r}; gains are numbers")
        low = [row for row, gain in gains.items() if not 0 < gain < np.inf]
        if low:
            raise InputError(f"query {query} has gain {gains[low[0]]} for row {low[0]}; above 0")


def _check_rows(rows: object, name: str, n_pool: int, *, gains: bool) -> None:
    """Refuse what does not name rows of the pool.

    Raises:
        InputTypeError: If it is no mapping (of gains) or collection (of junk) of integers.
        InputError: If there is no such row.
    """
    is_text = isinstance(rows, str | bytes)
    if is_text or not isinstance(rows, Collection) or isinstance(rows, Mapping) is not gains:
        words = "a mapping of pool row to gain, as {3: 1.0}" if gains else "pool rows, as [3]"
        raise InputTypeError(f"{name} are a {type(rows).__name__}; give {words}")
    odd = [row for row in rows if not _whole(row)]
    if odd:
        raise InputTypeError(f"{name} name the row {odd[0]!r}; pool rows are integers")
    wrong = [row for row in rows if not 0 <= row < n_pool]
    if wrong:
        raise InputError(f"{name} name pool row {wrong[0]}; there are {n_pool}")


def _whole(row: object) -> bool:
    return isinstance(row, int | np.integer) and not isinstance(row, bool)


def _protocol(protocol: RetrievalProtocol | str) -> RetrievalProtocol:
    if isinstance(protocol, RetrievalProtocol):
        return protocol
    if not isinstance(protocol, str) or protocol not in RETRIEVAL_PROTOCOLS:
        raise ConfigError(f"unknown retrieval protocol {choices(protocol, RETRIEVAL_PROTOCOLS)}")
    return RETRIEVAL_PROTOCOLS[protocol]
