"""Moved to `fungi_hf.statistics`; this path and its names go with the next release."""

from fungi_hf.statistics import bootstrap_difference, holm, smallest_difference
from fungi_hf.statistics import mcnemar_p as mcnemar
from fungi_hf.statistics import wilson_interval as wilson

__all__ = ["bootstrap_difference", "holm", "mcnemar", "smallest_difference", "wilson"]
