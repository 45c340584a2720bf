"""Registers the pipeline task with transformers, and says clearly why when that cannot be done.

Invariant: registering is idempotent and changes nothing of transformers but its task table. Until
transformers' pipelines are imported, `import fungi_hf` imports neither them nor torch.

This is the package's one deliberate global effect at import: `import fungi_hf` makes the task
known, transformers has no entry point for tasks, and importing its pipelines at once would cost
every import of a config seconds. So `arrange` puts a finder in `sys.meta_path`.
"""

from __future__ import annotations

import contextlib
import importlib.abc
import importlib.util
import sys
from typing import TYPE_CHECKING, Final

from fungi_hf.errors import BrokenDependencyError
from fungi_hf.storage.files import MODEL_TYPE, TASK

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from importlib.machinery import ModuleSpec
    from types import ModuleType

_PIPELINES: Final = "transformers.pipelines"
_COMPANIONS: Final = ("torchaudio", "torchvision")


def arrange() -> None:
    """Register now if transformers' pipelines are there, else as soon as they are imported."""
    if _PIPELINES in sys.modules:
        register()
    elif not any(isinstance(finder, _Watch) for finder in sys.meta_path):
        sys.meta_path.insert(0, _Watch())


class _Watch(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Waits for the first import of transformers' pipelines, steps aside, registers after it."""

    _loader: importlib.abc.Loader

    def find_spec(
        self, fullname: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        # The module's own spec, with this object in the place of its loader.
        del path, target
        if fullname != _PIPELINES:
            return None
        sys.meta_path.remove(self)
        spec = importlib.util.find_spec(fullname)
        if spec is not None and spec.loader is not None:
            self._loader, spec.loader = spec.loader, self
        return spec

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        return self._loader.create_module(spec)

    def exec_module(self, module: ModuleType) -> None:
        try:
            with broken_companion_named():
                self._loader.exec_module(module)
        except BaseException:  # wait again
            sys.meta_path.insert(0, self)
            raise
        register()


@contextlib.contextmanager
def broken_companion_named() -> Iterator[None]:
    """Turn the error of a torchaudio or torchvision made for another torch into one that says so.

    Raises:
        BrokenDependencyError: If one of them is installed for another build of torch, which
            breaks transformers' models and pipelines.
        OSError: If something else cannot be loaded.
        RuntimeError: If something else fails.
    """
    try:
        yield
    except (OSError, RuntimeError) as error:  # CPU torch; another CUDA version
        name = next((name for name in _COMPANIONS if name in str(error)), None)
        if name is None:
            raise
        raise BrokenDependencyError(
            f"{name} is installed but this build of torch cannot load it "
            f"({error.__cause__ or error}), which breaks transformers too: uninstall {name} "
            "(this package does not need it), or install the build of torch that it was made for",
        ) from None


def register() -> None:
    """Add the task "fungi-feature-extraction"."""
    with broken_companion_named():
        from transformers.pipelines import PIPELINE_REGISTRY
    from transformers import AutoConfig, PreTrainedConfig

    from fungi_hf.integrations.transformers.pipeline import FungiPipeline, ModelByName

    class FungiReferenceConfig(PreTrainedConfig):
        """What `AutoConfig` gives for a folder that points to its encoder."""

        model_type = MODEL_TYPE

    AutoConfig.register(MODEL_TYPE, FungiReferenceConfig, exist_ok=True)
    if PIPELINE_REGISTRY.supported_tasks.get(TASK, {}).get("impl") is FungiPipeline:
        return
    PIPELINE_REGISTRY.register_pipeline(
        TASK, pipeline_class=FungiPipeline, pt_model=ModelByName, type="multimodal"
    )
