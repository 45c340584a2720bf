"""Vectors in several .npy files that are searched as one matrix and never held as one.

`fungi-hf extract --format npy` writes such files; any others of one width and number type do.
"""

from __future__ import annotations

import bisect
import json
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from fungi_hf.errors import FingerprintMismatchError, InputError, ShapeError, StorageError

if TYPE_CHECKING:
    from collections.abc import Sequence
    from io import FileIO

_TYPES: Final = ("float16", "float32", "float64")


@dataclass(frozen=True, slots=True)
class _File:
    path: Path
    offset: int
    rows: int
    width: int
    dtype: np.dtype[Any]
    fingerprint: str | None

    def read(self, start: int, stop: int) -> np.ndarray:
        # Read, not mapped: mapped pages count as resident memory.
        row = self.width * self.dtype.itemsize
        with self._open() as file:
            file.seek(self.offset + start * row)
            found = np.fromfile(file, self.dtype, (stop - start) * self.width)
        if found.size != (stop - start) * self.width:
            raise self._cut()
        return found.reshape(stop - start, self.width)

    def take(self, rows: np.ndarray, found: np.ndarray) -> None:
        row = self.width * self.dtype.itemsize
        with self._open() as file:
            for number, target in zip(rows.tolist(), found, strict=True):
                file.seek(self.offset + number * row)
                if file.readinto(target.data) != row:
                    raise self._cut()

    def _open(self) -> FileIO:
        try:
            return self.path.open("rb", buffering=0)
        except FileNotFoundError:
            raise StorageError(
                f"{self.path} was removed since it was opened; put it back, or open what is left"
            ) from None

    def _cut(self) -> StorageError:
        return StorageError(f"{self.path} was cut since it was opened; open the vectors again")


class ShardedVectors:
    """[N, F] vectors in files, in the files' order; indexes take them as they take an array.

    A slice is read when it is asked for. Rows are numbered through all files.

    Attributes:
        shape: (N, F).
        dtype: float16, float32 or float64, one of all files.
        fingerprint: Where the vectors come from, if the files say so.
        ends: [S] number of the row after the last of each file.
    """

    flags = SimpleNamespace(c_contiguous=True)
    ndim = 2

    def __init__(self, files: Sequence[str | Path], *, fingerprint: str | None = None) -> None:
        """Read the headers of .npy files.

        Raises:
            InputError: If there is no file.
            StorageError: If one is missing, no .npy file, cut short or of other numbers.
            ShapeError: If widths or number types differ.
            FingerprintMismatchError: If they say that they are of different features.
        """
        if not files:
            raise InputError("there are no files of vectors; name at least one .npy file")
        self._files = [_opened(Path(file)) for file in files]
        first = self._files[0]
        for file in self._files:
            if (file.width, file.dtype) != (first.width, first.dtype):
                raise ShapeError(
                    f"{file.path} holds {file.dtype} vectors of {file.width} numbers, "
                    f"{first.path} {first.dtype} of {first.width}; all must be alike"
                )
            known = file.fingerprint if fingerprint is None else fingerprint
            if file.fingerprint not in (None, known) or known != (
                first.fingerprint if fingerprint is None else fingerprint
            ):
                raise FingerprintMismatchError(
                    f"{file.path} holds features {file.fingerprint}, expected "
                    f"{fingerprint or first.fingerprint}; extract all with one extractor"
                )
        self.fingerprint = fingerprint or first.fingerprint
        self.dtype = first.dtype
        self.ends = np.cumsum([file.rows for file in self._files])
        self.shape = (int(self.ends[-1]), first.width)

    @classmethod
    def of_folder(cls, folder: str | Path, *, fingerprint: str | None = None) -> ShardedVectors:
        """Open the .npy files of a folder, by name; of a job in shards only a complete one.

        Raises:
            StorageError: If there are none, or the job is not complete.
        """
        place = Path(folder)
        found = sorted(place.glob("*.npy"))
        if not found:
            parquet = " (Parquet shards are not searched: extract with --format npy)"
            raise StorageError(
                f"{folder} holds no .npy files{parquet if any(place.glob('*.parquet')) else ''}"
            )
        if (place / "plan.json").is_file():
            _check_complete(place, found)
        return cls(found, fingerprint=fingerprint)

    @property
    def paths(self) -> tuple[Path, ...]:
        """The files, in order."""
        return tuple(file.path for file in self._files)

    def __len__(self) -> int:
        """Give N."""
        return self.shape[0]

    def __getitem__(self, rows: Any) -> np.ndarray:
        """Read a slice of rows, or rows by number."""
        if not isinstance(rows, slice):
            return self.take(np.asarray(rows))
        start, stop, step = rows.indices(len(self))
        parts = []
        place = bisect.bisect_right(self.ends, start)
        while start < stop:
            first = int(self.ends[place]) - self._files[place].rows
            until = min(stop, int(self.ends[place]))
            parts.append(self._files[place].read(start - first, until - first))
            start, place = until, place + 1
        if not parts:
            return np.empty((0, self.shape[1]), self.dtype)
        return (parts[0] if len(parts) == 1 else np.concatenate(parts))[::step]

    def take(
        self, rows: np.ndarray, axis: int = 0, out: np.ndarray | None = None, mode: str = "raise"
    ) -> np.ndarray:
        """Read rows by number, as numpy's method does, each distinct one once."""
        del axis, mode
        distinct, places = np.unique(rows, return_inverse=True)
        found = np.empty((len(distinct), self.shape[1]), self.dtype)
        stops = np.searchsorted(distinct, self.ends)
        for file, end, stop in zip(self._files, self.ends, stops, strict=True):
            start = np.searchsorted(distinct, end - file.rows)
            if start < stop:
                file.take(distinct[start:stop] - (end - file.rows), found[start:stop])
        if out is None:
            return found if np.array_equal(distinct, rows) else found[places]
        out[:] = found[places]
        return out


