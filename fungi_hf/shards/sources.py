"""Inputs that are read in slices: lines and records of files, columns, paths, lists in memory.

Nothing grows with the number of rows but an index of one place in a thousand (and the paths of a
folder). A source says what it is by a digest, so that another input is noticed.
"""

from __future__ import annotations

import bisect
import codecs
import csv
import hashlib
import json
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, Final

import numpy as np

from fungi_hf.errors import InputError, StorageError, choices
from fungi_hf.shards.base import Source
from fungi_hf.shards.columns import ParquetSource, column_of, matching
from fungi_hf.tables import read_lines, read_rows

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

_STEP: Final = 1024  # rows between two places that are remembered
_WIDE: Final = (b"\xff\xfe", b"\xfe\xff", b"\x00\x00\xfe\xff")  # marks of UTF-16 and UTF-32
_UTF8: Final = b"\xef\xbb\xbf"
_PIECES: Final = re.compile(r"[^\r\n]*(?:\r\n|\r|\n)|[^\r\n]+")


class ListSource(Source):
    """Inputs in memory."""

    def __init__(
        self,
        inputs: Sequence[Any],
        name: str = "the inputs",
        content: Callable[[Any], bytes | str] = repr,
    ) -> None:
        """Take a sequence; `content` gives the bytes of what is neither text, bytes nor array."""
        self.n_rows, self.name, self._inputs = len(inputs), name, inputs
        digest = hashlib.sha256(str(len(inputs)).encode())
        for i in range(len(inputs)):
            data = _bytes_of(inputs[i], content)
            digest.update(len(data).to_bytes(8, "little"))
            digest.update(data)
        self.digest = digest.hexdigest()[:32]

    def read(self, start: int, stop: int) -> list[Any]:
        """Give rows start to stop - 1."""
        return [self._inputs[i] for i in range(start, stop)]


class PathSource(Source):
    """Files, each an input; a file that is replaced is another input."""

    def __init__(self, paths: Sequence[Path], name: str) -> None:
        self.n_rows, self.name = len(paths), name
        self._paths = [str(path) for path in paths]
        digest = hashlib.sha256()
        for path in paths:
            found = path.stat()
            digest.update(f"{path}\0{found.st_size}\0{found.st_mtime_ns}\0".encode())
        self.digest = digest.hexdigest()[:32]

    def read(self, start: int, stop: int) -> list[Any]:
        """Give rows start to stop - 1."""
        return list(self._paths[start:stop])


class FileSource(Source):
    """Lines of a .txt file, a column of a .jsonl or .csv file; UTF-8, read once to be indexed."""

    def __init__(self, path: Path, column: str | None) -> None:
        """Count the rows, remember one place in a thousand, hash the file.

        Raises:
            InputError: If there are no rows, or no such column.
            StorageError: If the file cannot be read, or is damaged.
        """
        self.name, self._path, self._kind = str(path), path, path.suffix.lower()
        self._column, self._header = column, list[str]()
        self._index: list[tuple[int, int]] = []
        digest = hashlib.sha256()
        try:
            with path.open("rb") as file:
                decoder = codecs.getincrementaldecoder("utf-8")()
                for block in iter(lambda: file.read(1 << 20), b""):
                    digest.update(block)
                    decoder.decode(block)
                decoder.decode(b"", final=True)
                n_rows = 0
                for record, place in self._records(file, 0, is_first=True):
                    if n_rows == 0 and self._kind != ".txt":
                        self._column = column_of(record, column, self.name)
                    if place is not None and n_rows >= _STEP * len(self._index):
                        self._index.append((n_rows, place))
                    n_rows += 1
        except UnicodeDecodeError as error:
            raise StorageError(
                f"{path} is not UTF-8 ({error.reason}); save it as UTF-8, or with a byte-order mark"
            ) from None
        except StorageError:
            raise
        except OSError as error:
            raise StorageError(f"{path} cannot be read: {error}") from None
        if not n_rows:
            what = "inputs" if self._kind == ".txt" else "rows"
            raise InputError(f"{path} holds no {what}")
        self.n_rows, self.digest = n_rows, digest.hexdigest()[:32]

    def read(self, start: int, stop: int) -> list[Any]:
        """Give rows start to stop - 1.

        Raises:
            InputError: If one lacks the column; it is numbered among all.
        """
        found: list[Any] = []
        row, place = self._index[bisect.bisect_right(self._index, (start, 1 << 62)) - 1]
        with self._path.open("rb") as file:
            for record, _ in self._records(file, place, is_first=place == 0, row=row):
                if row >= stop:
                    break
                if row >= start:
                    found.append(self._value(record, row))
                row += 1
        return found

    def _value(self, record: Any, row: int) -> Any:
        if self._kind == ".txt":
            return record
        if self._column not in record:
            raise InputError(f"{self.name}: row {row} has no column {self._column!r}")
        return record[self._column]

    def _records(
        self, file: BinaryIO, place: int, *, is_first: bool, row: int = 0
    ) -> Iterator[tuple[Any, int | None]]:
        # Records from a place on, each with the place where it begins if that is known.
        file.seek(place)
        if is_first and file.read(3) != _UTF8:
            file.seek(0)
        if self._kind == ".csv":
            yield from self._of_csv(file, is_first=is_first, row=row)
            return
        while True:
            before = file.tell()
            raw = file.readline()
            if not raw:
                return
            text = raw.rstrip(b"\n").decode()
            lines = text.removesuffix("\r").split("\r")
            for number, line in enumerate(lines):
                here = before if number == 0 else None
                if self._kind == ".txt":
                    yield line, here
                    row += 1
                elif line.strip():
                    yield self._object(line, row), here
                    row += 1

    def _object(self, line: str, row: int) -> dict[str, Any]:
        try:
            found = json.loads(line)
        except ValueError as error:
            raise StorageError(f"{self.name}: row {row} is not JSON: {error}") from None
        if not isinstance(found, dict):
            raise StorageError(f"{self.name}: row {row} is not an object: {line[:40]!r}")
        return found

    def _of_csv(
        self, file: BinaryIO, *, is_first: bool, row: int
    ) -> Iterator[tuple[Any, int | None]]:
        csv.field_size_limit(1 << 30)
        waiting: list[str] = []
        places = [file.tell()]

        def lines() -> Iterator[str]:
            while True:
                if not waiting:
                    raw = file.readline()
                    if not raw:
                        return
                    waiting.extend(_PIECES.findall(raw.decode()))
                piece = waiting.pop(0)
                places[0] = file.tell() if not waiting else -1
                yield piece

        try:
            before = places[0]
            for found in csv.reader(lines()):
                here, before = before, places[0]
                if not found:
                    continue
                if is_first:
                    self._header, is_first = found, False
                    continue
                if len(found) > len(self._header):
                    raise StorageError(
                        f"{self.name}: row {row} has more fields than the header; quote commas"
                    )
                rest = [None] * (len(self._header) - len(found))
                values = dict(zip(self._header, [*found, *rest], strict=True))
                yield values, None if here < 0 else here
                row += 1
        except csv.Error as error:
            raise StorageError(f"{self.name} is not a CSV file: {error}") from None


