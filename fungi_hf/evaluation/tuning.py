"""Moved to `fungi_hf.tuning`; this path goes with the next release."""

from fungi_hf.tuning import CandidateScore, TuningReport, TuningSearch, tune

__all__ = ["CandidateScore", "TuningReport", "TuningSearch", "tune"]
