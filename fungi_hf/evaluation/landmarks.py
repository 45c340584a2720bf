"""Landmark retrieval: ground truths of easy, hard and junk images, and their three levels."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from fungi_hf.checks import check_integer
from fungi_hf.errors import FungiError, InputError, InputTypeError, ShapeError, StorageError
from fungi_hf.evaluation.protocols import AS_INPUT, expect
from fungi_hf.evaluation.relevance import LEVELS, Relevance
from fungi_hf.evaluation.retrieval import evaluate_rankings
from fungi_hf.tables import read_text

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from fungi_hf.evaluation.inputs import FeatureInput
    from fungi_hf.evaluation.records import EvaluationResult
    from fungi_hf.evaluation.relevance import Level
    from fungi_hf.evaluation.retrieval import RetrievalProtocol
    from fungi_hf.types import Int64Array

KINDS: Final = ("easy", "hard", "junk")
_OWN: Final = ("images", "queries")
_PUBLISHED: Final = ("imlist", "qimlist", "gnd")
_SHOWN: Final = 5  # names in a message


@dataclass(frozen=True, slots=True, kw_only=True)
class Landmarks:
    """What each query image should find in a database of images.

    Attributes:
        database: Names of the N images, in the order of the rows.
        queries: Names of the Q query images, in the order of the rows.
        easy: One sequence a query: rows of the database that show its landmark well.
        hard: The same, of rows that show it hardly.
        junk: The same, of rows that are neither right nor wrong.

    Raises:
        InputError: If names repeat, there are no queries, a row is out of range, twice in a list
            or in two lists of a query.
        InputTypeError: If a name is no text, or a row no integer.
        ShapeError: If there is not one list of each kind a query.
    """

    database: Sequence[str]
    queries: Sequence[str]
    easy: Sequence[Sequence[int]]
    hard: Sequence[Sequence[int]]
    junk: Sequence[Sequence[int]]

    def __post_init__(self) -> None:
        for name, what in (("database", "images"), ("queries", "queries")):
            object.__setattr__(self, name, _names(getattr(self, name), what))
        for kind in KINDS:
            given = _members(getattr(self, kind), f"the {kind} lists")
            if len(given) != len(self.queries):
                raise ShapeError(
                    f"there are {len(given)} {kind} lists for {len(self.queries)} queries"
                )
            rows = [
                self._rows(own, f"query {name!r}: {kind}")
                for name, own in zip(self.queries, given, strict=True)
            ]
            object.__setattr__(self, kind, tuple(rows))
        for place, name in enumerate(self.queries):
            seen: dict[int, str] = {}
            for kind in KINDS:
                for row in getattr(self, kind)[place]:
                    if row in seen:
                        raise InputError(
                            f"query {name!r}: image {self.database[row]!r} (row {row}) is both "
                            f"{seen[row]} and {kind}; it can be one of them"
                        )
                    seen[row] = kind

    def _rows(self, given: object, what: str) -> tuple[int, ...]:
        last = len(self.database) - 1
        rows = [check_integer(f"{what}: a row", one, 0, last, **AS_INPUT)
                for one in _members(given, what)]  # fmt: skip
        if twice := _repeated(rows):
            raise InputError(f"{what}: row {twice[0]} stands there twice; name it once")
        return tuple(rows)

    def relevance(self, level: Level = "medium") -> Relevance:
        """Give what counts at a level, see `Relevance.landmarks`."""
        return Relevance.landmarks(self.easy, self.hard, self.junk, level=level)

    def database_rows(self, names: Sequence[str]) -> Int64Array:
        """Give the places [N] of the database's images among rows with these names.

        Features in any order, also of further images, are brought into the order of the ground
        truth by `features[rows]`. A row has an image's name if they are equal, or else if the row's
        ends with it as a path does, with or without its suffix: "photos/a.jpg" is "a".

        Raises:
            InputError: If an image has no row or several, or two images have the same.
        """
        return _places(self.database, names, "images of the database")

    def query_rows(self, names: Sequence[str]) -> Int64Array:
        """Give the places [Q] of the query images, as `database_rows` does."""
        return _places(self.queries, names, "query images")


def read_landmarks(path: str | Path) -> Landmarks:
    """Read ground truths from a JSON file.

    It holds {"images": [names], "queries": [{"image": name, "easy": [...], "hard": [...], "junk":
    [...]}]}, whose lists name images of the database, or their rows, from 0. The published
    structure is read, too: {"imlist": [names], "qimlist": [names], "gnd": [{"easy": [...], "hard":
    [...], "junk": [...]}]}. Other keys, as "bbx", are not used: queries are not cropped.

    Raises:
        InputError: If keys lack, a name is unknown, or `Landmarks` refuses what is there.
        InputTypeError: If something is of another type.
        ShapeError: If `gnd` has not one member for each query.
        StorageError: If the file is missing, a pickle, or not JSON.
    """
    place = Path(path)
    if place.suffix.lower() in (".pkl", ".pickle"):
        raise StorageError(
            f"{path} is a pickle, which may run code and is never loaded; docs/evaluation.md shows "
            "how to write yours as JSON"
        )
    try:
        content = json.loads(read_text(place))
    except (ValueError, RecursionError) as error:
        raise StorageError(f"{path} is not JSON: {error}") from None
    try:
        return _read(content)
    except FungiError as error:
        raise type(error)(f"{path}: {error}") from None


def evaluate_landmarks(
    pool: FeatureInput,
    queries: FeatureInput,
    landmarks: Landmarks,
    *,
    levels: Sequence[Level] = LEVELS,
    protocol: RetrievalProtocol | str = "paper-landmarks",
    combinations: Sequence[Sequence[str]] | None = None,
) -> list[EvaluationResult]:
    """Rank the database [N, F] for each query [Q, F] and judge it at several levels.

    Rows stand in the order of the ground truth. Arguments, records and errors are those of
    `evaluate_retrieval`; records of a level follow each other, and their protocol ends with its
    name. The database is reduced and ranked once for all levels.

    Raises:
        InputError: If no level is named, or no query has anything to find at one.
    """
    expect(landmarks, Landmarks, "landmarks")
    if not levels or isinstance(levels, str):
        raise InputError(f"levels are {levels!r}; give a sequence of {', '.join(LEVELS)}")
    relevances = [landmarks.relevance(level) for level in dict.fromkeys(levels)]
    return evaluate_rankings(
        pool, queries, relevances, protocol=protocol, combinations=combinations
    )


def _read(content: object) -> Landmarks:
    # Give what the parsed JSON says; entries become rows.
    whole = _object(content, "the file")
    published = not {*_PUBLISHED}.isdisjoint(whole)
    if published and not {*_OWN}.isdisjoint(whole):
        raise InputError(
            f"the file's keys are {_words(whole)}; give {_words(_OWN)} or {_words(_PUBLISHED)}"
        )
    _need(whole, _PUBLISHED if published else _OWN, "the file")
    if published:
        names, queries = whole["imlist"], _members(whole["qimlist"], "qimlist")
        truths = _members(whole["gnd"], "gnd")
        what = "gnd {}"
        if len(truths) != len(queries):
            raise ShapeError(f"gnd has {len(truths)} members for {len(queries)} of qimlist")
    else:
        names, truths = whole["images"], _members(whole["queries"], "queries")
        what = "query {}"
    found = [_object(one, what.format(place)) for place, one in enumerate(truths)]
    for place, one in enumerate(found):
        _need(one, KINDS if published else ("image", *KINDS), what.format(place))
    if not published:
        queries = [one["image"] for one in found]
    database = _names(names, "images")
    rows = {name: row for row, name in enumerate(database)}
    lists = {
        kind: [
            [_row(entry, rows, f"{what.format(place)}: {kind}")
             for entry in _members(one[kind], f"{what.format(place)}: {kind}")]
            for place, one in enumerate(found)
        ]
        for kind in KINDS
    }  # fmt: skip
    return Landmarks(database=database, queries=queries, **lists)


def _row(entry: object, rows: dict[str, int], what: str) -> Any:
    # Give the row of a name; `Landmarks` judges what is none.
    if not isinstance(entry, str):
        return entry
    if entry not in rows:
        raise InputError(f"{what} names {entry!r}, which is none of the {len(rows)} images")
    return rows[entry]


def _object(value: object, what: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise InputTypeError(f"{what} is a {type(value).__name__}; it must be a JSON object")
    return value


def _need(values: dict[str, Any], names: tuple[str, ...], what: str) -> None:
    if lacking := [name for name in names if name not in values]:
        raise InputError(f"{what} lacks {_words(lacking)}; its keys are {_words(values) or 'none'}")


def _words(names: Iterable[str]) -> str:
    return ", ".join(map(repr, names))


def _members(given: object, what: str) -> list[Any]:
    if not isinstance(given, list | tuple | np.ndarray):
        raise InputTypeError(f"{what} is a {type(given).__name__}; it must be a list")
    return list(given)


def _names(given: object, what: str) -> tuple[str, ...]:
    names = _members(given, what)
    if not names:
        raise InputError(f"there are no {what}; give at least 1")
    for place, name in enumerate(names):
        if not isinstance(name, str) or not name:
            raise InputTypeError(f"{what}: name {place} is {name!r}; it must be a text")
    if twice := _repeated(names):
        raise InputError(f"{what}: {_some(twice)} stand there more than once; name each once")
    return tuple(map(str, names))


def _repeated(values: list[Any]) -> list[Any]:
    return [one for one, n in Counter(values).items() if n > 1]


def _some(names: list[str]) -> str:
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return _words(names[:_SHOWN]) + more


def _places(wanted: Sequence[str], names: Sequence[str], what: str) -> Int64Array:
    # Find rows by name: the same, or the end of a path with or without its suffix.
    whole: dict[str, list[int]] = {}
    ends: dict[str, list[int]] = {}
    for row, given in enumerate(names):
        if not isinstance(given, str):
            raise InputTypeError(f"name {row} of the rows is {given!r:.80}; it must be a text")
        name = given.replace("\\", "/")
        whole.setdefault(name, []).append(row)
        parts = name.split("/")
        for start in range(len(parts)):
            end = "/".join(parts[start:])
            for one in {end, end.removesuffix(Path(parts[-1]).suffix)}:
                ends.setdefault(one, []).append(row)
    texts = [one.replace("\\", "/") for one in wanted]
    found = [whole.get(one) or ends.get(one, []) for one in texts]
    for n, words in ((0, "have no row"), (2, "have several rows")):
        if odd := [one for one, rows in zip(wanted, found, strict=True) if min(len(rows), 2) == n]:
            raise InputError(
                f"{len(odd)} of the {len(wanted)} {what} {words} among {len(names)}: {_some(odd)}"
            )
    rows = [one for (one,) in found]
    if twice := _repeated(rows):
        odd = [one for one, row in zip(wanted, rows, strict=True) if row == twice[0]]
        raise InputError(f"the {what} {_some(odd)} are one row, {names[twice[0]]!r}")
    return np.array(rows, np.int64)
