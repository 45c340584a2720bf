"""Choosing features from labelled training data alone, with the evidence for the choice."""

from fungi_hf.evaluation.tuning.search import TuningSearch
from fungi_hf.evaluation.tuning.tuner import tune
from fungi_hf.tuning import CandidateScore, TuningReport

__all__ = ["CandidateScore", "TuningReport", "TuningSearch", "tune"]
