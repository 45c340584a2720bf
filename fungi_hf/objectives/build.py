"""From a spec to the objective that computes its loss."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

from fungi_hf.errors import ObjectiveError
from fungi_hf.objectives.kl import KLObjective
from fungi_hf.objectives.simclr import SimCLRObjective
from fungi_hf.specs import KL, REGISTERED_OBJECTIVES, Activation, SimCLR

if TYPE_CHECKING:
    from collections.abc import Callable

    from fungi_hf.objectives.base import Objective
    from fungi_hf.specs import Custom, ObjectiveSpec


def make_objective(spec: ObjectiveSpec, *, width: int, seed: int) -> Objective | None:
    """Build the torch side of a spec.

    Args:
        spec: What the config says.
        width: D.
        seed: Root seed; the head's stream is keyed by the spec's name.

    Returns:
        The objective, or None for `Activation`, which has no loss.

    Raises:
        ObjectiveError: If a third-party factory fails or breaks the contract.
    """
    if isinstance(spec, Activation):
        return None
    if isinstance(spec, KL):
        return KLObjective(
            width=width,
            seed=seed,
            temperature=spec.temperature,
            latent_dim=spec.latent_dim,
            name=spec.name,
        )
    if isinstance(spec, SimCLR):
        return SimCLRObjective.from_spec(spec, width=width, seed=seed)
    return _make_custom(spec, width=width, seed=seed)


def _make_custom(spec: Custom, *, width: int, seed: int) -> Objective:
    factory = cast("Callable[..., Any]", REGISTERED_OBJECTIVES[spec.objective])
    try:
        objective = factory(width=width, seed=seed, **spec.options)
    except TypeError as error:
        raise ObjectiveError(
            f"objective {spec.objective!r} refused width, seed, options {spec.options!r}: {error}"
        ) from None
    missing = [name for name in ("n_views", "loss") if not hasattr(objective, name)]
    if missing:
        raise ObjectiveError(f"objective {spec.objective!r} lacks {' and '.join(missing)}")
    if objective.n_views != spec.n_views:
        raise ObjectiveError(
            f"objective {spec.objective!r} wants {objective.n_views} views, its spec says "
            f"{spec.n_views}; set Custom(n_views={objective.n_views})"
        )
    return cast("Objective", objective)
