"""Files of inputs and labels: JSONL, CSV, Parquet, text, or a folder of sound files."""

from __future__ import annotations

import csv
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from fungi_hf.errors import InputError, InputTypeError, OptionalDependencyError, choices

if TYPE_CHECKING:
    from collections.abc import Callable

SOUND_SUFFIXES: Final = (".wav", ".flac", ".ogg", ".mp3")
TEXT_COLUMN: Final = "text"


def read_inputs(place: str, column: str | None) -> list[Any]:
    """Read one column of inputs.

    Args:
        place: A file, "-" for lines on stdin, a sound file, or a folder of them.
        column: Of a table; None takes "text".

    Returns:
        Texts, or paths of sound files in the order of their names.

    Raises:
        InputError: If there is nothing to read, or no such column.
        InputTypeError: If a value is not a text.
    """
    if place == "-":
        inputs: list[Any] = [line.rstrip("\n") for line in sys.stdin]
    elif Path(place).suffix.lower() in SOUND_SUFFIXES:
        inputs = [str(_existing(place))]
    elif Path(place).is_dir():
        inputs = sorted(
            str(path) for path in Path(place).rglob("*") if path.suffix.lower() in SOUND_SUFFIXES
        )
    elif is_plain(place):
        if column is not None:
            raise InputError(f"{place} is plain text, one input a line: it has no columns")
        inputs = _lines(_existing(place))
    else:
        inputs = read_column(read_table(place), column or TEXT_COLUMN, place)
        for row, value in enumerate(inputs):
            if not isinstance(value, str):
                raise InputTypeError(
                    f"{place}: row {row} of column {column or TEXT_COLUMN!r} must be a text; got "
                    f"{type(value).__name__}: {value!r}"
                )
    if not inputs:
        raise InputError(f"{place} holds no inputs")
    return inputs


def read_table(place: str) -> list[dict[str, Any]]:
    """Read the rows of a JSONL, CSV or Parquet file.

    Raises:
        InputError: If the file is missing, of another kind, damaged or empty.
    """
    readers: dict[str, Callable[[Path], list[dict[str, Any]]]] = {
        ".jsonl": _read_jsonl,
        ".csv": _read_csv,
        ".parquet": _read_parquet,
    }
    path = _existing(place)
    suffix = path.suffix.lower()
    if suffix not in readers:
        raise InputError(f"{place}: unknown kind of file {choices(suffix, [*readers, '.txt'])}")
    rows = readers[suffix](path)
    if not rows:
        raise InputError(f"{place} holds no rows")
    return rows


def read_column(rows: list[dict[str, Any]], column: str, place: str) -> list[Any]:
    """Give one column.

    Raises:
        InputError: If a row does not have it.
    """
    for number, row in enumerate(rows):
        if column not in row:
            raise InputError(f"{place}: row {number} has no column {choices(column, row)}")
    return [row[column] for row in rows]


def is_plain(place: str) -> bool:
    """Whether a place holds inputs alone, one a line, and no columns."""
    return place == "-" or Path(place).suffix.lower() == ".txt"


def is_sound(place: str) -> bool:
    """Whether a place holds sound files: a folder, or one of them."""
    return Path(place).is_dir() or Path(place).suffix.lower() in SOUND_SUFFIXES


def _existing(place: str) -> Path:
    path = Path(place)
    if not path.is_file():
        raise InputError(f"there is no file or folder {place}")
    return path


def _lines(path: Path) -> list[str]:
    """Give the lines; str.splitlines would also split at characters that are part of a text.

    Raises:
        InputError: If the file is not UTF-8.
    """
    try:
        with path.open(encoding="utf-8-sig") as stream:
            return [line.rstrip("\n") for line in stream]
    except UnicodeDecodeError as error:
        raise InputError(f"{path} is not UTF-8 ({error.reason} at byte {error.start})") from None


def _read_jsonl(path: Path) -> list[dict[str, Any]]:
    rows = []
    for number, line in enumerate(_lines(path)):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except ValueError as error:
            raise InputError(f"{path}: line {number + 1} is not JSON: {error}") from None
        if not isinstance(row, dict):
            raise InputError(f"{path}: line {number + 1} must be an object; got {line[:40]!r}")
        rows.append(row)
    return rows


def _read_csv(path: Path) -> list[dict[str, Any]]:
    csv.field_size_limit(1 << 30)  # a text may be longer than the default of 131,072
    try:
        with path.open(encoding="utf-8-sig", newline="") as stream:
            rows: list[dict[Any, Any]] = [dict(row) for row in csv.DictReader(stream)]
    except UnicodeDecodeError as error:
        raise InputError(f"{path} is not UTF-8 ({error.reason} at byte {error.start})") from None
    except csv.Error as error:
        raise InputError(f"{path} is not a CSV file: {error}") from None
    for number, row in enumerate(rows):
        if None in row:
            raise InputError(f"{path}: row {number} has more fields than the header; quote commas")
    return rows


def _read_parquet(path: Path) -> list[dict[str, Any]]:
    try:
        import pyarrow.parquet
    except ImportError as error:
        raise OptionalDependencyError("pyarrow", "datasets") from error
    try:
        rows: list[dict[str, Any]] = pyarrow.parquet.read_table(path).to_pylist()
    except (OSError, ValueError) as error:
        raise InputError(f"{path} is not a Parquet file: {error}") from None
    return rows
