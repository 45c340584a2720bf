"""Sweeps over layers and sketches."""

from fungi_hf.evaluation.sweeps.layers import SweepData, sweep_layers, sweep_objective
from fungi_hf.evaluation.sweeps.sketches import sweep_sketches

__all__ = ["SweepData", "sweep_layers", "sweep_objective", "sweep_sketches"]
