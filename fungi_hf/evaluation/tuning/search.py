"""What tuning may choose from: candidates as data, and the configs that they stand for."""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from fungi_hf.config import FungiConfig
from fungi_hf.errors import ConfigError
from fungi_hf.neighbors.base import check_count
from fungi_hf.specs import KL, PCA, Activation, SimCLR, parse_objective

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from fungi_hf.specs import ObjectiveSpec

EMBEDDING: Final = "embedding"


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
        layer: Dotted path of the target layer.
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

        4 with the activation, 6 with a gradient of the untouched input, 8 with one of views;
        1 more with a PCA.
        """
        kinds = {spec.name: spec for spec in specs}
        used = [kinds[name] for name in self.blocks if name != EMBEDDING]
        if any(spec.n_views > 1 for spec in used):
            rank = 8
        elif any(not isinstance(spec, Activation) for spec in used):
            rank = 6
        elif used:
            rank = 4
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


@dataclass(frozen=True, slots=True, kw_only=True)
class TuningSearch:
    """What may be chosen, and how it is judged.

    Attributes:
        free_pooling: Try "mean" and "cls" beside the extractor's own pooling.
        free_layer: Try the activation of the same layer in other blocks.
        objectives: Gradients to try; None takes the extractor's own and, of the kinds it has
            none of, KL, tempered SimCLR and untempered SimCLR. Empty tries none.
        whitenings: Powers of the whitening to try beside plain and centred blocks.
        embedding_weights: Of the embedding's cosine beside gradients; 0 leaves it out.
        components: PCA widths to try on the best candidate.
        n_neighbors: K of the vote.
        max_rows: Training rows used; more are a seeded, stratified draw.
        max_layers: Layers tried, spread evenly and ending with the last; bounds memory.
        min_gain: A candidate that costs more must gain more than this share of the rows; 0 where
            groups are given.
        seed: Of the draw.
    """

    free_pooling: bool = True
    free_layer: bool = True
    objectives: tuple[ObjectiveSpec | str, ...] | None = None
    whitenings: tuple[float, ...] = (0.5, 1.0)
    embedding_weights: tuple[float, ...] = (0.0, 1.0, 4.0)
    components: tuple[int, ...] = (64, 256)
    n_neighbors: int = 20
    max_rows: int = 4000
    max_layers: int = 12
    min_gain: float = 0.005
    seed: int = 42

    def __post_init__(self) -> None:
        """Check the numbers.

        Raises:
            ConfigError: If one is not allowed.
        """
        for name in ("n_neighbors", "max_rows", "max_layers"):
            check_count(getattr(self, name), name, 1, None)
        check_count(self.seed, "seed", 0, None)
        if not 0 <= self.min_gain < 1:
            raise ConfigError(f"min_gain is a share of the rows, from 0 to 1; got {self.min_gain}")
        for name, low in (("whitenings", 0.0), ("embedding_weights", 0.0), ("components", 1.0)):
            values = getattr(self, name)
            if any(isinstance(v, bool) or not isinstance(v, (int, float)) for v in values) or any(
                value < low for value in values
            ):
                raise ConfigError(f"{name} must be numbers >= {low:g}; got {values!r}")
        for power in self.whitenings:
            FungiConfig(whitening=power)
        if self.objectives is not None:
            parsed = tuple(parse_objective(item) for item in self.objectives)
            object.__setattr__(self, "objectives", parsed)
            FungiConfig(objectives=parsed)

    @property
    def transforms(self) -> tuple[Transform, ...]:
        """Plain, centred, and every whitening."""
        whitened = (Transform(whitening=float(power)) for power in self.whitenings if power > 0)
        return (Transform(), Transform(center=True), *whitened)

    def specs(self, base: FungiConfig) -> tuple[ObjectiveSpec, ...]:
        """Give the gradients to try and the activation, each with weight 1."""
        if self.objectives is not None:
            wanted = [parse_objective(item) for item in self.objectives]
        else:
            wanted = list(base.objectives)
            if not any(isinstance(spec, KL) for spec in wanted):
                wanted.append(KL())
            if not any(isinstance(spec, SimCLR) for spec in wanted):
                wanted.append(SimCLR())
            if not any(_is_untempered(spec) for spec in wanted):
                wanted.append(_untempered(wanted))
        if not any(isinstance(spec, Activation) for spec in wanted):
            wanted.append(Activation())
        return tuple(parse_objective({**spec.to_dict(), "weight": 1.0}) for spec in wanted)

    def cheap_combinations(self, activation: str) -> list[tuple[tuple[str, float], ...]]:
        """Give combinations that need no gradient."""
        return [
            ((EMBEDDING, 1.0),),
            ((activation, 1.0),),
            ((EMBEDDING, 1.0), (activation, 1.0)),
        ]

    def gradient_combinations(
        self, specs: Sequence[ObjectiveSpec]
    ) -> Iterator[tuple[tuple[str, float], ...]]:
        """Give combinations of one or two gradients, of one temper, with embedding, activation."""
        activation = next(spec.name for spec in specs if isinstance(spec, Activation))
        gradients = [spec for spec in specs if not isinstance(spec, Activation)]
        for size in (1, 2):
            for some in itertools.combinations(gradients, size):
                if len({spec.kind for spec in some}) < size:
                    continue
                names = [(spec.name, 1.0) for spec in some]
                for weight, active in itertools.product(self.embedding_weights, (False, True)):
                    first = [(EMBEDDING, float(weight))] if weight > 0 else []
                    last = [(activation, 1.0)] if active else []
                    yield (*first, *names, *last)


def _is_untempered(spec: ObjectiveSpec) -> bool:
    return isinstance(spec, SimCLR) and spec.logsumexp_temperature == 1.0


def _untempered(specs: Sequence[ObjectiveSpec]) -> ObjectiveSpec:
    """Vary the tempered objective in nothing else, so that both share their views."""
    tempered = next(spec for spec in specs if isinstance(spec, SimCLR))
    changes = {"logsumexp_temperature": 1.0, "name": f"{tempered.name}_untempered"}
    return parse_objective({**tempered.to_dict(), **changes})
