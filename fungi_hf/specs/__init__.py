"""Objectives and reductions as frozen data: what to compute, not how. Standard library only."""

from fungi_hf.specs import dense, targets  # their kinds enter the table
from fungi_hf.specs.base import OBJECTIVE_SPECS, REGISTERED_OBJECTIVES, ObjectiveSpec, ViewsSpec
from fungi_hf.specs.objectives import (
    BLOCK_NUMBER,
    KL,
    PCA,
    Activation,
    Custom,
    SimCLR,
    parse_objective,
)

__all__ = [
    "BLOCK_NUMBER",
    "KL",
    "OBJECTIVE_SPECS",
    "PCA",
    "REGISTERED_OBJECTIVES",
    "Activation",
    "Custom",
    "ObjectiveSpec",
    "SimCLR",
    "ViewsSpec",
    "dense",
    "parse_objective",
    "targets",
]
