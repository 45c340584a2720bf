"""The path that saved pipelines name; it may never move."""

from fungi_hf.integrations.transformers.pipeline import FungiPipeline

__all__ = ["FungiPipeline"]
