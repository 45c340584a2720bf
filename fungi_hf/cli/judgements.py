"""--judgements and --level of `fungi-hf evaluate`: what each test row should find."""

from __future__ import annotations

import dataclasses
import json
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from fungi_hf.errors import ConfigError, InputError, ShapeError
from fungi_hf.tables import parquet_columns, read_parquet_column, read_rows

if TYPE_CHECKING:
    import argparse
    from collections.abc import Iterable

    from fungi_hf.cli.rows import LabelledSet
    from fungi_hf.evaluation import Landmarks, Relevance

LEVELS: Final = ("easy", "medium", "hard")
_TRUTHS: Final = (".json", ".pkl", ".pickle")  # the reader refuses the latter with a remedy
_ROW: Final = re.compile(r"-?[0-9]+")


def add_judgements(parser: argparse.ArgumentParser) -> None:
    """Add the arguments that name what test rows should find."""
    words = ".jsonl of what each test row should find, or .json of landmarks"
    parser.add_argument("--judgements", help=words)
    words = "of landmarks; may be repeated (default: all three)"
    parser.add_argument("--level", action="append", choices=LEVELS, help=words)


def has_landmarks(options: argparse.Namespace) -> bool:
    """Whether the arguments name a ground truth of landmarks."""
    return Path(options.judgements or "").suffix.lower() in _TRUTHS


def check_judgements(options: argparse.Namespace, tasks: Iterable[str]) -> None:
    """Refuse judgements that the tasks do not use.

    Raises:
        ConfigError: If there are such.
    """
    asked = [*tasks]
    named = ", ".join(asked)
    if options.judgements is not None and "retrieval" not in asked:
        raise ConfigError(
            f"--judgements is of retrieval, the tasks are {named}; add --task retrieval, or leave "
            "it out"
        )
    if not has_landmarks(options):
        if options.level is not None:
            raise ConfigError(
                f"--level {options.level[0]} is of landmarks; name their .json file with "
                "--judgements, or leave it out"
            )
        return
    if asked != ["retrieval"]:
        raise ConfigError(
            f"{options.judgements} judges retrieval alone, the tasks are {named}; run the others "
            "without --judgements"
        )
    for side in ("train", "test"):
        for name in (f"{side}_rows", f"{side}_labels"):
            if getattr(options, name) is not None:
                raise ConfigError(
                    f"--{name.replace('_', '-')} cannot be used with {options.judgements}, which "
                    "names the rows itself; leave it out"
                )


def read_relevance(options: argparse.Namespace) -> Relevance | Landmarks | None:
    """Read what the arguments name; None where labels judge.

    Raises:
        InputError: If a line names no rows: a fraction or a text is none.
    """
    from fungi_hf.evaluation import Relevance, read_landmarks

    if options.judgements is None:
        return None
    if has_landmarks(options):
        return read_landmarks(options.judgements)
    gains, junks = [], []
    for number, line in enumerate(read_rows(options.judgements, also=(".json",)), start=1):
        relevant, junk = line.get("relevant"), line.get("junk", [])
        rows = relevant if isinstance(relevant, list) else []
        given = relevant if isinstance(relevant, dict) else {str(row): 1.0 for row in rows}
        numbers = [type(gain) in (int, float) and abs(gain) < 1e300 for gain in given.values()]
        if not (
            isinstance(relevant, (list, dict))
            and isinstance(junk, list)
            and all(type(row) is int for row in [*rows, *junk])
            and all(map(_ROW.fullmatch, given))
            and all(numbers)
        ):
            shown = json.dumps(line, default=str)[:80]
            raise InputError(
                f"{options.judgements}: line {number} is {shown}; it must be "
                '{"relevant": [rows] or {"row": gain}, "junk": [rows]}, rows of the training set'
            )
        gains.append({int(row): float(gain) for row, gain in given.items()})
        junks.append(junk)
    return Relevance(gains=gains, junk=junks)


def in_order(
    options: argparse.Namespace, truth: Landmarks, train: LabelledSet, test: LabelledSet
) -> tuple[LabelledSet, LabelledSet]:
    """Give the database and the queries in the order of the ground truth.

    Rows are found by the paths of their inputs. Rows without any, as of .npy, must stand in that
    order already.

    Raises:
        InputError: If an image has no row.
        ShapeError: If rows without paths are not as many as the images.
    """
    return (
        _ordered(options, train, "train", truth.database, truth.database_rows),
        _ordered(options, test, "test", truth.queries, truth.query_rows),
    )


def _ordered(
    options: argparse.Namespace, one: LabelledSet, side: str, wanted: Any, find: Any
) -> LabelledSet:
    place = getattr(options, side)
    names = one.inputs
    if options.model is None and Path(place).suffix == ".parquet":
        names = _inputs_of(Path(place))
    if not names or not all(isinstance(name, str) for name in names):
        n_rows = len(one.inputs) or len(one.features)
        if n_rows != len(wanted):
            raise ShapeError(
                f"{place} has {n_rows} rows without names, {options.judgements} has "
                f"{len(wanted)}; give the rows in its order, or the features as .parquet"
            )
        return one
    try:
        rows = find(names)
    except InputError as error:
        raise InputError(f"{place}, judged by {options.judgements}: {error}") from None
    if one.inputs:
        return dataclasses.replace(one, inputs=[one.inputs[row] for row in rows])
    return dataclasses.replace(one, features=one.features[np.asarray(rows)])


def _inputs_of(path: Path) -> list[Any]:
    return read_parquet_column(path, "input") if "input" in parquet_columns(path) else []
