"""What tuning may choose from, and how it is judged."""

from __future__ import annotations

import itertools
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from fungi_hf.checks import check_fields, check_flag, check_integer, check_number
from fungi_hf.config import FungiConfig
from fungi_hf.errors import ConfigError
from fungi_hf.specs import KL, Activation, SimCLR, parse_objective, parse_objectives
from fungi_hf.tuning.candidates import EMBEDDING, Transform

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from fungi_hf.specs import ObjectiveSpec
    from fungi_hf.tuning.candidates import Weights


@dataclass(frozen=True, slots=True, kw_only=True)
class Space:
    """What may be chosen for one encoder."""

    layer: str  # dotted path of the target layer
    specs: tuple[ObjectiveSpec, ...]  # that candidates name: gradients, activations, lowest first

    @property
    def activations(self) -> dict[str, str]:
        """Layer -> block; an activation without a layer is the target layer's."""
        return {s.layers[0] or self.layer: s.name for s in self.specs if not s.has_gradient}

    @property
    def gradients(self) -> list[str]:
        """The blocks that hold gradients."""
        return [spec.name for spec in self.specs if spec.has_gradient]


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
        """Check every field; numbers of numpy become plain ones."""
        check_fields(self, ("n_neighbors", "max_rows", "max_layers"), check_integer)
        check_fields(self, ("seed",), check_integer, 0)
        check_fields(self, ("free_pooling", "free_layer"), check_flag)
        check_fields(self, ("min_gain", "max_risk", "ceiling"), check_number, 0, 1)
        check_fields(self, ("components", "layer_counts"), _check_each, check_integer)
        check_fields(self, ("whitenings",), _check_each, check_number, 0, 1)
        check_fields(self, ("embedding_weights",), _check_each, check_number, 0)
        if self.objectives is not None:
            check_fields(self, ("objectives",), _check_each, lambda _, one: parse_objective(one))
            parsed: Any = self.objectives
            FungiConfig(objectives=parsed)  # refuses equal names

    @property
    def transforms(self) -> tuple[Transform, ...]:
        """Plain, centred, and every whitening."""
        whitened = (Transform(whitening=float(power)) for power in self.whitenings if power > 0)
        return (Transform(), Transform(center=True), *whitened)

    def specs(
        self, base: FungiConfig, layers: Sequence[str] = (), target: str = ""
    ) -> tuple[ObjectiveSpec, ...]:
        """Give the gradients to try, then the activation of every layer, each with weight 1.

        `layers` are dotted paths, lowest first; `target` is the target layer among them.
        """
        wanted = self.wanted(base)
        gradients = [spec for spec in wanted if spec.has_gradient]
        known = {spec.layers[0] or target: spec for spec in wanted if not spec.has_gradient}
        taken = {spec.name for spec in wanted}
        activations = []
        for path in layers or (target,):
            spec = known.get(path) or Activation(layer=None if path == target else path)
            if path not in known and spec.name in taken:
                spec = Activation(layer=spec.layer, name=f"{spec.name}_tuned")
            activations.append(spec)
        every = (*gradients, *activations)
        return tuple(spec if spec.weight == 1 else replace(spec, weight=1.0) for spec in every)

    def wanted(self, base: FungiConfig) -> list[ObjectiveSpec]:
        """Give the objectives to try: those named, or the config's and what they lack."""
        if self.objectives is not None:
            return list(parse_objectives(self.objectives))
        found = list(base.objectives)
        kinds = {spec.kind for spec in found}
        found += [missing() for missing in (KL, SimCLR) if missing.kind not in kinds]
        for spec in tuple(found):
            found += spec.variants(found)
        return found

    def cheap_combinations(self, space: Space) -> list[Weights]:
        """Give the embedding; each activation and each stack of them, without and with it."""
        alone = ((EMBEDDING, 1.0),)
        some = [(name,) for name in space.activations.values()] + self._stacks(space)
        named = [tuple((name, 1.0) for name in names) for names in some]
        return [alone, *named, *((*alone, *weights) for weights in named)]

    def gradient_combinations(self, space: Space) -> list[Weights]:
        """Give combinations of one or two gradients of one temper with what costs no gradient.

        The gradients with the embedding at every weight, without and with the target layer's
        activation; and with the embedding and each stack.
        """
        gradients = [spec for spec in space.specs if spec.has_gradient]
        own, found = space.activations[space.layer], []
        for size in (1, 2):
            for some in itertools.combinations(gradients, size):
                if len({spec.kind for spec in some}) < size:
                    continue
                names = [(spec.name, 1.0) for spec in some]
                for weight, active in itertools.product(self.embedding_weights, ((), (own,))):
                    first = [(EMBEDDING, float(weight))] if weight > 0 else []
                    found.append((*first, *names, *((name, 1.0) for name in active)))
                stacks = ([(name, 1.0) for name in stack] for stack in self._stacks(space))
                found += [((EMBEDDING, 1.0), *names, *stack) for stack in stacks]
        return found

    def _stacks(self, space: Space) -> list[tuple[str, ...]]:
        """Give the activations that are tried together: the last few, and all."""
        names = tuple(space.activations.values())
        counts = sorted({*self.layer_counts, len(names)})
        return [names[-n:] for n in counts if 1 < n <= len(names)]


def _check_each(
    name: str, values: object, check: Callable[..., Any], *bounds: int
) -> tuple[Any, ...]:
    # Checks what a field lists.
    if isinstance(values, str) or not isinstance(values, Iterable):
        raise ConfigError(f"{name} must be a list or a tuple; got {values!r}: write ({values!r},)")
    return tuple(check(f"each of {name}", value, *bounds) for value in values)
