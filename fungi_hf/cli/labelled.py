"""Labelled sets of the evaluation commands: features and labels from files, or from a model."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from fungi_hf.cli.arguments import add_columns, check_counts, extract_pair, load
from fungi_hf.cli.rows import TEXT_COLUMN, read_inputs, read_labels
from fungi_hf.errors import ConfigError, InputError, StorageError, choices
from fungi_hf.features import FungiFeatures
from fungi_hf.tables import parquet_columns, read_array

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
    add_columns(parser)
    for side in ("train", "test"):
        parser.add_argument(f"--{side}-rows", type=int, help="take this many evenly spread rows")


def read_set(options: argparse.Namespace, side: str) -> LabelledSet:
    """Read one side as the arguments say; features only from feature files.

    Raises:
        ConfigError: If labels are named twice, or rows are asked for that cannot be taken.
    """
    check_counts(options, f"{side}_rows")
    place, n_rows = getattr(options, side), getattr(options, f"{side}_rows")
    label_place = getattr(options, f"{side}_labels", None)  # a sweep has no such option
    if options.model is not None:
        if label_place is not None:
            raise ConfigError(f"--{side}-labels is for feature files; {place} has its own labels")
        inputs = read_inputs(place, options.column or TEXT_COLUMN)
        labels = read_labels(place, options.label)
        kept = _spread(len(inputs), n_rows)
        return LabelledSet(inputs=[inputs[i] for i in kept], labels=[labels[i] for i in kept])
    features = read_features(place)
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
    first, second = extract_pair(extractor, train.inputs, test.inputs)
    return replace(train, features=first), replace(test, features=second), extractor


def read_features(place: str) -> Any:
    """Read a file that `fungi-hf extract` wrote, or any .npy array (mapped, not loaded).

    Returns:
        `FungiFeatures`, or an array without block names.

    Raises:
        InputError: If the file is of another kind, or holds no features.
    """
    path, remedy = Path(place), "name a model first to evaluate a data set"
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
