"""What is computed: per-sample gradients of Linear layers as factors, and their sketches."""

from fungi_hf.gradients.factors import LayerFactors

__all__ = ["LayerFactors"]
