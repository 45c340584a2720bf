"""A config alone, without encoder or state: in a folder, on the Hub, beside a model or apart."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from fungi_hf.errors import StorageError
from fungi_hf.storage.files import (
    CONFIG_NAME,
    FORMAT,
    HubOptions,
    find_file,
    read_document,
    write_folder,
)
from fungi_hf.storage.upload import Pushable, push_document

if TYPE_CHECKING:
    from collections.abc import Mapping

    from fungi_hf.storage.upload import PushOptions


class ShareableConfig(Pushable):
    """The part of `FungiConfig` that reads and writes folders and repositories."""

    if TYPE_CHECKING:

        def to_dict(self) -> dict[str, Any]:  # noqa: D102
            ...

        @classmethod
        def from_dict(cls, data: Mapping[str, Any]) -> Self:  # noqa: D102
            ...

    @classmethod
    def from_pretrained(
        cls,
        place: str | Path,
        *,
        revision: str | None = None,
        token: str | bool | None = None,
        cache_dir: str | Path | None = None,
        local_files_only: bool = False,
    ) -> Self:
        """Read the config of a folder, of a repository of the Hub, or of a JSON file.

        Args:
            place: Written by `save_pretrained` or `push_to_hub`, of a config or an extractor.
            revision: Branch, tag or commit.
            token: Access token of the Hub.
            cache_dir: Cache folder of the Hub.
            local_files_only: Do not ask the network.

        Returns:
            The config; fitted state is not read.

        Raises:
            StorageError: If there is no config, or it cannot be read.
            ConfigError: If it holds an unknown key or value.
        """
        hub = HubOptions(
            revision=revision, token=token, cache_dir=cache_dir, local_files_only=local_files_only
        )
        return cls.from_dict(read_config(place, hub))

    def save_pretrained(self, folder: str | Path) -> None:
        """Write the config alone; other files there are not touched.

        Args:
            folder: Made if missing.

        Raises:
            StorageError: If it holds a saved extractor, or cannot be written.
        """
        write_config(self, folder)

    def _push(self, repo_id: str, options: PushOptions) -> str:
        return push_config(self, repo_id, options)


def read_config(place: str | Path, hub: HubOptions) -> dict[str, Any]:
    """Read the config's fields from a folder, a repository, or a JSON file.

    Returns:
        What `FungiConfig.from_dict` takes.

    Raises:
        StorageError: If there is none, or it cannot be read.
    """
    file = Path(place)
    path = file if file.is_file() else find_file(place, CONFIG_NAME, hub)
    if path is None:
        raise StorageError(f"there is no {CONFIG_NAME} in {str(place)!r}")
    fields: dict[str, Any] = read_document(path)["config"]
    return fields


def write_config(config: ShareableConfig, folder: str | Path) -> None:
    """Write the config alone.

    Raises:
        StorageError: If the folder holds a saved extractor, or cannot be written.
    """
    path = Path(folder) / CONFIG_NAME
    if path.is_file():
        _refuse_extractor(path, str(folder))
    write_folder(folder, _document(config), None)


def push_config(config: ShareableConfig, repo_id: str, options: PushOptions) -> str:
    """Push the config alone, in one commit.

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

    return push_document(_document(config), repo_id, options, check)


def _document(config: ShareableConfig) -> dict[str, Any]:
    return {"format": FORMAT, "config": config.to_dict()}


def _refuse_extractor(path: Path, place: str) -> None:
    if "digests" in read_document(path):
        raise StorageError(
            f"{place!r} holds a saved extractor, whose fitted state belongs to its config; choose "
            "another place for the config alone"
        )
