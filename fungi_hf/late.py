"""Moved to `fungi_hf.encoders.late.stack`; this path goes with the next release."""

from fungi_hf.encoders.base import LateBatch
from fungi_hf.encoders.late.stack import BlockStack

__all__ = ["BlockStack", "LateBatch"]
