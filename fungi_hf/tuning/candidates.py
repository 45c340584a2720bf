"""Candidates of a tuning as data, and the configs that they stand for."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, TypeAlias

from fungi_hf.specs import PCA, parse_objective

if TYPE_CHECKING:
    from collections.abc import Sequence

    from fungi_hf.config import FungiConfig
    from fungi_hf.specs import ObjectiveSpec

EMBEDDING: Final = "embedding"
Weights: TypeAlias = tuple[tuple[str, float], ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Transform:
    """What is done to each block before rows are normalised.

    Attributes:
        center: As in `FungiConfig`.
        whitening: As in `FungiConfig`.
    """

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
    weights: tuple[tuple[str, float], ...] = ((EMBEDDING, 1.0),)
    components: int | None = None

    @property
    def blocks(self) -> tuple[str, ...]:
        """The blocks with a positive weight."""
        return tuple(name for name, _ in self.weights)

    @property
    def name(self) -> str:
        """The combination in one word, e.g. `embedding+2*kl`."""
        return "+".join(n if w == 1 else f"{w:g}*{n}" for n, w in self.weights)

    def cost(self, specs: Sequence[ObjectiveSpec]) -> int:
        """Rank by what it takes: 0 a plain embedding, 2 a transformed one, which needs a fit.

        4 with an activation, 6 with several, 8 with a gradient of the untouched input, 10 with one
        of views; 1 more with a PCA.
        """
        kinds = {spec.name: spec for spec in specs}
        used = [kinds[name] for name in self.blocks if name != EMBEDDING]
        if any(spec.n_views > 1 for spec in used):
            rank = 10
        elif any(spec.has_gradient for spec in used):
            rank = 8
        elif used:
            rank = 4 if len(used) == 1 else 6
        else:
            rank = 0 if self.transform == Transform() else 2
        return rank + (self.components is not None)

    def config(
        self, base: FungiConfig, specs: Sequence[ObjectiveSpec], *, adjustable: bool = True
    ) -> FungiConfig:
        """Give the config of this candidate; everything that is not tuned is `base`'s.

        Args:
            base: What to start from.
            specs: The objectives that candidates name.
            adjustable: Whether pooling and layer can be set; else they stay as they are.

        Returns:
            The config; the cosine of a block counts with the square of its weight there.
        """
        place = {"pooling": self.pooling, "target_layer": self.layer} if adjustable else {}
        weights = {name: weight**0.5 for name, weight in self.weights}
        chosen = [
            parse_objective({**spec.to_dict(), "weight": weights[spec.name]})
            for spec in specs
            if spec.name in weights
        ]
        return base.replace(
            **place,
            center=self.transform.center,
            whitening=self.transform.whitening,
            embedding_weight=weights.get(EMBEDDING, 0.0),
            objectives=tuple(chosen),
            reduction=None if self.components is None else PCA(n_components=self.components),
        )
