"""Text views by deleting words; what stays is verbatim."""

from __future__ import annotations

import contextlib
import math
import random
import re
import string
import threading
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from fungi_hf.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

Spans = list[tuple[int, int]]
_GLOBAL_RANDOM: Final = threading.Lock()


def whitespace_spans(text: str) -> Spans:
    """Give [start, end) of every run of non-blank characters."""
    return [match.span() for match in re.finditer(r"\S+", text)]


class WordDeletion:
    """Views that lose whole words.

    Of a text with W >= 2 words, every word is deleted with probability exactly
    max(probability, 1 / W), up to the cap that one word stays: the number deleted is
    max(1, probability W) rounded at random to an integer of the same mean, the positions are
    uniform. Words and blanks that stay are the input's own characters. A text with fewer than
    2 words has itself as every view.
    """

    def __init__(
        self,
        n_views: int = 12,
        probability: float = 0.1,
        spans: Callable[[str], Spans] = whitespace_spans,
    ) -> None:
        """Remember the options.

        Args:
            n_views: V.
            probability: Of each word, in (0, 1).
            spans: Gives the words of a text as [start, end) pairs; an encoder passes its
                tokenizer's own words.

        Raises:
            ConfigError: If an option is out of range.
        """
        _check(n_views, probability)
        self.n_views, self.probability, self.spans = n_views, probability, spans

    def __call__(self, raw: str, generator: random.Random) -> list[str]:
        """Give V texts."""
        spans = self.spans(raw)
        return [_without(raw, spans, drop) for drop in self.draw(len(spans), generator)]

    def draw(self, n_words: int, generator: random.Random) -> list[set[int]]:
        """Draw the words that each view of a text with `n_words` words loses."""
        if n_words < 2:
            return [set()] * self.n_views
        wanted = max(1.0, self.probability * n_words)
        drops = []
        for _ in range(self.n_views):
            count = int(wanted)
            count += generator.random() < wanted - count
            drops.append(set(generator.sample(range(n_words), min(count, n_words - 1))))
        return drops


def _without(text: str, spans: Spans, drop: set[int]) -> str:
    if not drop:
        return text
    pieces, position = [], 0
    for index, (start, end) in enumerate(spans):
        if index in drop:
            pieces.append(text[position:start])
            position = _after_blanks(text, end) if _ends_blank(pieces) else end
    pieces.append(text[position:])
    return "".join(pieces)


def _ends_blank(pieces: list[str]) -> bool:
    """Whether the text so far is empty or ends in a blank, so that the next blank would double."""
    for piece in reversed(pieces):
        if piece:
            return piece[-1].isspace()
    return True


def _after_blanks(text: str, position: int) -> int:
    while position < len(text) and text[position].isspace():
        position += 1
    return position


class PublishedDeletion:
    """The published views: nlpaug's random word deletion, by its rules.

    The text is split at every non-word character; ceil(probability * tokens), between 1 and 10,
    of the tokens that are not punctuation are deleted; the rest is joined again with nlpaug's
    spacing, so a view may differ from the input in its blanks. Nothing is deleted from a text
    with fewer than 2 tokens.

    Reference: the published text code (`RandomWordAug(action="delete", aug_p=0.1)` of nlpaug
    1.1.11); an empty text, on which that code fails, is its own view here.
    """

    def __init__(self, n_views: int = 12, probability: float = 0.1) -> None:
        """Remember the options.

        Raises:
            ConfigError: If an option is out of range.
        """
        _check(n_views, probability)
        self.n_views, self.probability = n_views, probability

    def __call__(self, raw: str, generator: random.Random) -> list[str]:
        """Give V texts."""
        return [self.delete(raw, generator) for _ in range(self.n_views)]

    def delete(self, text: str, generator: random.Random) -> str:
        """Give one view; draws once from `generator.sample`."""
        text = text.strip()
        tokens = [piece for piece in re.split(r"(\W)", text) if piece.strip()]
        eligible = [i for i, token in enumerate(tokens) if token not in string.punctuation]
        if len(tokens) < 2 or not eligible:
            return text
        count = min(10, max(1, math.ceil(self.probability * len(tokens))), len(eligible))
        drop = set(generator.sample(eligible, count))
        if 0 in drop:  # the second token takes the first one's place, even if it was drawn too
            drop.discard(1)
            tokens[1] = _like(tokens[0], tokens[1])
        return _join([token for i, token in enumerate(tokens) if i not in drop])


def _like(first: str, second: str) -> str:
    """Capitalise the second token if the first was capitalised and the second is lower-case."""
    if first[0].isupper() and first[1:] == first[1:].lower() and second.islower():
        return second.capitalize()
    return second


def _join(tokens: list[str]) -> str:
    text = " ".join(tokens)
    text = re.sub(r"\s([.,:;?!%]+)(?=$)", r"\1", re.sub(r"\s([.,:;?!%]+[ '\"`])", r"\1", text))
    text = re.sub(r"\s([\[({<])\s", r" \1", text)
    return re.sub(r"\s([\])}>])\s", r"\1 ", text).strip()


class NlpaugViews:
    """Views by any nlpaug augmenter, made reproducible.

    nlpaug draws from Python's and numpy's global generators; both are seeded from the sample's
    own generator for the call and restored after it.
    """

    def __init__(self, augmenter: Any, n_views: int = 12) -> None:
        """Keep the augmenter.

        Args:
            augmenter: Anything with nlpaug's `augment(text) -> list[str] | str`.
            n_views: V.

        Raises:
            ConfigError: If it has no `augment`.
        """
        if not callable(getattr(augmenter, "augment", None)):
            raise ConfigError(f"an nlpaug augmenter has an augment method; got {augmenter!r}")
        _check(n_views, 0.5)
        self.n_views, self._augmenter = n_views, augmenter

    def __call__(self, raw: str, generator: random.Random) -> list[str]:
        """Give V texts; where the augmenter gives none, the input itself."""
        with _seeded_globals(generator.getrandbits(32)):
            return [self._one(raw) for _ in range(self.n_views)]

    def _one(self, raw: str) -> str:
        result = self._augmenter.augment(raw)
        if isinstance(result, list):
            result = result[0] if result else raw
        return result if isinstance(result, str) else raw


@contextlib.contextmanager
def _seeded_globals(seed: int) -> Iterator[None]:
    with _GLOBAL_RANDOM:
        before, numpy_before = random.getstate(), np.random.get_state()  # noqa: NPY002
        try:
            random.seed(seed)
            np.random.seed(seed)  # noqa: NPY002
            yield
        finally:
            random.setstate(before)
            np.random.set_state(numpy_before)  # noqa: NPY002


def _check(n_views: int, probability: float) -> None:
    if isinstance(n_views, bool) or not isinstance(n_views, int) or n_views < 1:
        raise ConfigError(f"n_views must be an integer >= 1; got {n_views!r}")
    if not isinstance(probability, (int, float)) or not 0 < probability < 1:
        raise ConfigError(f"probability must be between 0 and 1; got {probability!r}")
