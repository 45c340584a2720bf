"""One self-contained page of queries and their nearest neighbours under each combination."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from importlib import resources
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from fungi_hf.checks import check_integer
from fungi_hf.errors import InputError
from fungi_hf.evaluation.inputs import choose_combinations, read_sides
from fungi_hf.evaluation.protocols import AS_INPUT
from fungi_hf.evaluation.records import write_text
from fungi_hf.evaluation.report.media import excerpt, thumbnail

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from fungi_hf.evaluation.inputs import FeatureInput
    from fungi_hf.neighbors.labels import Labels
    from fungi_hf.types import Float32Array, Int64Array

_LONGEST: Final = 220  # characters of a text
_MOST: Final = 50  # of the rows whose vote changes that are listed
_CELLS: Final = 2 * 10**7  # of a block's cosines: more test rows are thinned evenly


@dataclass(frozen=True, slots=True, kw_only=True)
class Shown:
    """The inputs behind the rows of both sides, in their order.

    `modality` is the encoder's: "vision" makes thumbnails, "audio" sounds to play (bare arrays need
    `sampling_rate`, in Hz), all else is written as text.
    """

    train: Sequence[Any]
    test: Sequence[Any]
    modality: str = "text"
    sampling_rate: int | None = None


def write_neighbours(  # noqa: PLR0913  (each is a setting of its own)
    path: str | Path,
    train: FeatureInput,
    train_labels: Labels,
    test: FeatureInput,
    test_labels: Labels,
    shown: Shown,
    *,
    combinations: Sequence[Sequence[str]] | None = None,
    n_queries: int = 12,
    n_neighbors: int = 6,
    title: str = "Nearest neighbours",
) -> None:
    """Write a page that shows test rows and the training rows nearest to them.

    Under each combination of blocks stand the neighbours by the mean cosine of its blocks, what
    each block adds to it, those that the first combination does not have ("new"), and those that
    it alone has ("pushed out"). Of the test rows whose vote changes between the first and the last
    combination up to 50 each way are listed. Queries whose vote goes from wrong to right come
    first, then those from right to wrong, then others, evenly spread. With very many training rows
    the test rows are thinned evenly.

    Args:
        path: The HTML file; its folder must exist.
        train: Features [N, F] of the rows that are searched.
        train_labels: [N].
        test: Features [Q, F] of the queries, of the same layout and fingerprint.
        test_labels: [Q].
        shown: The inputs themselves.
        combinations: Block names; None takes the embedding, each block beside it, and all.
        n_queries: Most queries.
        n_neighbors: Neighbours of each.
        title: Of the page.

    Raises:
        InputError: If there are not as many inputs as rows, or a picture cannot be read.
    """
    known, judged, _ = read_sides(train, train_labels, test, test_labels)
    for side, inputs, n in (("train", shown.train, len(known)), ("test", shown.test, len(judged))):
        if len(inputs) != n:
            raise InputError(f"shown.{side} has {len(inputs)} inputs for {n} rows of features")
    check_integer("n_queries", n_queries, **AS_INPUT)
    k = min(check_integer("n_neighbors", n_neighbors, **AS_INPUT), len(known))
    rows = np.linspace(0, len(judged) - 1, min(len(judged), max(1, _CELLS // len(known))))
    asked = rows.round().astype(np.int64)
    names = tuple(known.layout)
    beside = [("embedding", name) for name in names[1:]] if names[0] == "embedding" else []
    usual = list(dict.fromkeys([names[:1], *beside, names]))
    wanted = usual if combinations is None else choose_combinations(known.layout, combinations)
    cosines = {name: _cosines(known.take((name,)), judged.take((name,))[asked]) for name in names}
    labels, truth = np.asarray(known.labels), np.asarray(judged.labels)[asked]
    nearest = {some: _nearest(cosines, some, k) for some in wanted}
    votes = {some: [_vote(labels[rows]) for rows in found] for some, found in nearest.items()}
    page = _Page(shown, asked, labels, truth, cosines, nearest, votes)
    chosen = page.chosen(min(n_queries, len(asked)))
    words = (
        f"{len(chosen)} of {len(judged)} test rows with their {k} nearest of {len(known)} training "
        "rows, whose vote is the coloured label. Numbers are the mean cosine of the blocks, and "
        "what each block adds to it."
    )
    shown_queries = [page.query(row) for row in chosen]
    write_text(path, _rendered(title, words, page.changed(), shown_queries), "page")


def _cosines(train: Float32Array, test: Float32Array) -> Float32Array:
    left, right = (
        rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-12)
        for rows in (test, train)
    )
    product: Float32Array = left @ right.T
    return product


def _nearest(cosines: dict[str, Float32Array], names: tuple[str, ...], k: int) -> Int64Array:
    total = sum(cosines[name] for name in names)
    return np.argsort(-np.asarray(total), axis=1, kind="stable")[:, :k]


def _vote(labels: Any) -> Any:
    # The most frequent label; of several the one whose first row is nearest.
    return Counter(labels.tolist()).most_common(1)[0][0]


@dataclass(frozen=True, slots=True)
class _Page:
    shown: Shown
    asked: Int64Array  # [Q] rows of the test side
    labels: Any  # [N]
    truth: Any  # [Q]
    cosines: dict[str, Float32Array]  # block -> [Q, N]
    nearest: dict[tuple[str, ...], Int64Array]  # combination -> [Q, k]
    votes: dict[tuple[str, ...], list[Any]]

    def chosen(self, n: int) -> list[int]:
        """Give the queries that say most."""
        first, *_, last = [*self.votes, *self.votes]
        was, is_ = (np.asarray(self.votes[some]) == self.truth for some in (first, last))
        third, picked = -(-n // 3), list[int]()
        every = np.ones_like(was)
        for kind, share in ((~was & is_, third), (was & ~is_, third), (was == is_, n), (every, n)):
            rows = np.setdiff1d(np.flatnonzero(kind), picked)
            room = min(share, n - len(picked), len(rows))
            places = np.linspace(0, len(rows) - 1, room).round().astype(int)
            picked += rows[places].tolist()
        return picked

    def changed(self) -> list[dict[str, Any]]:
        """Give the rows whose vote changes from the first to the last combination, both ways."""
        first, *_, last = [*self.votes, *self.votes]
        was, is_ = (np.asarray(self.votes[some]) == self.truth for some in (first, last))
        names = f"{' + '.join(first)} to {' + '.join(last)}"
        return [
            {
                "heading": f"{words}, from {names}: {int(kind.sum())} of {len(kind)} rows",
                "rows": [self._change(row, first, last) for row in np.flatnonzero(kind)[:_MOST]],
                "more": max(0, int(kind.sum()) - _MOST),
            }
            for words, kind in (("Wrong to right", ~was & is_), ("Right to wrong", was & ~is_))
        ]

    def _change(self, row: int, first: tuple[str, ...], last: tuple[str, ...]) -> str:
        place = int(self.asked[row])
        votes = f"{self.votes[first][row]} -> {self.votes[last][row]}"
        raw = self.shown.test[place]
        text = f": {_cut(raw)}" if isinstance(raw, str) and self.shown.modality == "text" else ""
        return f"test row {place} ({self.truth[row]}), {votes}{text}"

    def query(self, row: int) -> dict[str, Any]:
        """Give what the page shows of one query."""
        first, *_ = self.nearest
        base = self.nearest[first][row].tolist()
        found = []
        for names, nearest in self.nearest.items():
            rows = nearest[row].tolist()
            gone = [str(self.labels[one]) for one in base if one not in rows]
            found.append(
                {
                    "name": " + ".join(names),
                    "vote": str(self.votes[names][row]),
                    "right": self.votes[names][row] == self.truth[row],
                    "cards": [self._card(row, one, names, base) for one in rows],
                    "gone": ", ".join(gone),
                }
            )
        right, place = [one["name"] for one in found if one["right"]], int(self.asked[row])
        return {
            "item": self._item(self.shown.test[place], f"test row {place}"),
            "label": str(self.truth[row]),
            "words": f"test row {place}; right by {', '.join(right) or 'none'}",
            "combinations": found,
        }

    def _card(self, row: int, one: int, names: tuple[str, ...], base: list[int]) -> dict[str, Any]:
        shares = {name: float(self.cosines[name][row, one]) / len(names) for name in names}
        parts = "".join(f", {name} {share:.2f}" for name, share in shares.items())
        return {
            "item": self._item(self.shown.train[one], f"training row {one}"),
            "label": str(self.labels[one]),
            "right": self.labels[one] == self.truth[row],
            "new": one not in base,
            "shares": f"{sum(shares.values()):.2f}" + (parts if len(names) > 1 else ""),
        }

    def _item(self, raw: Any, name: str) -> dict[str, str]:
        if self.shown.modality == "vision":
            return {"name": name, "picture": thumbnail(raw, name), "sound": ""}
        if self.shown.modality == "audio":
            sound = excerpt(raw, name, self.shown.sampling_rate)
            return {"name": name, "picture": "", "sound": sound}
        text = raw if isinstance(raw, str) else str(getattr(raw, "name", name))
        return {"name": _cut(text), "picture": "", "sound": ""}


def _cut(text: str) -> str:
    return text if len(text) <= _LONGEST else f"{text[:_LONGEST]}..."


def _rendered(
    title: str, lead: str, changes: list[dict[str, Any]], queries: list[dict[str, Any]]
) -> str:
    page = resources.files(__package__).joinpath("neighbours.html").read_text(encoding="utf-8")
    return (
        environment()
        .from_string(page)
        .render(title=title, lead=lead, changes=changes, queries=queries)
    )


def environment() -> Any:
    """Give jinja's environment for a page: names are escaped, unknown ones refused."""
    import jinja2

    return jinja2.Environment(autoescape=True, trim_blocks=True, undefined=jinja2.StrictUndefined)
