"""Moved to `fungi_hf.tuning`; this path goes with the next release."""

from fungi_hf.tuning import *  # noqa: F403
