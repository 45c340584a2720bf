"""Where a tokenizer's words stand in a text, as characters."""

from __future__ import annotations

import re
import threading
from typing import TYPE_CHECKING, Any, Final

from fungi_hf.views.text import whitespace_spans

if TYPE_CHECKING:
    from collections.abc import Sequence

    from fungi_hf.views.text import Spans

# A call sets truncation on the tokenizer's backend: another thread's call must wait for it.
TOKENIZING: Final = threading.RLock()
_JOINERS = ("'", "’")  # noqa: RUF001  (the typographic apostrophe is meant)


def word_spans(text: str, tokenizer: Any) -> Spans:
    """Give [start, end) of every word that holds a letter or a digit.

    Words are the tokenizer's own (its pre-tokenizer's, so that scripts without blanks are cut
    too), split at blanks and rejoined at apostrophes ("don't" is one word). A tokenizer without
    offsets gives runs of non-blank characters. The spans are increasing, disjoint and non-empty;
    the text is not truncated.
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
