"""Inputs and labels of commands: from tables, text files, sound files or stdin."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any, Final

from fungi_hf.errors import InputError, InputTypeError
from fungi_hf.tables import column_of, read_lines, read_rows

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
    path = Path(place)
    if place == "-":
        inputs: list[Any] = [line.rstrip("\n") for line in sys.stdin]
    elif not path.exists():
        raise InputError(f"there is no file or folder {place}")
    elif path.is_dir():
        inputs = sorted(str(one) for one in path.rglob("*") if one.suffix.lower() in SOUND_SUFFIXES)
    elif is_sound(place):
        inputs = [place]
    elif is_plain(place):
        if column is not None:
            raise InputError(f"{place} is plain text, one input a line: it has no columns")
        inputs = read_lines(path)
    else:
        column = column or TEXT_COLUMN
        inputs = column_of(read_rows(place, also=(".txt", *SOUND_SUFFIXES)), column, place)
        for row, value in enumerate(inputs):
            if not isinstance(value, str):
                raise InputTypeError(
                    f"{place}: row {row} of column {column!r} must be a text; got "
                    f"{type(value).__name__}: {value!r}"
                )
    if not inputs:
        raise InputError(f"{place} holds no inputs")
    return inputs


def read_labels(place: str, column: str, what: str = "label") -> list[Any]:
    """Read labels from a table, or from a .txt file with one a line.

    Args:
        place: The file.
        column: Of a table.
        what: What one value is called, for messages.

    Raises:
        InputError: If a label is missing, or the column is.
    """
    if is_plain(place):
        labels: list[Any] = read_lines(Path(place))
    else:
        labels = column_of(read_rows(place, also=[".txt"]), column, place)
    empty = [row for row, label in enumerate(labels) if label is None or label == ""]
    if empty:
        shown = ", ".join(map(str, empty[:10]))
        raise InputError(f"{place}: {len(empty)} rows have no {what} in {column!r}: rows {shown}")
    return labels


def is_plain(place: str) -> bool:
    """Whether a place holds inputs alone, one a line, and no columns."""
    return place == "-" or Path(place).suffix.lower() == ".txt"


def is_sound(place: str) -> bool:
    """Whether a place holds sound files: a folder, or one of them."""
    return Path(place).is_dir() or Path(place).suffix.lower() in SOUND_SUFFIXES
