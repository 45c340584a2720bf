"""Where shards are: a local folder, or one of an object store through pyarrow's file systems."""

from __future__ import annotations

import errno
import os
import secrets
import shutil
import socket
from abc import ABC, abstractmethod
from pathlib import Path
from typing import Any

from fungi_hf.errors import OptionalDependencyError, StorageError
from fungi_hf.storage.files import move_first


class Place(ABC):
    """A flat folder of whole files; a file that can be seen is complete."""

    name: str

    @abstractmethod
    def names(self) -> list[str]:
        """Give the names of all files."""

    @abstractmethod
    def read(self, name: str) -> bytes:
        """Give a file; a missing one is a FileNotFoundError."""

    @abstractmethod
    def publish(self, name: str, data: bytes, *, replace: bool = False) -> bool:
        """Write a file whole; without `replace` the first writer wins and others get False."""

    @abstractmethod
    def delete(self, name: str) -> None:
        """Remove a file if it is there."""

    @abstractmethod
    def remove(self) -> None:
        """Remove the folder."""


class LocalPlace(Place):
    """A folder; every writer has a name of its own, and renames when its file is on the disk."""

    def __init__(self, folder: str | Path) -> None:
        """Make the folder.

        Raises:
            StorageError: If it cannot be made.
        """
        self.folder, self.name = Path(folder), str(folder)
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise StorageError(f"{folder} cannot be made: {error.strerror}") from None

    def names(self) -> list[str]:
        """Give the names of all files but those that are being written."""
        return sorted(one.name for one in os.scandir(self.folder) if not one.name.endswith(".tmp"))

    def read(self, name: str) -> bytes:
        """Give a file."""
        return (self.folder / name).read_bytes()

    def publish(self, name: str, data: bytes, *, replace: bool = False) -> bool:
        """Write beside, make sure of the disk, and link or rename.

        Raises:
            StorageError: If the disk is full, or the folder cannot be written.
        """
        target = self.folder / name
        own = f"{name}.{socket.gethostname()}-{os.getpid()}-{secrets.token_hex(4)}.tmp"
        part = self.folder / own
        try:
            with part.open("wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            if not replace:
                return move_first(part, target)
            part.replace(target)
            return True
        except OSError as error:
            raise StorageError(self._explained(error, target, len(data))) from None
        finally:
            part.unlink(missing_ok=True)

    def _explained(self, error: OSError, target: Path, needed: int) -> str:
        if error.errno != errno.ENOSPC:
            return f"{target} cannot be written: {error.strerror}"
        free = shutil.disk_usage(self.folder).free
        return (
            f"the disk is full: {target} needs {needed:,} bytes and {free:,} are free; make room "
            "and give the same command again, it goes on where it stopped"
        )

    def delete(self, name: str) -> None:
        """Remove a file if it is there."""
        (self.folder / name).unlink(missing_ok=True)

    def remove(self) -> None:
        """Remove the folder and all that is in it."""
        shutil.rmtree(self.folder, ignore_errors=True)


class ArrowPlace(Place):
    """A folder of an object store; an object is written in one go and appears whole."""

    def __init__(self, url: str) -> None:
        """Open the file system of a URL.

        Raises:
            OptionalDependencyError: If pyarrow is missing.
            StorageError: If the URL is of no file system that pyarrow knows.
        """
        try:
            import pyarrow as pa
            from pyarrow import fs
        except ImportError as error:
            raise OptionalDependencyError("pyarrow", "datasets") from error
        self.name = url
        try:
            self._system, self._base = fs.FileSystem.from_uri(url)
            self._system.create_dir(self._base, recursive=True)
        except (OSError, pa.ArrowException, ValueError) as error:
            raise StorageError(f"{url} cannot be opened: {error}") from None
        self._selector: Any = fs.FileSelector(self._base)

    def _path(self, name: str) -> str:
        return f"{self._base.rstrip('/')}/{name}"

    def names(self) -> list[str]:
        """Give the names of all objects."""
        found = self._system.get_file_info(self._selector)
        return sorted(one.base_name for one in found if not one.base_name.endswith(".tmp"))

    def read(self, name: str) -> bytes:
        """Give an object."""
        with self._system.open_input_stream(self._path(name)) as stream:
            data: bytes = stream.read()
            return data

    def publish(self, name: str, data: bytes, *, replace: bool = False) -> bool:
        """Write an object.

        Raises:
            StorageError: If it cannot be written.
        """
        if not replace and name in self.names():
            return False
        try:
            with self._system.open_output_stream(self._path(name)) as stream:
                stream.write(data)
        except OSError as error:
            raise StorageError(f"{self.name}/{name} cannot be written: {error}") from None
        return True

    def delete(self, name: str) -> None:
        """Remove an object if it is there."""
        if name in self.names():
            self._system.delete_file(self._path(name))

    def remove(self) -> None:
        """Remove the folder."""
        self._system.delete_dir(self._base)


def place_of(where: str | Path) -> Place:
    """Open a local folder, or the folder of a URL."""
    return ArrowPlace(str(where)) if "://" in str(where) else LocalPlace(where)
