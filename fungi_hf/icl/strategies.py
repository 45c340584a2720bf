"""How demonstrations are chosen: one frozen record per strategy, checked when it is made."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, TypeAlias, get_args

import numpy as np

from fungi_hf.errors import DemoConfigError, InputTypeError, choices
from fungi_hf.icl.bm25 import words

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

Metric = Literal["cosine", "dot", "euclidean"]
Fusion = Literal["rrf", "convex"]
METRICS: tuple[str, ...] = get_args(Metric)
FUSIONS: tuple[str, ...] = get_args(Fusion)


def whole_number(name: str, value: object, low: int) -> None:
    """Check that a setting is a whole number of at least `low`.

    Raises:
        DemoConfigError: If it is not.
    """
    if isinstance(value, bool) or not isinstance(value, (int, np.integer)) or value < low:
        raise DemoConfigError(f"{name} is {value!r}; it is a whole number >= {low}")


def _within(name: str, value: object, low: float, high: float, *, open_low: bool = False) -> None:
    if isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value):
        inside = low < value if open_low else low <= value
        if inside and value <= high:
            return
    if high == math.inf:
        allowed = f"it is a number {'>' if open_low else '>='} {low}"
    else:
        allowed = f"it is a number from {low} to {high}"
    raise DemoConfigError(f"{name} is {value!r}; {allowed}")


@dataclass(frozen=True, slots=True)
class KNN:
    """The nearest rows by features.

    Attributes:
        metric: "cosine", "dot", or "euclidean" (minus the squared distance).
    """

    metric: Metric = "cosine"

    def __post_init__(self) -> None:
        if self.metric not in METRICS:
            raise DemoConfigError(f"metric is {choices(self.metric, METRICS)}")


@dataclass(frozen=True, slots=True)
class BM25:
    """The best rows by shared words.

    Attributes:
        k1: Saturation of repeated words, above 0.
        b: Strength of the length correction, 0 to 1.
        tokens: Text -> tokens; the default takes runs of a-z and 0-9 of the lowered text.
    """

    k1: float = 1.5
    b: float = 0.75
    tokens: Callable[[str], Iterable[str]] = words

    def __post_init__(self) -> None:
        _within("k1", self.k1, 0, math.inf, open_low=True)
        _within("b", self.b, 0, 1)
        if not callable(self.tokens):
            raise InputTypeError(
                f"tokens is {type(self.tokens).__name__}; a function text -> tokens is needed"
            )


@dataclass(frozen=True, slots=True)
class Hybrid:
    """Rows that several rankings agree on.

    Formula: "rrf" sums weight / (60 + rank), rank from 1, over the rankings cut to their first
    `depth` rows; a row outside a ranking adds 0. "convex" is
    alpha * minmax(first ranking) + (1 - alpha) * minmax(second), the extremes taken over the rows
    in either cut; rows outside both have 0. Fused scores are flat: prefer the majority vote.

    Attributes:
        rankers: The rankings: records of KNN and BM25.
        weights: One per ranking, for "rrf"; None weighs them equally.
        depth: Rows taken from each ranking.
        fusion: "rrf" or "convex" (two rankings).
        alpha: Share of the first ranking, for "convex", 0 to 1.
    """

    rankers: tuple[KNN | BM25, ...] = (KNN(), BM25())
    weights: tuple[float, ...] | None = None
    depth: int = 200
    fusion: Fusion = "rrf"
    alpha: float = 0.5

    def __post_init__(self) -> None:
        object.__setattr__(self, "rankers", tuple(self.rankers))
        if self.weights is not None:
            object.__setattr__(self, "weights", tuple(self.weights))
        if len(self.rankers) < 2 or not all(isinstance(r, (KNN, BM25)) for r in self.rankers):
            raise DemoConfigError(f"rankers are {self.rankers!r}; two or more of KNN and BM25")
        if self.fusion not in FUSIONS:
            raise DemoConfigError(f"fusion is {choices(self.fusion, FUSIONS)}")
        if self.fusion == "convex" and (len(self.rankers) != 2 or self.weights is not None):
            raise DemoConfigError("fusion 'convex' takes two rankers and alpha, no weights")
        if self.weights is not None and len(self.weights) != len(self.rankers):
            raise DemoConfigError(f"{len(self.weights)} weights for {len(self.rankers)} rankers")
        for weight in self.weights or ():
            _within("a weight", weight, 0, math.inf, open_low=True)
        whole_number("depth", self.depth, 1)
        _within("alpha", self.alpha, 0, 1)


@dataclass(frozen=True, slots=True)
class MMR:
    """Near rows that differ from each other (maximal marginal relevance).

    Formula: the nearest row, then argmax lam * cos(q, i) - (1 - lam) * max over chosen j of
    cos(i, j), among the `candidates` nearest. lam = 1 is "knn".

    Attributes:
        lam: Weight of relevance, 0 to 1.
        candidates: Rows considered, more than k.
    """

    lam: float = 0.7
    candidates: int = 100

    def __post_init__(self) -> None:
        _within("lam", self.lam, 0, 1)
        whole_number("candidates", self.candidates, 1)


@dataclass(frozen=True, slots=True)
class DPP:
    """Near rows that span a large volume (greedy determinantal point process).

    Formula: the row with the largest gain in log det L over the chosen ones, again and again, with
    L_ij = r_i (1 + cos(i, j)) / 2 r_j and
    r_i = exp(((1 + cos(q, i)) / 2 - max_j (1 + cos(q, j)) / 2) / (2 scale)).
    Once the largest conditional L_ii is under 1e-10 the rest follows the ranking.

    Attributes:
        scale: Towards 0 relevance decides, as in "knn"; large values ask for diversity alone.
        candidates: Rows considered, more than k.
    """

    scale: float = 0.1
    candidates: int = 100

    def __post_init__(self) -> None:
        _within("scale", self.scale, 0, math.inf, open_low=True)
        whole_number("candidates", self.candidates, 1)


@dataclass(frozen=True, slots=True)
class Stratified:
    """The best row of each label, labels by the rank of that row; then the second best, ...

    Attributes:
        ranker: The ranking: KNN, BM25 or Hybrid.
        per_label: Exactly this many rows of every label; then k is left out or equals
            per_label * labels.
    """

    ranker: KNN | BM25 | Hybrid = KNN()
    per_label: int | None = None

    def __post_init__(self) -> None:
        if not isinstance(self.ranker, (KNN, BM25, Hybrid)):
            raise DemoConfigError(f"ranker is {self.ranker!r}; choose KNN, BM25 or Hybrid")
        if self.per_label is not None:
            whole_number("per_label", self.per_label, 1)


@dataclass(frozen=True, slots=True)
class Random:
    """Rows drawn without replacement: the control of every experiment.

    Attributes:
        shared: One draw for all queries, instead of one per query content.
    """

    shared: bool = False


Ranking: TypeAlias = KNN | BM25 | Hybrid
Strategy: TypeAlias = KNN | BM25 | Hybrid | MMR | DPP | Stratified | Random
STRATEGIES: dict[str, type[Strategy]] = {
    "knn": KNN,
    "bm25": BM25,
    "hybrid": Hybrid,
    "mmr": MMR,
    "dpp": DPP,
    "stratified": Stratified,
    "random": Random,
}


def as_strategy(strategy: object) -> Strategy:
    """Return the record of a strategy that is given by name or as a record.

    Raises:
        DemoConfigError: If it is neither.
    """
    if isinstance(strategy, (KNN, BM25, Hybrid, MMR, DPP, Stratified, Random)):
        return strategy
    if isinstance(strategy, str) and strategy in STRATEGIES:
        return STRATEGIES[strategy]()
    hint = " (pass an instance)" if isinstance(strategy, type) else ""
    raise DemoConfigError(f"strategy is {choices(strategy, STRATEGIES)}, or a record{hint}")


def rankings_of(strategy: Strategy) -> tuple[KNN | BM25, ...]:
    """Return the single rankings that a strategy is made of; none for "random"."""
    if isinstance(strategy, Stratified):
        return rankings_of(strategy.ranker)
    if isinstance(strategy, Hybrid):
        return strategy.rankers
    if isinstance(strategy, (MMR, DPP)):
        return (KNN(),)
    return () if isinstance(strategy, Random) else (strategy,)


def name_of(strategy: Strategy) -> str:
    """Return the name of a strategy record."""
    return next(name for name, record in STRATEGIES.items() if isinstance(strategy, record))
