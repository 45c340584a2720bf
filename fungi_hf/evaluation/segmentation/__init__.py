"""In-context segmentation: each patch gets the labels of its nearest neighbours' patches.

Everything here works on `DenseFeatures` and masks; no encoder is known.
"""

from fungi_hf.evaluation.segmentation.bank import MemoryBank
from fungi_hf.evaluation.segmentation.draws import TrainingDraws
from fungi_hf.evaluation.segmentation.evaluate import evaluate_segmentation
from fungi_hf.evaluation.segmentation.protocol import (
    SEGMENTATION_PROTOCOLS,
    SegmentationProtocol,
)

__all__ = [
    "SEGMENTATION_PROTOCOLS",
    "MemoryBank",
    "SegmentationProtocol",
    "TrainingDraws",
    "evaluate_segmentation",
]
