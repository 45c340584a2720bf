"""Moved to `fungi_hf.icl.server.fake_server`; this path goes with the next release."""

from fungi_hf.icl.server.fake_server import *  # noqa: F403