def source_of(place: str | Path, column: str | None = None) -> Source:
    """Open a .txt, .jsonl, .csv or .parquet file as a source, "a,b" or a URL of Parquet files too.

    Raises:
        InputError: If there is nothing, or it is of an unknown kind.
        StorageError: If it cannot be read.
    """
    text = str(place)
    if "://" in text:
        return ParquetSource(matching(text), column)
    path = Path(place)
    suffix = path.suffix.lower()
    if not path.exists():
        raise InputError(f"there is no file or folder {place}")
    if suffix == ".parquet":
        return ParquetSource([text], column)
    known = (".txt", ".jsonl", ".csv")
    if suffix not in known:
        raise InputError(f"{place}: unknown kind of file {choices(suffix, (*known, '.parquet'))}")
    if suffix == ".txt" and column is not None:
        raise InputError(f"{place} is plain text, one input a line: it has no columns")
    with path.open("rb") as file:
        is_wide = file.read(4).startswith(_WIDE)
    return _whole(path, column) if is_wide else FileSource(path, column)


def _whole(path: Path, column: str | None) -> ListSource:
    # UTF-16 and UTF-32: lines cannot be found by bytes.
    if path.suffix.lower() == ".txt":
        return ListSource(read_lines(path), str(path))
    rows = read_rows(path)
    column = column_of(rows[0], column, str(path))
    return ListSource([row.get(column) for row in rows], str(path))


def _bytes_of(raw: Any, content: Callable[[Any], bytes | str]) -> bytes:
    if isinstance(raw, str | bytes):
        return b"t" + raw.encode("utf-8", "surrogatepass") if isinstance(raw, str) else b"b" + raw
    if isinstance(raw, Path):
        found = raw.stat() if raw.exists() else None
        return f"p{raw}\0{found and (found.st_size, found.st_mtime_ns)}".encode()
    if isinstance(raw, np.ndarray):
        return b"a" + f"{raw.shape}{raw.dtype}".encode() + np.ascontiguousarray(raw).tobytes()
    if isinstance(raw, tuple | list):
        return b"s" + b"".join(_framed(_bytes_of(one, content)) for one in raw)
    if isinstance(raw, dict):
        return b"d" + _bytes_of(list(raw.items()), content)
    given = content(raw)
    return b"o" + (given.encode("utf-8", "surrogatepass") if isinstance(given, str) else given)


def _framed(data: bytes) -> bytes:
    return len(data).to_bytes(8, "little") + data
