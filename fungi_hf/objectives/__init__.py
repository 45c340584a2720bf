"""Self-supervised objectives: embeddings in, one loss per sample out."""

from fungi_hf.objectives.base import Objective, make_objective, register_objective
from fungi_hf.objectives.kl import KLObjective
from fungi_hf.objectives.simclr import SimCLRObjective

__all__ = ["KLObjective", "Objective", "SimCLRObjective", "make_objective", "register_objective"]
