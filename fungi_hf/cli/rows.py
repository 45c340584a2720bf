"""Inputs, labels and features of commands: from files, stdin or a model."""

from __future__ import annotations

import sys
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from fungi_hf.cli.arguments import add_columns, add_prompt, check_counts, extract_pair, load
from fungi_hf.errors import ConfigError, InputError, InputTypeError, StorageError, choices
from fungi_hf.features import FungiFeatures
from fungi_hf.shards.columns import COLUMNS
from fungi_hf.tables import column_of, parquet_columns, read_array, read_lines, read_rows

if TYPE_CHECKING:
    import argparse

    from fungi_hf.extractor import FungiExtractor

FEATURE_SUFFIXES: Final = (".safetensors", ".parquet", ".npy")
SOUND_SUFFIXES: Final = (".wav", ".flac", ".ogg", ".mp3")
IMAGE_SUFFIXES: Final = (
    *(".jpg", ".jpeg", ".png", ".webp", ".gif", ".bmp", ".tif", ".tiff", ".ppm", ".pgm"),
    *(".jp2", ".avif", ".mpo", ".jfif", ".tga"),
)
FILE_SUFFIXES: Final = (*SOUND_SUFFIXES, *IMAGE_SUFFIXES)


def read_inputs(place: str, column: str | None) -> list[Any]:
    """Read texts, pictures or sounds of a table, or the paths of such files by name.

    The place is a file, "-" for lines on stdin, a picture or sound file, or a folder of them;
    `column` is that of a table, None takes the first of `COLUMNS` that is there.

    Raises:
        InputError: If there is nothing to read, or no such column.
        InputTypeError: If a value is no text, and no picture or sound as `datasets` stores them.
    """
    path = Path(place)
    if place == "-":
        inputs: list[Any] = [line.rstrip("\n") for line in sys.stdin]
    elif not path.exists():
        raise InputError(f"there is no file or folder {place}")
    elif path.is_dir():
        inputs = [str(one) for one in files_in(path)]
    elif is_file(place):
        inputs = [place]
    elif is_plain(place):
        if column is not None:
            raise InputError(f"{place} is plain text, one input a line: it has no columns")
        inputs = read_lines(path)
    else:
        rows = read_rows(place, also=(".txt", *FILE_SUFFIXES))
        column = column or next((c for c in COLUMNS if rows and c in rows[0]), COLUMNS[0])
        inputs = column_of(rows, column, place)
        for row, value in enumerate(inputs):
            if not isinstance(value, (str, bytes)) and not _is_stored(value):
                raise InputTypeError(
                    f"{place}: row {row} of column {column!r} must be a text, or hold a picture "
                    f"or sound; got {type(value).__name__}: {value!r:.80}"
                )
    if not inputs:
        raise InputError(f"{place} holds no inputs")
    return inputs


def _is_stored(value: object) -> bool:
    """Whether this is a picture or sound as `datasets` keeps it in a table."""
    return isinstance(value, dict) and bool(value.get("bytes") or value.get("path"))


def files_in(folder: Path) -> list[Path]:
    """Give the sound files of a folder, or its pictures where these are more, by name.

    What systems and tools leave there is counted and left out: names with a dot in front (a Mac's
    "._clip.wav" holds no sound), "__MACOSX", and the fewer of sounds and pictures.
    """
    found = sorted(one for one in folder.rglob("*") if one.suffix.lower() in FILE_SUFFIXES)
    parts = {one: one.relative_to(folder).parts for one in found}
    kept = [p for p in found if not any(name[0] == "." or name == "__MACOSX" for name in parts[p])]
    _say_left_out(folder, len(found) - len(kept), "hidden files")
    kept = [one for one in kept if one.is_file()]
    sounds = [one for one in kept if one.suffix.lower() in SOUND_SUFFIXES]
    images = [one for one in kept if one.suffix.lower() in IMAGE_SUFFIXES]
    if len(sounds) >= len(images):
        _say_left_out(folder, len(images), "pictures beside sounds")
        return sounds
    _say_left_out(folder, len(sounds), "sounds beside pictures")
    return images


def _say_left_out(folder: Path, n: int, what: str) -> None:
    if n:
        sys.stderr.write(f"{n} {what} in {folder} were left out\n")


def read_labels(place: str, column: str, what: str = "label") -> list[Any]:
    """Read labels from a table, a .txt file with one a line, or the class folders of a folder.

    `what` is what one value is called in messages.

    Raises:
        InputError: If a label is missing, or the column is.
    """
    if Path(place).is_dir():
        return _class_folders(Path(place), what)
    if is_plain(place):
        labels: list[Any] = read_lines(Path(place))
    else:
        labels = column_of(read_rows(place, also=[".txt"]), column, place)
    if empty := [row for row, label in enumerate(labels) if label is None or label == ""]:
        shown = ", ".join(map(str, empty[:10]))
        raise InputError(f"{place}: {len(empty)} rows have no {what} in {column!r}: rows {shown}")
    return labels


