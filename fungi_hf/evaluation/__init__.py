"""What features are worth: protocols, statistics, plots and a report for blocks with names."""

from fungi_hf.evaluation.inputs import BlockFeatures
from fungi_hf.evaluation.knn import KNN_PROTOCOLS, KNNProtocol, evaluate_knn
from fungi_hf.evaluation.records import EvaluationResult
from fungi_hf.evaluation.summary import change_per_class

__all__ = [
    "KNN_PROTOCOLS",
    "BlockFeatures",
    "EvaluationResult",
    "KNNProtocol",
    "change_per_class",
    "evaluate_knn",
]
