"""Moved to `fungi_hf.evaluation.report.plots`; this path goes with the next release."""

from fungi_hf.evaluation.report.plots import *  # noqa: F403
