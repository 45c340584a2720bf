"""Objectives and reductions as frozen data: what to compute, not how. Standard library only."""

from fungi_hf.specs import dense, targets  # their kinds enter the table
from fungi_hf.specs.base import (
    BLOCK_NUMBER,
    OBJECTIVE_SPECS,
    REGISTERED_OBJECTIVES,
    ObjectiveSpec,
    ViewsSpec,
    layer_label,
)
from fungi_hf.specs.objectives import (
    KL,
    PCA,
    Activation,
    Custom,
    SimCLR,
    parse_objective,
    parse_objectives,
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
    "layer_label",
    "parse_objective",
    "parse_objectives",
    "targets",
]
