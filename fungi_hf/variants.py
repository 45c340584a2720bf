"""Moved to `fungi_hf.extraction.variants`; this path goes with the next release."""

from fungi_hf.extraction.variants import *  # noqa: F403
from fungi_hf.gradients.factors import exact_cosines  # noqa: F401
