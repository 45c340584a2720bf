"""How demonstrations are chosen: one frozen record per strategy, checked when it is made.

A strategy has a `name`, and says which `parts` of the examples it ranks by.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal, TypeAlias, get_args

from fungi_hf.checks import check_choice, check_fields, check_integer, check_number
from fungi_hf.errors import DemoConfigError, InputTypeError
from fungi_hf.neighbors.base import METRICS

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from fungi_hf.neighbors.base import Metric

Fusion = Literal["rrf", "convex"]
Parts: TypeAlias = tuple[Literal["features", "texts"], ...]


@dataclass(frozen=True, slots=True)
class KNN:
    """The nearest rows by features."""

    name: ClassVar[str] = "knn"
    parts: ClassVar[Parts] = ("features",)
    metric: Metric = "cosine"  # "cosine", "dot", or "euclidean" (minus the squared distance)

    def __post_init__(self) -> None:
        check_fields(self, ("metric",), check_choice, METRICS, error=DemoConfigError)


@dataclass(frozen=True, slots=True)
class BM25:
    """The best rows by shared words."""

    name: ClassVar[str] = "bm25"
    parts: ClassVar[Parts] = ("texts",)
    k1: float = 1.5  # saturation of repeated words, above 0
    b: float = 0.75  # strength of the length correction, 0 to 1
    # text -> tokens; None takes runs of a-z and 0-9 of the lowered text
    tokens: Callable[[str], Iterable[str]] | None = None

    def __post_init__(self) -> None:
        check_fields(self, ("k1",), check_number, 0, inclusive="neither", error=DemoConfigError)
        check_fields(self, ("b",), check_number, 0, 1, error=DemoConfigError)
        if self.tokens is not None and not callable(self.tokens):
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
    """

    name: ClassVar[str] = "hybrid"
    rankers: tuple[KNN | BM25, ...] = (KNN(), BM25())  # the rankings: records of KNN and BM25
    weights: tuple[float, ...] | None = None  # one per ranking, for "rrf"; None weighs them equally
    depth: int = 200  # rows taken from each ranking
    fusion: Fusion = "rrf"  # "rrf" or "convex" (two rankings)
    alpha: float = 0.5  # share of the first ranking, for "convex", 0 to 1

    def __post_init__(self) -> None:
        object.__setattr__(self, "rankers", tuple(self.rankers))
        if self.weights is not None:
            object.__setattr__(self, "weights", tuple(self.weights))
        if len(self.rankers) < 2 or not all(isinstance(r, (KNN, BM25)) for r in self.rankers):
            raise DemoConfigError(f"rankers are {self.rankers!r}; two or more of KNN and BM25")
        check_fields(self, ("fusion",), check_choice, get_args(Fusion), error=DemoConfigError)
        check_fields(self, ("depth",), check_integer, error=DemoConfigError)
        check_fields(self, ("alpha",), check_number, 0, 1, error=DemoConfigError)
        if self.fusion == "convex" and (len(self.rankers) != 2 or self.weights is not None):
            raise DemoConfigError("fusion 'convex' takes two rankers and alpha, no weights")
        if self.weights is not None and len(self.weights) != len(self.rankers):
            raise DemoConfigError(f"{len(self.weights)} weights for {len(self.rankers)} rankers")
        for weight in self.weights or ():
            check_number("a weight", weight, 0, inclusive="neither", error=DemoConfigError)

    @property
    def parts(self) -> Parts:
        """What any of the rankings needs."""
        return tuple(part for ranker in self.rankers for part in ranker.parts)


@dataclass(frozen=True, slots=True)
class MMR:
    """Near rows that differ from each other (maximal marginal relevance).

    Formula: the nearest row, then argmax lam * cos(q, i) - (1 - lam) * max over chosen j of
    cos(i, j), among the `candidates` nearest. lam = 1 is "knn".
    """

    name: ClassVar[str] = "mmr"
    parts: ClassVar[Parts] = ("features",)
    lam: float = 0.7  # weight of relevance, 0 to 1
    candidates: int = 100  # rows considered, more than k

    def __post_init__(self) -> None:
        check_fields(self, ("lam",), check_number, 0, 1, error=DemoConfigError)
        check_fields(self, ("candidates",), check_integer, error=DemoConfigError)


@dataclass(frozen=True, slots=True)
class DPP:
    """Near rows that span a large volume (greedy determinantal point process).

    Formula: the row with the largest gain in log det L over the chosen ones, again and again, with
    L_ij = r_i (1 + cos(i, j)) / 2 r_j and
    r_i = exp(((1 + cos(q, i)) / 2 - max_j (1 + cos(q, j)) / 2) / (2 scale)).
    Once the largest conditional L_ii is under 1e-10 the rest follows the ranking.
    """

    name: ClassVar[str] = "dpp"
    parts: ClassVar[Parts] = ("features",)
    # towards 0 relevance decides, as in "knn"; large values ask for diversity alone
    scale: float = 0.1
    candidates: int = 100  # rows considered, more than k

    def __post_init__(self) -> None:
        check_fields(self, ("scale",), check_number, 0, inclusive="neither", error=DemoConfigError)
        check_fields(self, ("candidates",), check_integer, error=DemoConfigError)


@dataclass(frozen=True, slots=True)
class Stratified:
    """The best row of each label, labels by the rank of that row; then the second best, ..."""

    name: ClassVar[str] = "stratified"
    ranker: KNN | BM25 | Hybrid = KNN()  # the ranking: KNN, BM25 or Hybrid
    # exactly this many rows of every label; then k is left out or equals per_label * labels
    per_label: int | None = None

    def __post_init__(self) -> None:
        if not isinstance(self.ranker, (KNN, BM25, Hybrid)):
            raise DemoConfigError(f"ranker is {self.ranker!r}; choose KNN, BM25 or Hybrid")
        check_fields(self, ("per_label",), check_integer, optional=True, error=DemoConfigError)

    @property
    def parts(self) -> Parts:
        """What the ranking needs."""
        return self.ranker.parts


@dataclass(frozen=True, slots=True)
class Random:
    """Rows drawn without replacement: the control of every experiment."""

    name: ClassVar[str] = "random"
    parts: ClassVar[Parts] = ()
    shared: bool = False  # one draw for all queries, instead of one per query content


Strategy: TypeAlias = KNN | BM25 | Hybrid | MMR | DPP | Stratified | Random
STRATEGIES: dict[str, Strategy] = {record.name: record() for record in get_args(Strategy)}
