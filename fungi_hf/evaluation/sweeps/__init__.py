"""Sweeps over layers and sketches."""
