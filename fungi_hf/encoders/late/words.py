"""Late views of texts: the word deletion of whole texts, told as the tokens that stay."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from fungi_hf.encoders.base import Prepared
from fungi_hf.errors import ConfigError
from fungi_hf.views.text import encodings, joined_words

if TYPE_CHECKING:
    import random
    from collections.abc import Sequence

    from fungi_hf.views.text import Spans, WordDeletion


class LateWords:
    """Views without some words' tokens.

    The words and the draw are those of the encoder's `word_deletion` views of the raw text. A
    token goes when all the words that it covers go; special tokens, punctuation and words beyond
    the encoder's length stay as they are. A blank that is a token of its own goes with the token
    after it. A view that would lose every token, or that loses none, is the original.
    """

    def __init__(
        self,
        deletion: WordDeletion,
        tokenizer: Any,
        max_length: int,
        blocks: int,
        *,
        one_row: bool,
    ) -> None:
        """Remember the parts; with `one_row` a view costs one token's row, not all of its tokens.

        Raises:
            ConfigError: If the tokenizer is not a fast one: only these say where tokens stand.
        """
        if not getattr(tokenizer, "is_fast", False):
            raise ConfigError(
                f"late_views needs to know where tokens stand in a text, which "
                f"{type(tokenizer).__name__} does not say; use a fast tokenizer or late_views=None"
            )
        self._deletion, self._tokenizer, self._max_length = deletion, tokenizer, max_length
        self._blocks, self._one_row = blocks, one_row

    def __call__(
        self,
        raws: Sequence[str],
        originals: Sequence[Prepared],
        generators: Sequence[random.Random],
    ) -> list[list[Prepared]]:
        """Give V views of every text."""
        uncut = encodings(self._tokenizer, raws, truncation=False)
        places = [i for i, whole in enumerate(uncut) if len(whole.ids) != originals[i].cost]
        long = [raws[i] for i in places]
        shortened = encodings(self._tokenizer, long, truncation=True, max_length=self._max_length)
        cut = dict(zip(places, shortened, strict=True))
        views = []
        for i, (raw, whole) in enumerate(zip(raws, uncut, strict=True)):
            spans = joined_words(raw, whole.word_ids, whole.offsets)
            drops = self._deletion.draw(len(spans), generators[i])
            kept = tokens_kept(raw, spans, drops, cut.get(i, whole))
            views.append([self._prepared(row, originals[i]) for row in kept])
        return views

    def _prepared(self, kept: np.ndarray, original: Prepared) -> Prepared:
        positions = kept.nonzero()[0]
        if len(positions) in (0, len(kept)):
            return original
        cost = 1 if self._one_row else len(positions)
        key = b"late%d:" % self._blocks + positions.tobytes()
        return Prepared(positions, cost, key, late=self._blocks)


def tokens_kept(text: str, spans: Spans, drops: Sequence[set[int]], encoding: Any) -> np.ndarray:
    """Give the tokens that stay, [V, T] bool, when each of V views loses some of the W words.

    The encoding is that of the text or of its beginning, T tokens; spans are those of all words.
    """
    offsets = np.asarray(encoding.offsets, dtype=np.int64).reshape(-1, 2)
    edges = np.asarray(spans, dtype=np.int64).reshape(-1, 2)
    # The words [first, last) that a token covers.
    first = edges[:, 1].searchsorted(offsets[:, 0], side="right")
    last = edges[:, 0].searchsorted(offsets[:, 1], side="left")
    last = np.where(offsets[:, 0] < offsets[:, 1], np.maximum(first, last), first)
    word_ids = encoding.word_ids
    for i in (last == first)[:-1].nonzero()[0][::-1]:
        invisible = not text[offsets[i, 0] : offsets[i, 1]].strip()
        if invisible and word_ids[i] is not None and word_ids[i] == word_ids[i + 1]:
            first[i], last[i] = first[i + 1], last[i + 1]
    gone = np.zeros((len(drops), len(spans) + 1), dtype=np.int64)
    for view, drop in enumerate(drops):
        gone[view, [word + 1 for word in drop]] = 1
    gone = gone.cumsum(1)
    n_words = last - first
    return (n_words == 0) | (gone[:, last] - gone[:, first] < n_words)
