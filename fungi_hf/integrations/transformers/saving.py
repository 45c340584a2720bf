"""Saving a pipeline: encoder, preprocessor, config and state in one folder that loads again."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from fungi_hf.errors import StorageError
from fungi_hf.hub.reference import TASK, is_reference
from fungi_hf.hub.saving import save
from fungi_hf.storage.files import CONFIG_NAME, replace_file
from fungi_hf.storage.upload import push_folder

if TYPE_CHECKING:
    from fungi_hf.extractor import FungiExtractor
    from fungi_hf.storage.upload import PushOptions

SHIM_NAME: Final = "fungi_pipeline.py"
_SHIM: Final = (
    '"""Loads the pipeline of the installed package fungi-hf; nothing else is executed."""\n\n'
    "from fungi_hf.integrations.pipeline import FungiPipeline  # noqa: F401\n"
)


def save_pipeline(
    extractor: FungiExtractor,
    folder: str | Path,
    *,
    custom_code: bool = False,
    options: dict[str, Any] | None = None,
) -> None:
    """Write encoder, preprocessor, config and state.

    Args:
        extractor: What to save.
        folder: Made if missing.
        custom_code: Also write the one-line module and name it in `config.json`.
        options: Of the model's own `save_pretrained`.

    Raises:
        StorageError: If the folder holds another model or cannot be written.
    """
    target = Path(folder)
    if target.is_file():
        raise StorageError(f"{target} is a file; give a folder")
    config = target / "config.json"
    if config.exists() and not is_reference(config) and not (target / CONFIG_NAME).exists():
        raise StorageError(
            f"{target} holds a model, which saving a pipeline would overwrite; choose another "
            "folder, or write our files alone with pipe.extractor.save_pretrained(folder)"
        )
    try:
        extractor.encoder.model.save_pretrained(target, **(options or {}))  # type: ignore[operator]
        for preprocessor in (extractor.encoder.tokenizer, extractor.encoder.processor):
            if preprocessor is not None:
                preprocessor.save_pretrained(target)
        save(extractor, target, with_model=True)
        if custom_code:
            _write_shim(target)
    except OSError as error:
        raise StorageError(f"cannot write to {target}: {error}") from None


def _write_shim(target: Path) -> None:
    path = target / "config.json"
    settings = json.loads(path.read_text(encoding="utf-8"))
    settings["custom_pipelines"] = {
        TASK: {
            "impl": f"{SHIM_NAME.removesuffix('.py')}.FungiPipeline",
            "pt": ["AutoModelForTextEncoding", "AutoModel"],
        }
    }
    replace_file(target / SHIM_NAME, _SHIM.encode())
    replace_file(path, (json.dumps(settings, indent=2, sort_keys=True) + "\n").encode())


def push_pipeline(
    extractor: FungiExtractor, repo_id: str, options: PushOptions, *, custom_code: bool
) -> str:
    """Upload what `save_pipeline` writes, in one commit.

    Returns:
        The commit's address.

    Raises:
        StorageError: If the repository holds another model or cannot be written.
    """
    with tempfile.TemporaryDirectory() as folder:
        save_pipeline(extractor, folder, custom_code=custom_code)
        return push_folder(folder, repo_id, options, with_model=True)
