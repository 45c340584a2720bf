"""Experiments: one config file each, results beside them, one runner."""
