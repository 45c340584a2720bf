"""What tuning may choose from, and how it is judged."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from fungi_hf.checks import check_choice, check_fields, check_flag, check_integer, check_number
from fungi_hf.config import FungiConfig
from fungi_hf.errors import ConfigError
from fungi_hf.specs import KL, Activation, parse_objective, parse_objectives
from fungi_hf.tuning.candidates import Transform

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from fungi_hf.specs import ObjectiveSpec


JUDGES: Final = ("neighbors", "linear")
LEAST_PAPER_ROWS: Final = 50


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
        """The blocks of gradients of the untouched input, which take one pass in all."""
        return [block for spec in self.losses(views=False) for block in spec.blocks]

    @property
    def views(self) -> list[str]:
        """The blocks of gradients that need views of every input."""
        return [block for spec in self.losses(views=True) for block in spec.blocks]

    def main(self, spec: ObjectiveSpec) -> str:
        """Give the block of an objective at the target layer, else at its last one."""
        found = [block for block, path in spec.blocks.items() if path in (None, self.layer)]
        return found[0] if found else list(spec.blocks)[-1]

    def losses(self, *, views: bool) -> list[ObjectiveSpec]:
        """Give the objectives with a gradient, of views or of the untouched input."""
        return [s for s in self.specs if s.has_gradient and (s.n_views > 1) == views]


@dataclass(frozen=True, slots=True, kw_only=True)
class TuningSearch:
    """What may be chosen, and how it is judged.

    Attributes:
        free_pooling: Try "mean" and "cls" beside the extractor's own pooling.
        free_layer: Try the same layer in other blocks, its activation and its gradient, alone and
            several together.
        objectives: Gradients to try; None takes the extractor's own, in each temper, and KL. Empty
            tries none. One with views is tried on `pilot_rows` first.
        whitenings: Powers of the whitening to try beside plain and centred blocks.
        embedding_weights: Of the embedding's cosine beside gradients; 0 leaves it out.
        judge: "neighbors" votes, "linear" fits a ridge classifier to the other rows.
        components: PCA widths to try on the best candidate, for neighbours.
        n_neighbors: K of the vote.
        max_rows: Training rows used; more are a seeded, stratified draw.
        linear_rows: The same for a linear judge, whose work grows with their cube.
        max_layers: Layers whose activations are tried, spread evenly and ending with the last;
            bounds memory.
        gradient_layers: Layers below the target layer at which an objective of the untouched input
            is tried that is given no layer, spread over the upper two thirds; 0 for none.
        layer_counts: How many of the last layers are tried together, beside all of them.
        min_gain: Gradients must gain more than this share of the rows, and more than one standard
            error.
        evidence: The plain embedding stays unless the gain on rows that did not choose is above 0
            at this one-sided level (`fungi_hf.tuning.evidence`); 0.5 asks for any gain.
        pilot_rows: Rows on which gradients of views must lead before they are computed for all.
        paper_rows: Most rows on which the paper preset is judged, for the report alone; fewer where
            it would cost more than a quarter of the rest, none below `LEAST_PAPER_ROWS`.
        ceiling: Share of rows that the plain embedding has right from which on few rows vote, since
            the others hide the differences.
        seed: Of the draw.
    """

    free_pooling: bool = True
    free_layer: bool = True
    objectives: tuple[ObjectiveSpec | str, ...] | None = None
    whitenings: tuple[float, ...] = (0.5, 1.0)
    embedding_weights: tuple[float, ...] = (0.0, 1.0, 4.0)
    judge: str = "neighbors"
    components: tuple[int, ...] = (64, 256)
    n_neighbors: int = 20
    max_rows: int = 4000
    linear_rows: int = 1000
    max_layers: int = 12
    gradient_layers: int = 3
    layer_counts: tuple[int, ...] = (2, 3, 4)
    min_gain: float = 0.005
    evidence: float = 0.15
    pilot_rows: int = 500
    paper_rows: int = 200
    ceiling: float = 0.97
    seed: int = 42

    def __post_init__(self) -> None:
        """Check every field; numbers of numpy become plain ones."""
        check_fields(self, ("n_neighbors", "max_rows", "linear_rows", "max_layers"), check_integer)
        whole = ("seed", "gradient_layers", "pilot_rows", "paper_rows")
        check_fields(self, whole, check_integer, 0)
        check_fields(self, ("free_pooling", "free_layer"), check_flag)
        check_choice("judge", self.judge, JUDGES)
        check_fields(self, ("min_gain", "ceiling"), check_number, 0, 1)
        check_fields(self, ("evidence",), check_number, 0, 0.5, inclusive="high")
        check_fields(self, ("components", "layer_counts"), _check_each, check_integer)
        check_fields(self, ("whitenings",), _check_each, check_number, 0, 1)
        check_fields(self, ("embedding_weights",), _check_each, check_number, 0)
        if self.objectives is not None:
            check_fields(self, ("objectives",), _check_each, lambda _, one: parse_objective(one))
            parsed: Any = self.objectives
            FungiConfig(objectives=parsed)  # refuses equal names

    @property
    def transforms(self) -> tuple[Transform, ...]:
        """Plain, centred (which changes no linear classifier), and every whitening."""
        whitened = (Transform(whitening=float(power)) for power in self.whitenings if power > 0)
        centred = () if self.judge == "linear" else (Transform(center=True),)
        return (Transform(), *centred, *whitened)

    @property
    def most_rows(self) -> int:
        """Rows that judge at most."""
        return min(self.max_rows, self.linear_rows) if self.judge == "linear" else self.max_rows

    def specs(
        self, base: FungiConfig, layers: Sequence[str] = (), target: str = ""
    ) -> tuple[ObjectiveSpec, ...]:
        """Give the gradients to try, then the activation of every layer, each with weight 1.

        `layers` are dotted paths, lowest first; `target` is the target layer among them.
        """
        wanted = self.wanted(base)
        inner = (*self.inner(layers, target), "auto")
        placed = {spec.name for spec in wanted if spec.layer is not None}
        gradients = [
            replace(spec, layer=inner)
            if spec.n_views == 1 and spec.name not in placed and not spec.per_token
            else spec
            for spec in wanted
            if spec.has_gradient
        ]
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

    def inner(self, layers: Sequence[str], target: str) -> list[str]:
        """Give the layers below the target layer at which gradients are tried, lowest first."""
        if not self.free_layer or target not in layers:
            return []
        below = list(layers[: layers.index(target)])
        low = len(layers) // 3  # of a low block the gradient is dear and says little
        kept = below[low:]
        most = min(self.gradient_layers, len(kept))
        places: Any = np.linspace(0, len(kept) - 1, most).round().astype(int) if most else []
        return [kept[place] for place in places]

    def wanted(self, base: FungiConfig) -> list[ObjectiveSpec]:
        """Give the objectives to try: those named, or the config's and KL."""
        if self.objectives is not None:
            return list(parse_objectives(self.objectives))
        found = list(base.objectives)
        kinds = {spec.kind for spec in found}
        found += [KL()] if KL.kind not in kinds else []
        for spec in tuple(found):
            found += spec.variants(found)
        return found


def _check_each(
    name: str, values: object, check: Callable[..., Any], *bounds: int
) -> tuple[Any, ...]:
    # Checks what a field lists.
    if isinstance(values, str) or not isinstance(values, Iterable):
        raise ConfigError(f"{name} must be a list or a tuple; got {values!r}: write ({values!r},)")
    return tuple(check(f"each of {name}", value, *bounds) for value in values)
