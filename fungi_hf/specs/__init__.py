"""Objectives and reductions as frozen data: what to compute, not how. Standard library only."""

from fungi_hf.specs.base import OBJECTIVE_SPECS, REGISTERED_OBJECTIVES, ObjectiveSpec, ViewsSpec
from fungi_hf.specs.objectives import (
    BLOCK_NUMBER,
    KL,
    Activation,
    Custom,
    SimCLR,
    parse_objective,
)
from fungi_hf.specs.pca import PCA

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
    "parse_objective",
]
