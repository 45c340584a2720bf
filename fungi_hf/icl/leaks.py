"""The leak guard: no query sees itself, nor a copy of itself, among its demonstrations."""

from __future__ import annotations

import hashlib
import re
import unicodedata
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, get_args

import numpy as np

from fungi_hf.checks import check_choice
from fungi_hf.errors import DemoConfigError, choices
from fungi_hf.icl.audio import AudioClip

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable, Sequence

    from fungi_hf.icl.examples import Examples

LeakAction = Literal["drop", "keep", "error"]
_SPACE = re.compile(r"\s+")
_TOKEN = re.compile(r"[^\W_]+")


def text_key(text: str) -> str:
    """Return the text under NFKC, case folding, and with single spaces between its parts."""
    return _SPACE.sub(" ", unicodedata.normalize("NFKC", text).casefold()).strip()


def token_key(text: str) -> str:
    """Return the letters and digits of the text; the text itself if it has none."""
    folded = text_key(text)
    return " ".join(_TOKEN.findall(folded)) or folded


_TEXT_KEYS: dict[str, Callable[[str], Hashable]] = {"default": text_key, "tokens": token_key}


@dataclass(frozen=True, slots=True)
class LeakGuard:
    """What counts as a copy, and what happens to it.

    A pool row is a copy if both sides carry equal ids, if the query is that very row (leave-one-
    out: the queries are the pool object itself), if the texts have equal keys, or, with
    `vectors`, if the features are equal as float32.
    """

    # "drop" takes copies out of the ranking before anything is chosen, "keep" only counts them,
    # "error" refuses
    action: LeakAction = "drop"
    # "default" (case, white space and Unicode forms are ignored), "tokens" (punctuation too), or a
    # function text -> key
    text_key: str | Callable[[str], Hashable] = "default"
    vectors: bool | None = None  # compare features; None does so where contents are not all texts

    def __post_init__(self) -> None:
        check_choice("leaks", self.action, get_args(LeakAction), error=DemoConfigError)
        if not callable(self.text_key) and self.text_key not in _TEXT_KEYS:
            allowed = choices(self.text_key, _TEXT_KEYS)
            raise DemoConfigError(f"text_key is {allowed}, or a function")
        if self.vectors is not None and not isinstance(self.vectors, bool):
            raise DemoConfigError(f"vectors is {self.vectors!r}; it is True, False or None")

    def copies(self, pool: Examples, queries: Examples) -> dict[int, tuple[int, ...]]:
        """Give the copies of queries, if they have some: query row -> rows of the pool, ascending.

        The queries are the pool object itself for leave-one-out.
        """
        found = {row: {row} for row in range(len(pool))} if queries is pool else {}
        with_vectors = pool.texts is None or queries.texts is None
        if self.vectors is not None:
            with_vectors = self.vectors
        sides = (self._keys(examples, with_vectors=with_vectors) for examples in (pool, queries))
        for pool_keys, query_keys in zip(*sides, strict=True):
            rows_by_key: dict[Hashable, list[int]] = {}
            for row, key in enumerate(pool_keys):
                rows_by_key.setdefault(key, []).append(row)
            for query, key in enumerate(query_keys):
                if key in rows_by_key:
                    found.setdefault(query, set()).update(rows_by_key[key])
        return {query: tuple(sorted(rows)) for query, rows in sorted(found.items())}

    def distinct(self, pool: Examples) -> list[int] | None:
        """Give the first row of each text or clip, ascending; None where no two are equal."""
        _, keys, _ = self._keys(pool, with_vectors=False)
        first: dict[Hashable, int] = {}
        for row, key in enumerate(keys):
            first.setdefault(key, row)
        return list(first.values()) if len(first) < len(keys) else None

    def _keys(self, examples: Examples, *, with_vectors: bool) -> list[Sequence[Hashable]]:
        """Return the ids, the keys of the contents and those of the vectors; empty if not there."""
        fold = self.text_key if callable(self.text_key) else _TEXT_KEYS[self.text_key]
        contents = [
            ("clip", content.digest) if isinstance(content, AudioClip) else ("text", fold(content))
            for content in examples.contents or ()
        ]
        features = examples.features if with_vectors else None
        return [examples.ids or (), contents, () if features is None else _vector_keys(features)]


GUARDS: dict[str, LeakGuard] = {action: LeakGuard(action) for action in get_args(LeakAction)}


def _vector_keys(features: np.typing.NDArray[np.floating]) -> list[bytes]:
    with np.errstate(over="ignore"):
        rows = features.astype(np.float32) + np.float32(0)  # -0.0 equals 0.0
    return [hashlib.blake2b(row.tobytes(), digest_size=16).digest() for row in rows]
