"""A classifier to keep: raw inputs in, labels out; a folder or a repository holds it."""

from fungi_hf.classifier.estimator import FungiClassifier
from fungi_hf.classifier.evidence import Measured

__all__ = ["FungiClassifier", "Measured"]
