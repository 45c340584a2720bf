"""Choosing features from labelled training data alone, with the evidence for the choice."""

from fungi_hf.tuning.report import CandidateScore, TuningReport
from fungi_hf.tuning.search import TuningSearch
from fungi_hf.tuning.tune import tune

__all__ = ["CandidateScore", "TuningReport", "TuningSearch", "tune"]
