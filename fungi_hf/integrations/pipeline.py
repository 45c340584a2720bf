"""The path that saved pipelines name; it may never move."""

import transformers.pipelines  # noqa: F401 - registers the task, which imports what follows

from fungi_hf.integrations.transformers.pipeline import FungiPipeline

__all__ = ["FungiPipeline"]
