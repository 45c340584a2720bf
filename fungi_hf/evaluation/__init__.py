"""What features are worth: protocols, statistics, plots and a report for blocks with names."""

from fungi_hf.evaluation.clustering import ClusteringProtocol, evaluate_clustering
from fungi_hf.evaluation.inputs import BlockFeatures
from fungi_hf.evaluation.knn import KNN_PROTOCOLS, KNNProtocol, evaluate_knn, knn_protocol
from fungi_hf.evaluation.landmarks import Landmarks, evaluate_landmarks, read_landmarks
from fungi_hf.evaluation.linear import LINEAR_PROTOCOLS, LinearProtocol, evaluate_linear
from fungi_hf.evaluation.records import EvaluationResult, change_per_class
from fungi_hf.evaluation.relevance import Relevance
from fungi_hf.evaluation.report.sections import build_report, write_report
from fungi_hf.evaluation.retrieval import (
    RETRIEVAL_PROTOCOLS,
    RetrievalProtocol,
    evaluate_retrieval,
)
from fungi_hf.evaluation.segmentation import (
    SEGMENTATION_PROTOCOLS,
    MemoryBank,
    SegmentationProtocol,
    TrainingDraws,
    evaluate_segmentation,
)
from fungi_hf.evaluation.similarity import block_cka, linear_cka

__all__ = [
    "KNN_PROTOCOLS",
    "LINEAR_PROTOCOLS",
    "RETRIEVAL_PROTOCOLS",
    "SEGMENTATION_PROTOCOLS",
    "BlockFeatures",
    "ClusteringProtocol",
    "EvaluationResult",
    "KNNProtocol",
    "Landmarks",
    "LinearProtocol",
    "MemoryBank",
    "Relevance",
    "RetrievalProtocol",
    "SegmentationProtocol",
    "TrainingDraws",
    "block_cka",
    "build_report",
    "change_per_class",
    "evaluate_clustering",
    "evaluate_knn",
    "evaluate_landmarks",
    "evaluate_linear",
    "evaluate_retrieval",
    "evaluate_segmentation",
    "knn_protocol",
    "linear_cka",
    "read_landmarks",
    "write_report",
]
