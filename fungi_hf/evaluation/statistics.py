"""Moved to `fungi_hf.statistics`; this path goes with the next release."""

from fungi_hf.statistics import (
    PairedTest,
    bootstrap_interval,
    holm,
    mcnemar,
    paired_difference,
    wilson_interval,
)

__all__ = [
    "PairedTest",
    "bootstrap_interval",
    "holm",
    "mcnemar",
    "paired_difference",
    "wilson_interval",
]
