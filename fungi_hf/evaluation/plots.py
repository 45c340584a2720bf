"""Moved to `fungi_hf.evaluation.report.plots`; this path goes with the next release."""

from fungi_hf.evaluation.report.plots import (
    accuracy_against_cost,
    cka_heat_map,
    class_bars,
    difference_intervals,
    layer_curves,
    render,
    value_curves,
)

__all__ = [
    "accuracy_against_cost",
    "cka_heat_map",
    "class_bars",
    "difference_intervals",
    "layer_curves",
    "render",
    "value_curves",
]