def labels_there(place: str, column: str) -> list[Any] | None:
    """Read labels as `read_labels` does, where there are any: a column, or class folders."""
    path = Path(place)
    if path.is_dir():
        nested = any(len(one.relative_to(path).parts) > 1 for one in files_in(path))
        return _class_folders(path, "label") if nested else None
    if is_plain(place) or is_file(place):
        return None
    rows = read_rows(place)
    return column_of(rows, column, place) if column in rows[0] else None


def _class_folders(folder: Path, what: str) -> list[Any]:
    parts = [one.relative_to(folder).parts for one in files_in(folder)]
    if outside := [names[0] for names in parts if len(names) == 1]:
        raise InputError(
            f"{folder}: the {what} of a file is the folder that it lies in; {len(outside)} files "
            f"lie in none, such as {outside[0]}"
        )
    return [names[0] for names in parts]


def is_plain(place: str) -> bool:
    """Whether a place holds inputs alone, one a line, and no columns."""
    return place == "-" or Path(place).suffix.lower() == ".txt"


def is_file(place: str) -> bool:
    """Whether a place holds sounds or pictures: a folder, or one of them."""
    return Path(place).is_dir() or Path(place).suffix.lower() in FILE_SUFFIXES


@dataclass(frozen=True, slots=True, kw_only=True)
class LabelledSet:
    """One side of an evaluation.

    Inputs are empty where features were read from a file, labels None where none were named, and
    features [N, F] None until they are extracted.
    """

    inputs: list[Any]
    labels: list[Any] | None
    features: Any = None


def add_sets(parser: argparse.ArgumentParser) -> None:
    """Add the arguments that name training and test rows."""
    words = "a table with labels or class folders; without MODEL a file of features"
    parser.add_argument("--train", required=True, help=words)
    parser.add_argument("--test", required=True, help="the same")
    add_columns(parser)
    add_prompt(parser, "train", "test")
    for side in ("train", "test"):
        parser.add_argument(f"--{side}-rows", type=int, help="take this many evenly spread rows")


def read_set(options: argparse.Namespace, side: str, *, labelled: bool = True) -> LabelledSet:
    """Read one side as the arguments say, its labels if it is to be `labelled`.

    Features are read from feature files alone.

    Raises:
        ConfigError: If labels are named twice, or rows are asked for that cannot be taken.
    """
    check_counts(options, f"{side}_rows")
    place, n_rows = getattr(options, side), getattr(options, f"{side}_rows")
    label_place = getattr(options, f"{side}_labels", None)  # a sweep has no such option
    if options.model is not None:
        if label_place is not None:
            raise ConfigError(f"--{side}-labels is for feature files; {place} has its own labels")
        inputs = read_inputs(place, options.column)
        if not labelled:
            return LabelledSet(inputs=inputs, labels=None)
        labels = read_labels(place, options.label)
        kept = _spread(len(inputs), n_rows)
        return LabelledSet(inputs=[inputs[i] for i in kept], labels=[labels[i] for i in kept])
    features = _read_features(place)
    if not labelled:
        return LabelledSet(inputs=[], labels=None, features=features)
    own = Path(place).suffix == ".parquet" and options.label in parquet_columns(Path(place))
    label_place = label_place or (place if own else None)
    known = None if label_place is None else read_labels(label_place, options.label)
    if n_rows is not None and n_rows < len(features):
        kept = _spread(len(features), n_rows)
        features = features[np.asarray(kept)]
        known = None if known is None else [known[i] for i in kept if i < len(known)]
    return LabelledSet(inputs=[], labels=known, features=features)


def extract_sets(
    options: argparse.Namespace, train: LabelledSet, test: LabelledSet
) -> tuple[LabelledSet, LabelledSet, FungiExtractor]:
    """Extract the features of both sides."""
    extractor = load(options)
    first, second = extract_pair(options, extractor, train.inputs, test.inputs)
    return replace(train, features=first), replace(test, features=second), extractor


def _read_features(place: str) -> Any:
    # A file that `fungi-hf extract` wrote, or any .npy array (mapped, not loaded).
    path, remedy = Path(place), "name a model first to evaluate a data set"
    if (path / "manifest.json").is_file():  # a folder of shards
        return FungiFeatures.load(path)
    if path.suffix not in FEATURE_SUFFIXES:
        raise InputError(
            f"{place}: features have suffix {choices(path.suffix, FEATURE_SUFFIXES)}; {remedy}"
        )
    if path.suffix == ".npy":
        return read_array(path, mapped=True)
    try:
        return FungiFeatures.load(path)
    except StorageError as error:
        raise InputError(f"{error}; {remedy}") from None


def _spread(n: int, wanted: int | None) -> list[int]:
    if wanted is None or wanted >= n:
        return list(range(n))
    return [int(i) for i in np.linspace(0, n - 1, wanted).round()]
