"""Columns of Parquet files, local or of an object store, read in slices by row groups."""

from __future__ import annotations

import bisect
import hashlib
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from fungi_hf.errors import InputError, OptionalDependencyError, StorageError, choices
from fungi_hf.shards.base import Source

if TYPE_CHECKING:
    from collections.abc import Sequence

COLUMNS: Final = ("text", "image", "img", "audio")
"""Columns of inputs in tables, where none is named; the first that is there."""
_HASHED: Final = 1 << 30  # files up to this size are hashed whole


class ParquetSource(Source):
    """One column of Parquet files, read by row groups."""

    def __init__(self, places: Sequence[str], column: str | None) -> None:
        """Read the footers.

        Raises:
            InputError: If there are no rows, or no such column.
            StorageError: If a file cannot be read.
        """
        self.name = places[0] if len(places) == 1 else f"{len(places)} files like {places[0]}"
        self._places = list(places)
        self._open()
        digest, ends, n_rows = hashlib.sha256(), [], 0
        for place, file in zip(places, self._files, strict=True):
            names = dict.fromkeys(file.schema_arrow.names)
            self._column = column = column_of(names, column, place)
            digest.update(_identity(place, file))
            for group in range(file.metadata.num_row_groups):
                n_rows += file.metadata.row_group(group).num_rows
                ends.append(n_rows)
        if not n_rows:
            raise InputError(f"{self.name} holds no inputs")
        digest.update(f"\0{self._column}".encode())
        self.n_rows, self.digest = n_rows, digest.hexdigest()[:32]
        self._ends = ends

    def __getstate__(self) -> dict[str, Any]:
        """Give all but the open files, so that workers open their own."""
        return self.__dict__ | {"_files": None, "_groups": None}

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Open the files again."""
        self.__dict__.update(state)
        self._open()

    def _open(self) -> None:
        self._files = [_opened(place) for place in self._places]
        self._groups = [(f, g) for f in self._files for g in range(f.metadata.num_row_groups)]

    def read(self, start: int, stop: int) -> list[Any]:
        """Give rows start to stop - 1.

        Raises:
            StorageError: If a row group cannot be read.
        """
        import pyarrow as pa

        found: list[Any] = []
        place = bisect.bisect_right(self._ends, start)
        while start < stop:
            file, group = self._groups[place]
            first = self._ends[place] - file.metadata.row_group(group).num_rows
            until = min(stop, self._ends[place])
            seen = first
            try:
                for batch in file.iter_batches(
                    batch_size=4096, row_groups=[group], columns=[self._column]
                ):
                    low, high = max(start, seen), min(until, seen + len(batch))
                    if low < high:
                        found += batch.column(0).slice(low - seen, high - low).to_pylist()
                    seen += len(batch)
                    if seen >= until:
                        break
            except (OSError, pa.ArrowException) as error:
                raise StorageError(f"{self.name}: rows from {first} on: {error}") from None
            start, place = until, place + 1
        return found


def column_of(row: Any, asked: str | None, place: str) -> str:
    """Give the column asked for, or the first of `COLUMNS` that a row has.

    Raises:
        InputError: If it has none.
    """
    found = asked or next((name for name in COLUMNS if name in row), COLUMNS[0])
    if found not in row:
        raise InputError(f"{place} has no column {choices(found, row)}")
    return found


def _opened(place: str) -> Any:
    try:
        import pyarrow as pa
        import pyarrow.parquet as pq
        from pyarrow import fs
    except ImportError as error:
        raise OptionalDependencyError("pyarrow", "datasets") from error
    try:
        if "://" not in place:
            return pq.ParquetFile(place)
        system, path = fs.FileSystem.from_uri(place)
        return pq.ParquetFile(system.open_input_file(path))
    except (OSError, ValueError, pa.ArrowException) as error:
        raise StorageError(f"{place} is not a Parquet file: {error}") from None


def matching(place: str) -> list[str]:
    """Give the URLs of the files that a URL with stars matches.

    Raises:
        InputError: If there is none.
    """
    from pyarrow import fs

    if "*" not in place:
        return [place]
    folder, _, pattern = place.rpartition("/")
    scheme = place.partition("://")[0]
    system, base = fs.FileSystem.from_uri(folder)
    rule = re.compile("".join(".*" if c == "*" else re.escape(c) for c in pattern))
    files = system.get_file_info(fs.FileSelector(base))
    found = sorted(f"{scheme}://{one.path}" for one in files if rule.fullmatch(one.base_name))
    if not found:
        raise InputError(f"no file matches {place}")
    return found


def _identity(place: str, file: Any) -> bytes:
    # What a Parquet file is: its bytes, or of a large one its footer, size and time.
    if "://" not in place and Path(place).stat().st_size <= _HASHED:
        with Path(place).open("rb") as opened:
            return hashlib.file_digest(opened, "sha256").digest()
    facts = [str(file.metadata.serialized_size), str(file.metadata.to_dict())]
    if "://" not in place:
        found = Path(place).stat()
        facts += [str(found.st_size), str(found.st_mtime_ns)]
    return hashlib.sha256("\0".join(facts).encode()).digest()
