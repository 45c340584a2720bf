"""Gradient features (FUNGI) for frozen Hugging Face encoders, without training."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from fungi_hf.config import KL, PCA, Activation, Custom, FungiConfig, SimCLR
from fungi_hf.errors import FungiError
from fungi_hf.integrations.transformers.registration import arrange, broken_companion_named
from fungi_hf.specs.dense import DenseInfoNCE
from fungi_hf.specs.targets import DINO, IBOT, DeepCluster

if TYPE_CHECKING:
    from fungi_hf.classifier import FungiClassifier
    from fungi_hf.extractor import FungiExtractor
    from fungi_hf.features import FungiFeatures
    from fungi_hf.objectives import register_objective

__version__ = "0.1.0"
__all__ = [
    "DINO",
    "IBOT",
    "KL",
    "PCA",
    "Activation",
    "Custom",
    "DeepCluster",
    "DenseInfoNCE",
    "FungiClassifier",
    "FungiConfig",
    "FungiError",
    "FungiExtractor",
    "FungiFeatures",
    "SimCLR",
    "register_objective",
]

_HOMES = {
    "FungiClassifier": "fungi_hf.classifier",
    "FungiExtractor": "fungi_hf.extractor",
    "FungiFeatures": "fungi_hf.features",
    "register_objective": "fungi_hf.objectives",
}
# Registers at once, or when transformers' pipelines are imported: configs stay light.
arrange()


def __getattr__(name: str) -> Any:
    """Import the heavy names when they are first used.

    Raises:
        AttributeError: If there is no such name.
    """
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    import importlib

    with broken_companion_named():
        importlib.import_module("transformers.pipelines")
        return getattr(importlib.import_module(_HOMES[name]), name)
