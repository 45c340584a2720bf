"""Moved to `fungi_hf.statistics`; this path goes with the next release."""

from fungi_hf.statistics import bootstrap_difference, holm, mcnemar, smallest_difference

__all__ = ["bootstrap_difference", "holm", "mcnemar", "smallest_difference"]
