"""The fields of a config alone, without encoder or state: in a folder, on the Hub, in a file."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fungi_hf.errors import StorageError
from fungi_hf.storage.files import (
    CONFIG_NAME,
    FORMAT,
    HubOptions,
    find_file,
    read_document,
    write_folder,
)
from fungi_hf.storage.upload import push_folder

if TYPE_CHECKING:
    from fungi_hf.storage.upload import PushOptions


def read_config(place: str | Path, hub: HubOptions) -> dict[str, Any]:
    """Read the fields from a folder, a repository, or a JSON file; fitted state is not read.

    Raises:
        StorageError: If there is no config, or it cannot be read.
    """
    file = Path(place)
    path = file if file.is_file() else find_file(place, CONFIG_NAME, hub)
    if path is None:
        raise StorageError(f"there is no {CONFIG_NAME} in {str(place)!r}")
    fields: dict[str, Any] = read_document(path)["config"]
    return fields


def write_config(fields: dict[str, Any], folder: str | Path) -> None:
    """Write the fields; other files there are not touched.

    Raises:
        StorageError: If the folder holds a saved extractor, or cannot be written.
    """
    path = Path(folder) / CONFIG_NAME
    if path.is_file():
        _refuse_extractor(path, str(folder))
    write_folder(folder, {"format": FORMAT, "config": fields}, None)


def push_config(fields: dict[str, Any], repo_id: str, options: PushOptions) -> str:
    """Push the fields in one commit.

    Returns:
        The address of the commit or pull request.

    Raises:
        StorageError: If the repository holds a saved extractor, or cannot be written.
    """

    def check(files: set[str]) -> None:
        if CONFIG_NAME in files:
            hub = HubOptions(revision=options.revision, token=options.token)
            path = find_file(repo_id, CONFIG_NAME, hub)
            if path is not None:
                _refuse_extractor(path, repo_id)

    with tempfile.TemporaryDirectory() as folder:
        write_config(fields, folder)
        return push_folder(folder, repo_id, options, check=check)


def _refuse_extractor(path: Path, place: str) -> None:
    if "digests" in read_document(path):
        raise StorageError(
            f"{place!r} holds a saved extractor, whose fitted state belongs to its config; choose "
            "another place for the config alone"
        )
