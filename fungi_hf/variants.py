"""Moved to `fungi_hf.extraction.variants`; this path goes with the next release."""

from fungi_hf.extraction.variants import SketchSettings, VariantBlocks, VariantExtractor
from fungi_hf.gradients.factors import exact_cosines

__all__ = ["SketchSettings", "VariantBlocks", "VariantExtractor", "exact_cosines"]
