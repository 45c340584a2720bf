"""Moved to `fungi_hf.encoders.late.stack`; this path goes with the next release."""

from fungi_hf.encoders.base import LateBatch  # noqa: F401
from fungi_hf.encoders.late.stack import *  # noqa: F403
