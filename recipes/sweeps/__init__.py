"""Sweeps that the ablations show."""
