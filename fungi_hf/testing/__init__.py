"""For anyone's tests: tiny offline encoders, and the contracts as functions."""

from fungi_hf.testing.checks import (
    check_encoder,
    check_objective,
    check_views,
    model_state,
    rng_states,
)
from fungi_hf.testing.models import TEXT_FAMILIES, randomise, tiny_text_model

__all__ = [
    "TEXT_FAMILIES",
    "check_encoder",
    "check_objective",
    "check_views",
    "model_state",
    "randomise",
    "rng_states",
    "tiny_text_model",
]
