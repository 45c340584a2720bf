"""Nearest neighbours: exact and approximate search, and classification by them.

Needs numpy alone; `FaissIndex` asks for faiss when it is used.
"""

from fungi_hf.neighbors.base import Index, Metric, Neighbors
from fungi_hf.neighbors.classifier import KNNClassifier
from fungi_hf.neighbors.exact import ExactIndex, KernelIndex
from fungi_hf.neighbors.faiss import FaissIndex
from fungi_hf.neighbors.options import FaissOptions
from fungi_hf.neighbors.sharded import ShardedVectors
from fungi_hf.neighbors.topk import search_similarity

__all__ = [
    "ExactIndex",
    "FaissIndex",
    "FaissOptions",
    "Index",
    "KNNClassifier",
    "KernelIndex",
    "Metric",
    "Neighbors",
    "ShardedVectors",
    "search_similarity",
]
