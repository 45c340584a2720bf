"""One self-contained page of queries and their nearest neighbours under each combination."""

from __future__ import annotations

import os
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
from fungi_hf.evaluation.report.media import Media, short_path
from fungi_hf.evaluation.report.nearness import Nearness

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from fungi_hf.evaluation.inputs import FeatureInput
    from fungi_hf.neighbors.labels import Labels
    from fungi_hf.types import Int64Array

_MOST: Final = 50  # of the rows whose vote changes that are listed
_CELLS: Final = 2 * 10**7  # of a block's similarities: more test rows are thinned evenly
_HOW: Final = (
    "Under each neighbour stands its similarity, the sum of the blocks' products with the weights "
    "of the config, and each block's share of it, as features.explain gives them; a block with a "
    "negative share pushes the two apart."
)


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

    Under each combination of blocks stand the neighbours by the sum of its blocks' similarities,
    with that sum and each block's share of it: the numbers of `FungiFeatures.explain`, weights of
    the config included (features without blocks, plain arrays, are compared by the cosine). A block
    brings in what is among the nearest by all blocks, but not when it is left out, and pushes out
    what is among them only then. Of the test rows whose vote changes between the first and the
    last combination up to 50 each way are listed. Queries whose vote goes from wrong to right come
    first, then those from right to wrong, then others, evenly spread. With very many training rows
    the test rows are thinned evenly. Pictures and sounds are embedded up to 32 MB, each sound once;
    the page says what it leaves out.

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
    near = Nearness.of(known, judged, asked, train)
    labels, truth = np.asarray(known.labels), np.asarray(judged.labels)[asked]
    nearest = {some: near.nearest(some, k) for some in wanted}
    votes = {some: [_vote(labels[rows]) for rows in found] for some, found in nearest.items()}
    media = Media(shown.modality, shown.sampling_rate)
    page = _Page(shown, media, asked, labels, truth, near, nearest, votes)
    chosen = page.chosen(min(n_queries, len(asked)))
    queries = [page.query(row) for row in chosen]
    changes = page.changed()
    facts = {
        "title": title,
        "notes": [_lead(len(chosen), len(asked), len(judged), k, len(known)), _HOW, *page.notes()],
        "changes": changes,
        "queries": queries,
        "is_text": media.is_text,
        "is_picture": shown.modality == "vision",
    }
    write_text(path, _rendered(facts), "page")


def _lead(n_shown: int, n_asked: int, n_test: int, k: int, n_train: int) -> str:
    words = (
        f"{n_shown:,} of {n_test:,} test rows with their {k} nearest of {n_train:,} training rows, "
        "whose vote is the coloured label."
    )
    if n_asked == n_test:
        return words
    return f"{words} Compared were {n_asked:,} of {n_test:,} test rows, evenly spread."


def _vote(labels: Any) -> Any:
    # The most frequent label; of several the one whose first row is nearest.
    return Counter(labels.tolist()).most_common(1)[0][0]


@dataclass(frozen=True, slots=True)
class _Page:
    shown: Shown
    media: Media
    asked: Int64Array  # [Q] rows of the test side
    labels: Any  # [N]
    truth: Any  # [Q]
    near: Nearness
    nearest: dict[tuple[str, ...], Int64Array]  # combination -> [Q, k]
    votes: dict[tuple[str, ...], list[Any]]

    @property
    def k(self) -> int:
        return next(iter(self.nearest.values())).shape[1]

    def notes(self) -> list[str]:
        """Say what a block does, and what was left out; asked when all else has been shown."""
        found = []
        if len(self.near.parts) > 1:
            found.append(
                f"A block brings in a neighbour that is among the {self.k} nearest by all blocks, "
                "but not when the block is left out; it pushes out one that is among them only "
                "when the block is left out."
            )
        if n := self.media.n_left_out:
            kind = "pictures" if self.shown.modality == "vision" else "sounds"
            found.append(f"{n:,} {kind} are named only: a page holds 32 MB of them.")
        return found

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
        found = []
        for words, kind in (("Wrong to right", ~was & is_), ("Right to wrong", was & ~is_)):
            rows = np.flatnonzero(kind)
            heading = f"{words}, from {names}: {len(rows):,} of {len(kind):,} test rows"
            if len(rows) > _MOST:
                heading += f", {_MOST} of {len(rows):,} shown"
            changes = [self._change(row, first, last) for row in rows[:_MOST].tolist()]
            found.append({"heading": heading, "rows": changes})
        return found

    def _change(self, row: int, first: tuple[str, ...], last: tuple[str, ...]) -> dict[str, Any]:
        place = int(self.asked[row])
        votes = f"{self.votes[first][row]} \u2192 {self.votes[last][row]}"
        item = self.media.item(self.shown.test[place], f"test row {place}")
        text = f": {item['text']}" if item["text"] else ""
        words = f"{self._named(place)} ({self.truth[row]}), {votes}{text}"
        return {"item": item, "words": words}

    def query(self, row: int) -> dict[str, Any]:
        """Give what the page shows of one query."""
        place, found = int(self.asked[row]), []
        item = self.media.item(self.shown.test[place], f"test row {place}")
        for names, nearest in self.nearest.items():
            found.append(
                {
                    "name": " + ".join(names),
                    "vote": str(self.votes[names][row]),
                    "right": self.votes[names][row] == self.truth[row],
                    "cards": [self._card(row, one, names) for one in nearest[row].tolist()],
                }
            )
        right = [one["name"] for one in found if one["right"]]
        return {
            "item": item,
            "label": str(self.truth[row]),
            "words": f"{self._named(place)}; right by {', '.join(right) or 'none'}",
            "combinations": found,
            **self._moved(row),
        }

    def _moved(self, row: int) -> dict[str, Any]:
        names, cards, idle = tuple(self.near.parts), [], []
        for block, (into, out) in self.near.moved(row, self.k).items():
            for words, rows in ((f"brought in by {block}", into), (f"pushed out by {block}", out)):
                cards += [self._card(row, one, names, words) for one in rows]
            if not into:
                idle.append(block)
        return {"moved": cards, "idle": ", ".join(idle)}

    def _card(self, row: int, one: int, names: tuple[str, ...], words: str = "") -> dict[str, Any]:
        found = self.near.explain(row, one, names)
        return {
            "item": self.media.item(self.shown.train[one], f"training row {one}"),
            "label": str(self.labels[one]),
            "right": self.labels[one] == self.truth[row],
            "words": words,
            "similarity": f"{found.similarity:.2f}",
            "shares": str(found) if len(names) > 1 else "",
        }

    def _named(self, place: int) -> str:
        # A file's name finds a picture or a sound again; a text stands there itself.
        raw = self.shown.test[place]
        is_file = isinstance(raw, str | os.PathLike) and not self.media.is_text
        return f"test row {place}" + (f", {short_path(raw)}" if is_file else "")


def _rendered(facts: dict[str, Any]) -> str:
    page = resources.files(__package__).joinpath("neighbours.html").read_text(encoding="utf-8")
    return str(environment().from_string(page).render(facts))


def environment() -> Any:
    """Give jinja's environment for a page: names are escaped, unknown ones refused."""
    import jinja2

    return jinja2.Environment(autoescape=True, trim_blocks=True, undefined=jinja2.StrictUndefined)
