"""Moved to `fungi_hf.statistics`; this path goes with the next release."""

from fungi_hf.statistics import *  # noqa: F403
