"""Moved to `fungi_hf.evaluation.sweeps.sketches`; this path goes with the next release."""

from fungi_hf.evaluation.sweeps.sketches import *  # noqa: F403
