"""Ground truths of landmark retrieval (Revisited Oxford and Paris): JSON read, put in order."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from fungi_hf.errors import InputError
from fungi_hf.evaluation.retrieval import Relevance

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from fungi_hf.evaluation.retrieval import Level

KINDS: Final = ("easy", "hard", "junk")
Rows = tuple[tuple[int, ...], ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Landmarks:
    """What each query should find in a database, and how hard that is.

    Attributes:
        images: Names of the database, N.
        queries: Names of the queries, Q.
        easy: [Q] rows of the database that are easy to find.
        hard: [Q] rows that are hard to find.
        junk: [Q] rows that count for nothing.
    """

    images: tuple[str, ...]
    queries: tuple[str, ...]
    easy: Rows
    hard: Rows
    junk: Rows

    def relevance(self, level: Level) -> Relevance:
        """Give the judgements of a level, as `Relevance.landmarks` does."""
        return Relevance.landmarks(self.easy, self.hard, self.junk, level=level)

    def ordered(self, images: Sequence[str], queries: Sequence[str]) -> Landmarks:
        """Give the same for rows in another order, named as files are: `all_souls_1.jpg`.

        Folders and suffixes do not count. The database may hold more images, which are relevant to
        nobody.

        Raises:
            InputError: If names repeat, or images or queries of the ground truth lack.
        """
        places = _places(images, self.images, "database")
        asked = _places(queries, self.queries, "queries")
        if len(queries) != len(self.queries):
            raise InputError(
                f"there are {len(queries)} queries, the ground truth has {len(self.queries)}; give "
                "the pictures of its queries alone"
            )
        order = sorted(range(len(asked)), key=asked.__getitem__)

        def moved(rows: Rows) -> Rows:
            return tuple(tuple(places[row] for row in rows[query]) for query in order)

        return replace(
            self,
            images=tuple(map(_stem, images)),
            queries=tuple(self.queries[query] for query in order),
            easy=moved(self.easy),
            hard=moved(self.hard),
            junk=moved(self.junk),
        )


def read_landmarks(path: str | Path) -> Landmarks:
    """Read a ground truth.

    It is {"images": [names of the database], "queries": [{"image": name, "easy": [...], "hard":
    [...], "junk": [...]}, ...]}, images of a query by name or by number from 0; or the published
    structure as JSON, {"imlist": [...], "qimlist": [...], "gnd": [{"easy": ...}, ...]}. The
    published files are pickles, which are never loaded here.

    Raises:
        InputError: If it is anything else, or contradicts itself.
    """
    source = Path(path)
    try:
        given: Any = json.loads(source.read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError(f"the ground truth {path} cannot be read: {error.strerror}") from None
    except (ValueError, RecursionError) as error:
        raise InputError(
            f"the ground truth {path} is not JSON: {error}; a pickle is not read, write it as JSON "
            "elsewhere"
        ) from None
    images, queries, entries = _parts(given, str(path))
    for what, names in (("images", images), ("queries", queries)):
        _check_names(names, f"{path}: {what}")
    known = {name: row for row, name in enumerate(images)}
    found: dict[str, list[tuple[int, ...]]] = {kind: [] for kind in KINDS}
    for number, entry in enumerate(entries):
        where = f"{path}: query {number} ({queries[number]})"
        if not isinstance(entry, dict):
            raise InputError(
                f"{where} is {entry!r:.60}; it must be an object with easy, hard, junk"
            )
        rows = {kind: _rows(entry.get(kind, []), known, f"{where}, {kind}") for kind in KINDS}
        repeated = [row for row, n in Counter(sum(rows.values(), ())).items() if n > 1]
        if repeated:
            raise InputError(
                f"{where} has image {images[repeated[0]]} twice among easy, hard and junk; an "
                "image is one of them"
            )
        for kind, some in rows.items():
            found[kind].append(some)
    easy, hard, junk = (tuple(found[kind]) for kind in KINDS)
    return Landmarks(images=images, queries=queries, easy=easy, hard=hard, junk=junk)


def _parts(given: Any, path: str) -> tuple[tuple[str, ...], tuple[str, ...], list[Any]]:
    if isinstance(given, dict) and {"imlist", "qimlist", "gnd"} <= given.keys():
        images, queries, entries = given["imlist"], given["qimlist"], given["gnd"]
    elif isinstance(given, dict) and {"images", "queries"} <= given.keys():
        images, entries = given["images"], given["queries"]
        one_each = isinstance(entries, list) and all(isinstance(one, dict) for one in entries)
        queries = [one.get("image") for one in entries] if one_each else None
    else:
        raise InputError(f"{path} must hold images and queries, or imlist, qimlist and gnd")
    lists = (images, queries, entries)
    if not all(isinstance(one, list) and one for one in lists) or len(queries) != len(entries):
        raise InputError(
            f"{path}: images and queries must be lists that are not empty, and every query an "
            "object with its image"
        )
    return tuple(images), tuple(queries), entries


def _check_names(names: tuple[Any, ...], where: str) -> None:
    for place, name in enumerate(names):
        if not isinstance(name, str) or not name:
            raise InputError(f"{where}: number {place} is {name!r:.60}; it must be a name")
    _stems(names, where)


def _rows(given: Any, known: Mapping[str, int], where: str) -> tuple[int, ...]:
    if not isinstance(given, list):
        raise InputError(f"{where} is {given!r:.60}; it must be a list of images")
    rows = []
    for one in given:
        row = known.get(one) if isinstance(one, str) else one
        if type(row) is not int or not 0 <= row < len(known):
            raise InputError(
                f"{where}: {one!r:.60} is no image; give a name of the database or its number from "
                f"0 to {len(known) - 1}"
            )
        rows.append(row)
    return tuple(rows)


def _stem(name: str) -> str:
    return Path(name).stem


def _stems(names: Sequence[str], where: str) -> dict[str, int]:
    found: dict[str, int] = {}
    for row, name in enumerate(names):
        if found.setdefault(_stem(name), row) != row:
            raise InputError(f"{where}: the name {_stem(name)} stands there twice")
    return found


def _places(given: Sequence[str], wanted: Sequence[str], what: str) -> list[int]:
    rows = _stems(given, what)
    missing = [name for name in wanted if _stem(name) not in rows]
    if missing:
        raise InputError(
            f"{what}: {len(missing)} of {len(wanted)} images of the ground truth lack, such as "
            f"{', '.join(missing[:3])}"
        )
    return [rows[_stem(name)] for name in wanted]
