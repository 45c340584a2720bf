"""Moved to `fungi_hf.evaluation.report.tables`; this path goes with the next release."""

from fungi_hf.evaluation.report.tables import *  # noqa: F403
