"""Moved to `fungi_hf.evaluation.report.documents`; this path goes with the next release."""

from fungi_hf.evaluation.report.documents import *  # noqa: F403
