"""From a spec to the objective that computes its loss."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

from fungi_hf.errors import ObjectiveError

if TYPE_CHECKING:
    from fungi_hf.objectives.base import Objective
    from fungi_hf.specs import ObjectiveSpec


def make_objective(spec: ObjectiveSpec, *, width: int, seed: int) -> Objective:
    """Build the torch side of a spec.

    Args:
        spec: What the config says; with a gradient.
        width: D.
        seed: Root seed; the head's stream is keyed by the spec's name.

    Returns:
        The objective.

    Raises:
        ObjectiveError: If the objective's class refuses its options or breaks the contract.
    """
    options = spec.arguments()
    try:
        objective: Any = spec.factory()(width=width, seed=seed, **options)
    except TypeError as error:
        raise ObjectiveError(
            f"objective {spec.stream!r} refused width, seed, options {options!r}: {error}"
        ) from None
    missing = [name for name in ("n_views", "loss") if not hasattr(objective, name)]
    if missing:
        raise ObjectiveError(f"objective {spec.stream!r} lacks {' and '.join(missing)}")
    if objective.n_views != spec.n_views:
        raise ObjectiveError(
            f"objective {spec.stream!r} wants {objective.n_views} views, its spec says "
            f"{spec.n_views}; set {type(spec).__name__}(n_views={objective.n_views})"
        )
    return cast("Objective", objective)
