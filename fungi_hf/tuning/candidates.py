"""Candidates of a tuning as data: what they cost, the configs that they stand for, their scores."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final, TypeAlias

import numpy as np

from fungi_hf.specs import PCA
from fungi_hf.statistics import against_first
from fungi_hf.tuning.report import CandidateScore

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from fungi_hf.config import FungiConfig
    from fungi_hf.specs import ObjectiveSpec
    from fungi_hf.tuning.votes import BoolArray
    from fungi_hf.types import Float64Array, Int64Array

EMBEDDING: Final = "embedding"
FIRST_GRADIENT: Final = 8  # the cost from which on candidates hold gradients
Weights: TypeAlias = tuple[tuple[str, float], ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Transform:
    """What is done to each block before rows are normalised; as in `FungiConfig`."""

    center: bool = False
    whitening: float = 0.0

    @property
    def name(self) -> str:
        """One word for tables."""
        if self.whitening:
            return f"whitened {self.whitening:g}"
        return "centred" if self.center else "plain"


@dataclass(frozen=True, slots=True, kw_only=True)
class Candidate:
    """One feature that could be chosen.

    Attributes:
        pooling: Resolved, e.g. "mean".
        layer: Dotted path of the target layer, where gradients are taken.
        transform: Of every block.
        weights: (block, factor of its cosine in the summed similarity), the embedding first.
        components: Of a PCA of the concatenation; None for none.
    """

    pooling: str
    layer: str
    transform: Transform = Transform()
    weights: Weights = ((EMBEDDING, 1.0),)
    components: int | None = None

    @property
    def name(self) -> str:
        """The combination in one word, e.g. `embedding+2*kl`."""
        return "+".join(n if w == 1 else f"{w:g}*{n}" for n, w in self.weights)

    def config(
        self, base: FungiConfig, specs: Sequence[ObjectiveSpec], *, adjustable: bool = True
    ) -> FungiConfig:
        """Give the config of this candidate; everything that is not tuned is `base`'s.

        The cosine of a block counts with the square of its weight there. `specs` are the objectives
        that candidates name; without `adjustable`, pooling and layer stay as they are.
        """
        place = {"pooling": self.pooling, "target_layer": self.layer} if adjustable else {}
        weights = {name: weight**0.5 for name, weight in self.weights}
        chosen = [part for spec in specs for part in _weighted(spec, weights)]
        return base.replace(
            **place,
            center=self.transform.center,
            whitening=self.transform.whitening,
            discriminant=0.0,
            embedding_weight=weights.get(EMBEDDING, 0.0),
            objectives=tuple(chosen),
            reduction=None if self.components is None else PCA(n_components=self.components),
        )


def _weighted(spec: ObjectiveSpec, weights: Mapping[str, float]) -> list[ObjectiveSpec]:
    """Give an objective with its chosen blocks, once for each weight among them."""
    by_weight: dict[float, list[str]] = {}
    for block in spec.blocks:
        if block in weights:
            by_weight.setdefault(weights[block], []).append(block)
    parts = [(weight, spec.only(blocks)) for weight, blocks in by_weight.items()]
    return [
        part if part.weight == weight else replace(part, weight=weight)
        for weight, part in parts
        if part is not None
    ]


@dataclass(frozen=True, slots=True)
class Outcome:
    """One candidate, the rows it had right, [N], and the share by which it is judged, [N]."""

    candidate: Candidate
    right: BoolArray
    share: Float64Array


def costs(outcomes: Sequence[Outcome], specs: Sequence[ObjectiveSpec]) -> Int64Array:
    """Rank candidates by what they take, [candidates].

    0 for a plain embedding, 2 for a transformed one, which needs a fit, 4 with an activation, 6
    with several, 8 with a gradient of the untouched input, 10 with one of views; 1 more with a PCA.
    """
    views = {block for spec in specs if spec.n_views > 1 for block in spec.blocks}
    gradients = {block for spec in specs if spec.has_gradient for block in spec.blocks}
    ranks = []
    for one in (outcome.candidate for outcome in outcomes):
        used = {name for name, _ in one.weights} - {EMBEDDING}
        rank = 2 * (one.transform != Transform())
        if used:
            rank = 4 if len(used) == 1 else 6
        if used & gradients:
            rank = FIRST_GRADIENT + 2 * bool(used & views)
        ranks.append(rank + (one.components is not None))
    return np.array(ranks, np.int64)


def lead(one: Float64Array, other: Float64Array) -> tuple[Float64Array, Float64Array]:
    """Give how far one share, [..., N], is ahead of another, and the standard error over rows."""
    ahead = one - other
    return ahead.mean(-1), ahead.std(-1) / ahead.shape[-1] ** 0.5


def scores(outcomes: Sequence[Outcome], ranks: Int64Array) -> list[CandidateScore]:
    """Give the record of every candidate; the plain embedding comes first, `ranks` are costs."""
    right = np.stack([one.right for one in outcomes])
    shares = np.stack([one.share for one in outcomes])
    ahead, errors = lead(shares[shares.mean(1).argmax()], shares)
    judged = zip(outcomes, against_first(right), strict=True)
    return [
        CandidateScore(
            name=one.candidate.name,
            pooling=one.candidate.pooling,
            layer=one.candidate.layer,
            transform=one.candidate.transform.name,
            components=one.candidate.components,
            cost=int(ranks[i]),
            accuracy=float(right[i].mean()),
            low=low,
            high=high,
            against_embedding=test.difference,
            p=test.p,
            share=float(shares[i].mean()),
            behind_best=float(ahead[i]),
            error=float(errors[i]),
        )
        for i, (one, (test, (low, high))) in enumerate(judged)
    ]
