"""Text views by deleting words; what stays is verbatim."""

from __future__ import annotations

import math
import re
import string
import threading
from typing import TYPE_CHECKING, Any, Final

from fungi_hf.checks import check_integer, check_number

if TYPE_CHECKING:
    import random
    from collections.abc import Callable, Sequence

Spans = list[tuple[int, int]]
# A call sets truncation on the tokenizer's backend: another thread's call must wait for it.
TOKENIZING: Final = threading.RLock()
_JOINERS = ("'", "’")  # noqa: RUF001  (the typographic apostrophe is meant)


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
        """Remember V, each word's probability in (0, 1), and what gives a text's words."""
        self.n_views = check_integer("n_views", n_views)
        self.probability = check_number("probability", probability, 0, 1, inclusive="neither")
        self.spans = spans

    def __call__(self, raw: str, generator: random.Random) -> list[str]:
        """Give V texts."""
        spans = self.spans(raw)
        return [_without(raw, spans, drop) for drop in self.draw(len(spans), generator)]

    def many(self, raws: Sequence[str], generators: Sequence[random.Random]) -> list[list[str]]:
        """Give V texts of each."""
        return [self(*pair) for pair in zip(raws, generators, strict=True)]

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
            position = end
            before = next((piece for piece in reversed(pieces) if piece), " ")
            if before[-1].isspace():  # the next blank would double
                rest = range(end, len(text))
                position = next((i for i in rest if not text[i].isspace()), len(text))
    pieces.append(text[position:])
    return "".join(pieces)


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
        """Remember V, and each word's probability in (0, 1)."""
        self.n_views = check_integer("n_views", n_views)
        self.probability = check_number("probability", probability, 0, 1, inclusive="neither")

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


def word_spans(text: str, tokenizer: Any) -> Spans:
    """Give [start, end) of every word of the whole text that holds a letter or a digit.

    Words are the tokenizer's own (its pre-tokenizer's, so that scripts without blanks are cut
    too), split at blanks and rejoined at apostrophes ("don't" is one word). A tokenizer without
    offsets gives runs of non-blank characters. Spans are increasing, disjoint and non-empty.
    """
    if not getattr(tokenizer, "is_fast", False):
        return whitespace_spans(text)
    (encoding,) = encodings(tokenizer, [text], add_special_tokens=False, truncation=False)
    return joined_words(text, encoding.word_ids, encoding.offsets)


def encodings(tokenizer: Any, texts: Sequence[str], **options: Any) -> list[Any]:
    """Give a fast tokenizer's encodings of texts, with words and offsets."""
    if not texts:
        return []
    with TOKENIZING:
        encoded = tokenizer(
            list(texts),
            return_offsets_mapping=True,
            return_attention_mask=False,
            return_token_type_ids=False,
            verbose=False,
            **options,
        )
    return encoded.encodings


def joined_words(
    text: str, word_ids: Sequence[int | None], offsets: Sequence[tuple[int, int]]
) -> Spans:
    """Give the spans of `word_spans` from an untruncated encoding's words and offsets."""
    words: dict[int, tuple[int, int]] = {}
    for word, (start, end) in zip(word_ids, offsets, strict=True):
        if word is not None and end > start:
            known = words.get(word, (start, end))
            words[word] = (min(known[0], start), max(known[1], end))
    pieces = [
        (start + match.start(), start + match.end())
        for start, end in sorted(words.values())
        for match in re.finditer(r"\S+", text[start:end])
    ]
    return [span for span in _joined(text, pieces) if any(c.isalnum() for c in text[slice(*span)])]


def _joined(text: str, pieces: Spans) -> Spans:
    """Join pieces that touch at an apostrophe between two letters; drop overlaps."""
    joined: Spans = []
    for begin, end in pieces:
        start = max(begin, joined[-1][1]) if joined else begin
        if end <= start:
            continue
        if joined and start == joined[-1][1] and _continues(text, start):
            joined[-1] = (joined[-1][0], end)
        else:
            joined.append((start, end))
    return joined


def _continues(text: str, position: int) -> bool:
    if text[position] in _JOINERS:
        return text[position - 1].isalnum() and text[position + 1 : position + 2].isalnum()
    return (
        text[position - 1] in _JOINERS
        and position >= 2
        and text[position - 2].isalnum()
        and text[position].isalnum()
    )
