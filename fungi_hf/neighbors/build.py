"""A folder that keeps the finished parts of an index while it is built."""

from __future__ import annotations

import hashlib
import json
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from fungi_hf.errors import RunMismatchError, StorageError
from fungi_hf.storage.files import replace_file, write_first

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

PLAN: Final = "build.json"
_DIGEST_BYTES = 32


class BuildFolder:
    """Files of one plan, each with a digest behind it that tells whether it is whole and belongs.

    A damaged file counts as missing.
    """

    def __init__(self, folder: str | Path, plan: Mapping[str, Any]) -> None:
        """Begin a build, or go on with one of the same plan.

        Raises:
            RunMismatchError: If the folder is of another plan, or of none and not empty.
            StorageError: If it cannot be read or written.
        """
        self.folder = Path(folder)
        text = json.dumps(plan, indent=1) + "\n"
        self._key = hashlib.sha256(text.encode()).digest()
        path = self.folder / PLAN
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            if not path.exists() and any(self.folder.glob("*.codes")):
                raise RunMismatchError(
                    f"{folder} has parts and no {PLAN}, so nobody can say of what they are; remove "
                    "the folder, or choose another"
                )
            if not write_first(path, text.encode()):
                self._compare(plan, path.read_text(encoding="utf-8"))
        except (OSError, UnicodeDecodeError) as error:
            raise StorageError(f"the build folder {folder} cannot be used: {error}") from None

    def _compare(self, plan: Mapping[str, Any], text: str) -> None:
        try:
            other = dict(json.loads(text))
        except (ValueError, TypeError) as error:
            raise RunMismatchError(
                f"{self.folder / PLAN} cannot be read ({error}); remove the folder"
            ) from None
        for name in plan:
            mine, theirs = plan[name], other.get(name)
            if mine != theirs:
                what = "other vectors" if name == "vectors" else f"another {name}"
                raise RunMismatchError(
                    f"{self.folder} is the build of {what} ({theirs!r:.60}, here {mine!r:.60}); "
                    "remove it, or choose another folder"
                )

    def bind(self, data: bytes) -> None:
        """Let all other files belong to this data, too."""
        self._key = hashlib.sha256(self._key + data).digest()

    def made(self, name: str, make: Callable[[], bytes]) -> bytes:
        """Give a file's data; make and write it if it is missing or damaged.

        Raises:
            StorageError: If it cannot be read or written.
        """
        path = self.folder / name
        try:
            found = path.read_bytes() if path.exists() else b""
            data = found[:-_DIGEST_BYTES]
            if found[-_DIGEST_BYTES:] == self._digest(name, data):
                return data
            if path.exists():
                warnings.warn(f"{path} is damaged; it is computed again", stacklevel=2)
            data = make()
            replace_file(path, data + self._digest(name, data))
        except OSError as error:
            raise StorageError(f"{path} cannot be read or written: {error}") from None
        return data

    def _digest(self, name: str, data: bytes) -> bytes:
        return hashlib.sha256(self._key + name.encode() + b"\0" + data).digest()
