"""The on-disk layout: `fungi_config.json` and `fungi_state.safetensors`, locally or on the Hub.

JSON and safetensors only. Whatever is wrong with a folder is said before anything is used.
"""

from __future__ import annotations

import json
import os
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from fungi_hf.errors import StateError, StorageError

if TYPE_CHECKING:
    from torch import Tensor

CONFIG_NAME: Final = "fungi_config.json"
STATE_NAME: Final = "fungi_state.safetensors"
_MAX_CONFIG_BYTES: Final = 1 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class HubOptions:
    """How to reach a repository; the meaning is huggingface_hub's.

    Attributes:
        revision: Branch, tag or commit.
        token: Access token; never written or logged.
        cache_dir: Cache folder.
        local_files_only: Do not ask the network.
    """

    revision: str | None = None
    token: str | bool | None = None
    cache_dir: str | Path | None = None
    local_files_only: bool = False


def find_file(source: str | Path, name: str, hub: HubOptions) -> Path | None:
    """Give the local path of a file of a folder or repository, or None where it has none.

    Args:
        source: A folder, or a repository id.
        name: The file's name.
        hub: Ignored for folders.

    Raises:
        StorageError: If the repository cannot be reached or does not exist.
    """
    folder = Path(source)
    if folder.is_dir():
        return folder / name if (folder / name).is_file() else None
    from transformers.utils import cached_file

    try:
        found = cached_file(
            str(source),
            name,
            revision=hub.revision,
            token=hub.token,
            cache_dir=hub.cache_dir,
            local_files_only=hub.local_files_only,
            _raise_exceptions_for_missing_entries=False,
            _raise_exceptions_for_gated_repo=True,
            _raise_exceptions_for_connection_errors=True,
        )
    except (OSError, ValueError) as error:
        raise StorageError(
            f"{str(source)!r} is neither a folder nor a repository that can be reached: "
            f"{str(error).splitlines()[0]}"
        ) from None
    return None if found is None else Path(found)


def read_document(path: Path) -> dict[str, Any]:
    """Read a `fungi_config.json`.

    Raises:
        StorageError: If it is too large, not JSON, or not an object.
    """
    if path.stat().st_size > _MAX_CONFIG_BYTES:
        raise StorageError(f"{path} is larger than {_MAX_CONFIG_BYTES} bytes: not a config")
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise StorageError(f"{path} is not JSON: {error}") from None
    if not isinstance(document, dict) or not isinstance(document.get("config"), dict):
        raise StorageError(f"{path} must hold a JSON object with a 'config' object")
    return document


def read_tensors(path: Path) -> dict[str, Tensor]:
    """Read a `fungi_state.safetensors`.

    Raises:
        StateError: If the file is damaged.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return load_file(str(path))
    except (SafetensorError, OSError) as error:
        raise StateError(f"{path} is damaged or not a safetensors file: {error}") from None


def write_folder(folder: str | Path, document: dict[str, Any], tensors: dict[str, Tensor]) -> None:
    """Write config and state; each file appears whole or not at all.

    Args:
        folder: Made if missing; files of other names are not touched.
        document: The content of `fungi_config.json`.
        tensors: The content of `fungi_state.safetensors`; no file if empty.

    Raises:
        StorageError: If the folder cannot be written.
    """
    from safetensors.torch import save

    target = Path(folder)
    try:
        target.mkdir(parents=True, exist_ok=True)
        state = target / STATE_NAME
        if tensors:
            plain = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
            _replace(state, save(plain))
        elif state.exists():
            state.unlink()
        text = json.dumps(document, indent=2, sort_keys=True, ensure_ascii=False) + "\n"
        _replace(target / CONFIG_NAME, text.encode())
    except OSError as error:
        raise StorageError(f"cannot write to {target}: {error}") from None


def _replace(path: Path, data: bytes) -> None:
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "wb") as stream:
            stream.write(data)
        Path(name).chmod(0o644)
        Path(name).replace(path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise
