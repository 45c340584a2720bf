"""The stages of a fit in their order: which a config needs, and what each builds on."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from fungi_hf.encoders.base import Encoder, SummingEncoder
from fungi_hf.extraction.state import FittedState

if TYPE_CHECKING:
    from fungi_hf.config import FungiConfig

DRAW: Final = "draw"
"""Training inputs of objectives, latents of all of them, and sums that the encoder learns from."""
LATENTS: Final = "latents"
"""Latents of all training inputs, apart from the draw where they wait for the encoder to learn."""
MOMENTS: Final = "moments"
"""Moments of blocks, for means and whitening."""
COMPONENTS: Final = "components"
"""Moments of finished rows, for a PCA."""
STAGES: Final = (DRAW, LATENTS, MOMENTS, COMPONENTS)


def stages_of(config: FungiConfig, encoder: Encoder) -> tuple[str, ...]:
    """Give the stages that a config needs, in their order; none where nothing is learned."""
    learns = config.audio_statistics == "fit" or learns_alone(encoder)
    wanted = {
        DRAW: learns or any(spec.needs_fit for spec in config.objectives),
        LATENTS: learns and any(spec.learns_from_all for spec in config.objectives),
        MOMENTS: config.center or config.whitening > 0,
        COMPONENTS: config.reduction is not None,
    }
    return tuple(stage for stage in STAGES if wanted[stage])


def learns_alone(encoder: Encoder) -> bool:
    """Whether the encoder's own `fit` wants all inputs at once."""
    own = getattr(type(encoder), "fit", None) is not Encoder.fit
    return own and not isinstance(encoder, SummingEncoder)


def foundation(stage: str, state: FittedState) -> FittedState:
    """Give what a stage builds on: what the stages before it have learned."""
    if stage == DRAW:
        return FittedState()
    if stage == LATENTS:
        return FittedState(encoder=state.encoder)
    known = FittedState(objectives=state.objectives, encoder=state.encoder)
    if stage == MOMENTS:
        return known
    return FittedState(
        objectives=state.objectives,
        encoder=state.encoder,
        means=state.means,
        whitening=state.whitening,
    )


def missing(stage: str, config: FungiConfig, state: FittedState) -> list[str]:
    """Name what a stage builds on and what is not there."""
    later = {
        DRAW: {"reduction", "center", "whitening", "audio_statistics"},
        LATENTS: {"reduction", "center", "whitening"},
        MOMENTS: {"reduction", "center", "whitening"},
        COMPONENTS: {"reduction"},
    }[stage]
    if stage in (DRAW, LATENTS):
        later |= {spec.name for spec in config.objectives}
    return [name for name in state.missing(config) if name not in later]
