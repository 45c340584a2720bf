"""Registers the pipeline task with transformers, and says clearly why when that cannot be done.

Invariant: registering is idempotent and changes nothing of transformers but its task table.
"""

from __future__ import annotations

from typing import Final

from fungi_hf.errors import BrokenDependencyError

TASK: Final = "fungi-feature-extraction"


def register() -> None:
    """Add the task "fungi-feature-extraction".

    Raises:
        BrokenDependencyError: If torchaudio is installed for another build of torch, which
            breaks transformers' models and pipelines.
        OSError: If transformers cannot be imported for another reason of the kind.
        RuntimeError: Likewise.
    """
    try:
        from transformers.pipelines import PIPELINE_REGISTRY
    except (OSError, RuntimeError) as error:  # CPU torch; another CUDA version
        if "torchaudio" not in str(error):
            raise
        raise BrokenDependencyError(
            "torchaudio is installed but this build of torch cannot load it "
            f"({error.__cause__ or error}), which breaks transformers too: uninstall torchaudio "
            "(this package does not need it), or install the build of torch that it was made for",
        ) from None
    from fungi_hf.hub.reference import register_reference
    from fungi_hf.integrations.pipeline import FungiPipeline, ModelByName

    register_reference()
    if PIPELINE_REGISTRY.supported_tasks.get(TASK, {}).get("impl") is FungiPipeline:
        return
    PIPELINE_REGISTRY.register_pipeline(
        TASK, pipeline_class=FungiPipeline, pt_model=ModelByName, type="multimodal"
    )