def _opened(path: Path) -> _File:
    try:
        with path.open("rb") as file:
            version = np.lib.format.read_magic(file)
            reader = {(1, 0): np.lib.format.read_array_header_1_0}.get(
                version, np.lib.format.read_array_header_2_0
            )
            shape, is_fortran, dtype = reader(file)
            offset, size = file.tell(), path.stat().st_size
    except FileNotFoundError:
        raise StorageError(f"there is no file {path}") from None
    except (OSError, ValueError, EOFError) as error:
        raise StorageError(f"{path} is no .npy file: {error}") from None
    if len(shape) != 2 or is_fortran or str(dtype) not in _TYPES:
        raise StorageError(
            f"{path} holds {dtype} of shape {shape}; it must be [N, F] of {', '.join(_TYPES)}, row "
            "by row"
        )
    numbers = shape[0] * shape[1] * dtype.itemsize
    if size < offset + numbers:
        raise StorageError(
            f"{path} is cut short: {size - offset:,} bytes of {numbers:,}; make it again"
        )
    fingerprint = _fingerprint_of(path, offset + numbers, size)
    return _File(path, offset, shape[0], shape[1], dtype, fingerprint)


def _fingerprint_of(path: Path, start: int, size: int) -> str | None:
    # The note that a shard has behind its numbers, if this is one.
    if size < start + 8:
        return None
    with path.open("rb") as file:
        file.seek(start)
        note = file.read()
    try:
        length = int.from_bytes(note[-8:], "little")
        found: str | None = json.loads(note[-8 - length : -8]).get("fingerprint")
    except (ValueError, AttributeError):
        raise StorageError(f"{path} is damaged behind its numbers; make it again") from None
    return found


def _check_complete(folder: Path, found: list[Path]) -> None:
    try:
        plan = json.loads((folder / "plan.json").read_text(encoding="utf-8"))
        wanted = -(-plan["n_rows"] // plan["shard_rows"])
    except (OSError, ValueError, KeyError, TypeError, ZeroDivisionError) as error:
        raise StorageError(f"{folder}/plan.json cannot be read: {error}") from None
    names = {path.name for path in found}
    digits = max(5, len(str(wanted)))
    expected = (f"part-{k:0{digits}d}-of-{wanted:0{digits}d}.npy" for k in range(wanted))
    missing = [name for name in expected if name not in names]
    if missing:
        raise StorageError(
            f"{folder} lacks {len(missing)} of {wanted} shards, such as {missing[0]}; give the "
            "command that makes it again"
        )
