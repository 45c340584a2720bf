"""Moved to `fungi_hf.gradients.sketches`; this path goes with the next release."""

from fungi_hf.gradients.sketches import *  # noqa: F403
