"""The parts of an input that get a vector each: which tokens they are made of, where they stand."""

from __future__ import annotations

import bisect
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from fungi_hf.errors import EncoderError
from fungi_hf.views.text import encodings, joined_words

if TYPE_CHECKING:
    from collections.abc import Sequence

    from fungi_hf.types import Float64Array, Int64Array


@dataclass(frozen=True, slots=True, eq=False)
class Regions:
    """The patches, words or frames of one input.

    Attributes:
        grid: (rows, columns) of patches; (T,) of words or frames.
        tokens: [R] places among the encoder's tokens, counted from 0.
        owners: [R] the part that each of these tokens belongs to; every part has one at least.
        spans: [T, 2] where parts begin and end, in characters or seconds; None for patches.
    """

    grid: tuple[int, ...]
    tokens: Int64Array
    owners: Int64Array
    spans: Float64Array | None = None

    def __len__(self) -> int:
        """Give T."""
        return int(np.prod(self.grid))

    def without(self, characters: int) -> Regions:
        """Leave out words that begin in the first characters (a prompt); count from after them."""
        if not characters or self.spans is None:
            return self
        kept = np.flatnonzero(self.spans[:, 0] >= characters)
        wanted = np.isin(self.owners, kept)
        owners = np.searchsorted(kept, self.owners[wanted])
        return Regions((len(kept),), self.tokens[wanted], owners, self.spans[kept] - characters)


def patch_regions(grid: tuple[int, int]) -> Regions:
    """Give the patches of an image, a token each."""
    places = np.arange(grid[0] * grid[1])
    return Regions(grid, places, places)


def frame_regions(tokens: Int64Array, owners: Int64Array, spans: Float64Array) -> Regions:
    """Give the frames of a sound."""
    return Regions((len(spans),), tokens, owners, spans)


def text_regions(tokenizer: Any, texts: Sequence[str], max_length: int) -> list[Regions]:
    """Give the words of texts, as far as the texts are not truncated.

    Raises:
        EncoderError: If the tokenizer does not say where its tokens stand.
    """
    if not getattr(tokenizer, "is_fast", False):
        raise EncoderError(
            "dense features of texts need a tokenizer that says where its tokens stand; "
            f"{type(tokenizer).__name__} is a slow one: load its fast form"
        )
    options = {"add_special_tokens": True, "truncation": True, "max_length": max_length}
    found = encodings(tokenizer, texts, **options)
    return [word_regions(*pair) for pair in zip(texts, found, strict=True)]


def word_regions(text: str, encoding: Any) -> Regions:
    """Give the words of a text, those of `views.text.word_spans`, that a fast encoding reaches.

    A token belongs to the word that its characters overlap; punctuation and special tokens to
    none.
    """
    spans = joined_words(text, encoding.word_ids, encoding.offsets)
    starts = [start for start, _ in spans]
    tokens, owners = [], []
    for token, (word, (start, end)) in enumerate(
        zip(encoding.word_ids, encoding.offsets, strict=True)
    ):
        place = bisect.bisect_left(starts, end) - 1  # the last word that begins before its end
        if word is not None and place >= 0 and start < min(end, spans[place][1]):
            tokens.append(token)
            owners.append(place)
    kept, owners_kept = np.unique(np.array(owners, dtype=np.int64), return_inverse=True)
    array = np.array(spans, dtype=np.float64).reshape(-1, 2)[kept]
    return Regions((len(kept),), np.array(tokens, dtype=np.int64), owners_kept, array)
