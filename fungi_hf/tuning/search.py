"""What tuning may choose from, and how it is judged."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable
from dataclasses import dataclass
from numbers import Real
from typing import TYPE_CHECKING, Any

from fungi_hf.config import FungiConfig
from fungi_hf.errors import ConfigError
from fungi_hf.neighbors.base import check_count
from fungi_hf.specs import KL, Activation, SimCLR, parse_objective
from fungi_hf.tuning.candidates import EMBEDDING, Transform

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from fungi_hf.specs import ObjectiveSpec
    from fungi_hf.tuning.candidates import Weights


@dataclass(frozen=True, slots=True, kw_only=True)
class TuningSearch:
    """What may be chosen, and how it is judged.

    Attributes:
        free_pooling: Try "mean" and "cls" beside the extractor's own pooling.
        free_layer: Try the activation of the same layer in other blocks, and several together.
        objectives: Gradients to try; None takes the extractor's own and, of the kinds it has
            none of, KL, tempered SimCLR and untempered SimCLR. Empty tries none.
        whitenings: Powers of the whitening to try beside plain and centred blocks.
        embedding_weights: Of the embedding's cosine beside gradients; 0 leaves it out.
        components: PCA widths to try on the best candidate.
        n_neighbors: K of the vote.
        max_rows: Training rows used; more are a seeded, stratified draw.
        max_layers: Layers tried, spread evenly and ending with the last; bounds memory.
        layer_counts: How many of the last layers are tried together, beside all of them.
        min_gain: Gradients must gain more than this share of the rows, and more than one standard
            error.
        max_risk: The plain embedding stays where one standard error below the gain is a loss of
            more than this share of the rows.
        ceiling: Share of rows that the plain embedding has right from which on few rows vote, since
            the others hide the differences.
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
    layer_counts: tuple[int, ...] = (2, 3, 4)
    min_gain: float = 0.005
    max_risk: float = 0.01
    ceiling: float = 0.97
    seed: int = 42

    def __post_init__(self) -> None:
        """Check the numbers.

        Raises:
            ConfigError: If one is not allowed.
        """
        for name in ("n_neighbors", "max_rows", "max_layers"):
            object.__setattr__(self, name, check_count(getattr(self, name), name, 1, None))
        object.__setattr__(self, "seed", check_count(self.seed, "seed", 0, None))
        for name in ("free_pooling", "free_layer"):
            if not isinstance(getattr(self, name), bool):
                raise ConfigError(f"{name} must be True or False; got {getattr(self, name)!r}")
        for name in ("components", "layer_counts"):
            counts = tuple(check_count(n, name, 1, None) for n in _several(self, name))
            object.__setattr__(self, name, counts)
        for name in ("min_gain", "max_risk", "ceiling"):
            share = _number(getattr(self, name), name)
            if share > 1:
                raise ConfigError(f"{name} is a share of the rows, from 0 to 1; got {share!r}")
            object.__setattr__(self, name, share)
        for name in ("whitenings", "embedding_weights"):
            numbers = tuple(_number(value, name) for value in _several(self, name))
            object.__setattr__(self, name, numbers)
        for power in self.whitenings:
            FungiConfig(whitening=power)
        if self.objectives is not None:
            some = _several(self, "objectives")
            parsed = tuple(parse_objective(item) for item in some)
            object.__setattr__(self, "objectives", parsed)
            FungiConfig(objectives=parsed)

    @property
    def transforms(self) -> tuple[Transform, ...]:
        """Plain, centred, and every whitening."""
        whitened = (Transform(whitening=float(power)) for power in self.whitenings if power > 0)
        return (Transform(), Transform(center=True), *whitened)

    def specs(
        self, base: FungiConfig, layers: Sequence[str] = (), target: str = ""
    ) -> tuple[ObjectiveSpec, ...]:
        """Give the gradients to try and the activations, each with weight 1.

        Args:
            base: The extractor's config.
            layers: Dotted paths whose activations may be chosen, lowest first.
            target: The one among them that is the target layer.

        Returns:
            The gradients, then the activation of every layer in the order given.
        """
        wanted = self.wanted(base)
        gradients = [spec for spec in wanted if spec.has_gradient]
        known = {spec.layer or target: spec for spec in wanted if not spec.has_gradient}
        taken = {spec.name for spec in wanted}
        activations = []
        for path in layers or (target,):
            spec = known.get(path) or Activation(layer=None if path == target else path)
            if path not in known and spec.name in taken:
                spec = Activation(layer=spec.layer, name=f"{spec.name}_tuned")
            activations.append(spec)
        return tuple(
            parse_objective({**spec.to_dict(), "weight": 1.0})
            for spec in (*gradients, *activations)
        )

    def wanted(self, base: FungiConfig) -> list[ObjectiveSpec]:
        """Give the objectives to try: those named, or the config's and what they lack."""
        if self.objectives is not None:
            return [parse_objective(item) for item in self.objectives]
        found = list(base.objectives)
        for missing in (KL(), SimCLR()):
            if missing.kind not in {spec.kind for spec in found}:
                found.append(missing)
        for spec in tuple(found):
            found += spec.variants(found)
        return found

    def stacks(self, activations: Sequence[str]) -> list[tuple[str, ...]]:
        """Give the activations that are tried together: the last few, and all.

        Args:
            activations: Block names, lowest layer first.
        """
        counts = sorted({*self.layer_counts, len(activations)})
        return [tuple(activations[-n:]) for n in counts if 1 < n <= len(activations)]

    def cheap_combinations(self, activations: Sequence[str]) -> list[Weights]:
        """Give combinations that need no gradient.

        Args:
            activations: Block names, lowest layer first.

        Returns:
            The embedding; each activation and each stack of them, without and with it.
        """
        alone = ((EMBEDDING, 1.0),)
        some = [(name,) for name in activations] + self.stacks(activations)
        named = [tuple((name, 1.0) for name in names) for names in some]
        return [alone, *named, *((*alone, *weights) for weights in named)]

    def gradient_combinations(
        self, specs: Sequence[ObjectiveSpec], activations: Sequence[str], own: str
    ) -> Iterator[Weights]:
        """Give combinations of one or two gradients of one temper with what costs no gradient.

        Args:
            specs: The gradients, activations ignored.
            activations: Block names, lowest layer first.
            own: The target layer's among them.

        Yields:
            The gradients with the embedding at every weight, without and with the target layer's
            activation; and with the embedding and each stack.
        """
        gradients = [spec for spec in specs if spec.has_gradient]
        for size in (1, 2):
            for some in itertools.combinations(gradients, size):
                if len({spec.kind for spec in some}) < size:
                    continue
                names = [(spec.name, 1.0) for spec in some]
                for weight, active in itertools.product(self.embedding_weights, ((), (own,))):
                    first = [(EMBEDDING, float(weight))] if weight > 0 else []
                    yield (*first, *names, *((name, 1.0) for name in active))
                for stack in self.stacks(activations):
                    yield ((EMBEDDING, 1.0), *names, *((name, 1.0) for name in stack))


def _several(search: TuningSearch, name: str) -> tuple[Any, ...]:
    """Give what a field lists.

    Raises:
        ConfigError: If it is no list.
    """
    values = getattr(search, name)
    if isinstance(values, str) or not isinstance(values, Iterable):
        raise ConfigError(f"{name} must be a list or a tuple; got {values!r}: write ({values!r},)")
    return tuple(values)


def _number(value: Any, name: str) -> float:
    """Give a finite number >= 0 as a float.

    Raises:
        ConfigError: If it is none.
    """
    number = math.nan if isinstance(value, bool) or not isinstance(value, Real) else float(value)
    if not 0 <= number < math.inf:
        raise ConfigError(f"{name} takes finite numbers >= 0; got {value!r}")
    return number
