"""Labelled sets of the evaluation commands: features and labels from files, or from a model."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from fungi_hf.cli.extraction import load
from fungi_hf.cli.rows import TEXT_COLUMN, read_column, read_inputs, read_table
from fungi_hf.errors import ConfigError, InputError, OptionalDependencyError, choices
from fungi_hf.features import FungiFeatures

if TYPE_CHECKING:
    import argparse

    from fungi_hf.extractor import FungiExtractor

FEATURE_SUFFIXES: Final = (".safetensors", ".parquet", ".npy")


@dataclass(frozen=True, slots=True, kw_only=True)
class LabelledSet:
    """One side of an evaluation.

    Attributes:
        inputs: Raw inputs; empty where features were read from a file.
        labels: One a row; None where none were named.
        features: [N, F]; None until they are extracted.
    """

    inputs: list[Any]
    labels: list[Any] | None
    features: Any = None


def add_sets(parser: argparse.ArgumentParser) -> None:
    """Add the arguments that name training and test rows."""
    parser.add_argument(
        "--train", required=True, help="a table with labels; without MODEL a file of features"
    )
    parser.add_argument("--test", required=True, help="the same")
    parser.add_argument("--column", help="of the inputs (default: text)")
    parser.add_argument("--label", default="label", help="column of the labels (default: label)")
    for side in ("train", "test"):
        parser.add_argument(f"--{side}-rows", type=int, help="take this many evenly spread rows")


def add_label_files(parser: argparse.ArgumentParser) -> None:
    """Add the arguments that name labels of feature files."""
    for side in ("train", "test"):
        parser.add_argument(
            f"--{side}-labels", help="for feature files: a table, or .txt with one label a line"
        )


def read_set(options: argparse.Namespace, side: str) -> LabelledSet:
    """Read one side as the arguments say; features only from feature files.

    Raises:
        ConfigError: If labels are named twice, or rows are asked for that cannot be taken.
    """
    place, label_place = getattr(options, side), getattr(options, f"{side}_labels", None)
    n_rows = getattr(options, f"{side}_rows", None)
    if n_rows is not None and n_rows < 1:
        raise ConfigError(f"--{side}-rows must be >= 1; got {n_rows}")
    if options.model is not None:
        if label_place is not None:
            raise ConfigError(f"--{side}-labels is for feature files; {place} has its own labels")
        inputs = read_inputs(place, options.column or TEXT_COLUMN)
        labels = read_labels(place, options.label)
        kept = _spread(len(inputs), n_rows)
        return LabelledSet(inputs=[inputs[i] for i in kept], labels=[labels[i] for i in kept])
    features = read_features(place)
    own = Path(place).suffix == ".parquet" and options.label in _table(Path(place)).column_names
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
    """Extract the features of both sides; an extractor that must learn learns from the first."""
    extractor = load(options)
    fit = extractor.fit_transform if not extractor.is_fitted else extractor
    found = [fit(train.inputs, progress=True), extractor(test.inputs, progress=True)]
    sides = [
        LabelledSet(inputs=one.inputs, labels=one.labels, features=features)
        for one, features in zip((train, test), found, strict=True)
    ]
    return sides[0], sides[1], extractor


def read_labels(place: str, column: str, what: str = "label") -> list[Any]:
    """Read labels from a table, or from a .txt file with one a line.

    Args:
        place: The file.
        column: Of a table.
        what: What one value is called, for messages.

    Raises:
        InputError: If the file or its column is missing, or a label is.
    """
    if Path(place).suffix == ".txt":
        if not Path(place).is_file():
            raise InputError(f"there is no file {place}")
        labels: list[Any] = Path(place).read_text(encoding="utf-8").splitlines()
    else:
        labels = read_column(read_table(place), column, place)
    empty = [row for row, label in enumerate(labels) if label is None or label == ""]
    if empty:
        shown = ", ".join(map(str, empty[:10]))
        raise InputError(f"{place}: {len(empty)} rows have no {what} in {column!r}: rows {shown}")
    return labels


def read_features(place: str) -> Any:
    """Read a file that `fungi-hf extract` wrote, or any .npy array (mapped, not loaded).

    Returns:
        `FungiFeatures`, or an array without block names.

    Raises:
        InputError: If the file is missing or of another kind.
    """
    path = Path(place)
    if path.suffix not in FEATURE_SUFFIXES:
        raise InputError(
            f"{place}: features have suffix {choices(path.suffix, FEATURE_SUFFIXES)}; "
            "name a model first to evaluate a data set"
        )
    if not path.is_file():
        raise InputError(f"there is no file {place}")
    if path.suffix == ".safetensors":
        return FungiFeatures.load(path)
    if path.suffix == ".parquet":
        return _parquet_features(path)
    try:
        return np.load(path, mmap_mode="r", allow_pickle=False)
    except ValueError as error:
        raise InputError(f"{place} is not an array of numbers: {error}") from None


def _parquet_features(path: Path) -> FungiFeatures:
    """Read vectors, layout and fingerprint.

    Raises:
        InputError: If the file holds none.
    """
    table = _table(path)
    notes = table.schema.metadata or {}
    if b"fungi_layout" not in notes or "features" not in table.column_names:
        raise InputError(
            f"{path} is not a file of features (`fungi-hf extract --out` writes one); name a "
            "model first to evaluate a data set"
        )
    layout = {n: slice(*ends) for n, ends in json.loads(notes[b"fungi_layout"]).items()}
    factors = json.loads(notes.get(b"fungi_factors", b"{}"))
    column = table["features"].combine_chunks()
    return FungiFeatures(
        array=column.flatten().to_numpy().reshape(len(table), -1),
        layout=layout,
        fingerprint=notes[b"fungi_fingerprint"].decode(),
        factors={name: (m, n1) for name, (m, n1) in factors.items()},
    )


def _table(path: Path) -> Any:
    """Read a Parquet file.

    Raises:
        OptionalDependencyError: If pyarrow is missing.
        InputError: If it is not one.
    """
    try:
        import pyarrow.parquet
    except ImportError as error:
        raise OptionalDependencyError("pyarrow", "datasets") from error
    try:
        return pyarrow.parquet.read_table(path)
    except (OSError, ValueError) as error:
        raise InputError(f"{path} is not a Parquet file: {error}") from None


def _spread(n: int, wanted: int | None) -> list[int]:
    if wanted is None or wanted >= n:
        return list(range(n))
    return [int(i) for i in np.linspace(0, n - 1, wanted).round()]
