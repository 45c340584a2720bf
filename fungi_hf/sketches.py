"""Moved to `fungi_hf.gradients.sketches`; this path goes with the next release."""

from fungi_hf.gradients.sketches import DenseSketch, KhatriRao, Sketch, make_sketch

__all__ = ["DenseSketch", "KhatriRao", "Sketch", "make_sketch"]
