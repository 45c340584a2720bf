"""Random views of one input, keyed by its content."""

from fungi_hf.views.base import ViewGenerator, register_views

__all__ = ["ViewGenerator", "register_views"]
