"""BM25 over a pool of texts: inverted lists of weights that are computed once.

Formula: s(q, d) = sum over the distinct tokens w of q of
idf(w) tf(w, d) (k1 + 1) / (tf(w, d) + k1 (1 - b + b len(d) / avglen)), with
idf(w) = ln(1 + (N - n_w + 0.5) / (n_w + 0.5)); all statistics come from the pool.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import numpy as np

from fungi_hf.errors import InputTypeError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    import numpy.typing as npt

    Tokens = Callable[[str], Iterable[str]]

_WORD = re.compile(r"[a-z0-9]+")


def words(text: str) -> list[str]:
    """Return the runs of ASCII letters and digits of the lowered text."""
    return _WORD.findall(text.lower())


class InvertedIndex:
    """The pool's tokens with the rows that hold them and their weights there."""

    def __init__(self, texts: Sequence[str], k1: float, b: float, tokens: Tokens) -> None:
        """Count and weigh the pool.

        Args:
            texts: N texts.
            k1: Saturation of repeated tokens.
            b: Strength of the length correction, 0 to 1.
            tokens: Text -> its tokens.
        """
        self._tokens = tokens
        self.n_rows = len(texts)
        vocabulary: dict[str, int] = {}
        rows: list[int] = []
        codes: list[int] = []
        lengths = np.zeros(len(texts))
        for row, text in enumerate(texts):
            found = self._listed(text)
            lengths[row] = len(found)
            codes.extend(vocabulary.setdefault(token, len(vocabulary)) for token in found)
            rows.extend([row] * len(found))
        self._vocabulary = vocabulary
        # One number per (token, row) pair; sorted, so that each token's rows lie together.
        pairs, counts = np.unique(
            np.array(codes, dtype=np.int64) * max(len(texts), 1) + np.array(rows, dtype=np.int64),
            return_counts=True,
        )
        owners, self._rows = np.divmod(pairs, max(len(texts), 1))
        held_by = np.bincount(owners, minlength=len(vocabulary))  # n_w
        self._starts = np.concatenate([[0], np.cumsum(held_by)])
        idf = np.log(1 + (len(texts) - held_by + 0.5) / (held_by + 0.5))
        average = lengths.mean() or 1.0
        norm = k1 * (1 - b + b * lengths / average)
        self._weights = idf[owners] * counts * (k1 + 1) / (counts + norm[self._rows])

    def scores(self, queries: Sequence[str]) -> npt.NDArray[np.float64]:
        """Return the scores of all rows, [n, N]; 0 where no token is shared."""
        known = self._vocabulary
        scores = np.zeros((len(queries), self.n_rows))
        for row, query in enumerate(queries):
            # In order of first use, not of hashing, so that every process adds in the same order.
            codes = [known[token] for token in dict.fromkeys(self._listed(query)) if token in known]
            held = [slice(self._starts[code], self._starts[code + 1]) for code in codes]
            if held:
                rows = np.concatenate([self._rows[part] for part in held])
                weights = np.concatenate([self._weights[part] for part in held])
                scores[row] = np.bincount(rows, weights, self.n_rows)
        return scores

    def n_unknown(self, queries: Sequence[str]) -> int:
        """Return the number of queries that share no token with the pool."""
        known = self._vocabulary
        return sum(not any(token in known for token in self._listed(q)) for q in queries)

    def _listed(self, text: str) -> list[str]:
        found = self._tokens(text)
        if isinstance(found, str):
            raise InputTypeError("tokens gave one string; it returns a list of tokens")
        return list(found)
