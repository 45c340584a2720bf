"""What a free answer is worth beside its accepted texts: a number from 0 to 1.

The definitions are those of SQuAD's evaluation (Rajpurkar et al. 2016), made for any script.
"""

from __future__ import annotations

import functools
import re
import string
import unicodedata
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Final, TypeAlias

from fungi_hf.icl.scripts import UNSPACED

Metric: TypeAlias = Callable[[str, Sequence[str]], float]

_ARTICLES = re.compile(r"\b(?:a|an|the)\b")
_TOKENS = re.compile(rf"[{UNSPACED}]|[^\s{UNSPACED}]+")


@functools.lru_cache(1 << 16)
def normalise(text: str) -> str:
    """Return a text as SQuAD compares it.

    NFKC and case folding; punctuation dropped (Unicode's category P, and `$+<=>^`|~`), with nothing
    in its place; the words a, an, the dropped; blanks collapsed. A text of nothing but these keeps
    its articles, or else its punctuation, so that the answer "A" is not empty. "-5" becomes "5" and
    "3.14" becomes "314": "exact" or an own function is for numbers.
    """
    folded = unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", text).casefold())
    words = "".join(letter for letter in folded if not _is_punctuation(letter))
    for kept in (_ARTICLES.sub(" ", words), words, folded):
        if plain := " ".join(kept.split()):
            return plain
    return ""


def exact(answer: str, targets: Sequence[str]) -> float:
    """Return 1.0 if the answer is one of the texts, letter by letter, outer blanks aside."""
    return float(answer.strip() in [target.strip() for target in targets])


def normalised(answer: str, targets: Sequence[str]) -> float:
    """Return 1.0 if the answer is one of the texts after `normalise`."""
    return float(normalise(answer) in map(normalise, targets))


def f1(answer: str, targets: Sequence[str]) -> float:
    """Return the best F1 of the answer's tokens and those of a text.

    Tokens are what blanks separate after `normalise`; a letter of a script without blanks is a
    token. Formula: 2 o / (n + m), o the tokens in common with repetitions, n and m all tokens.
    """
    return max(_token_f1(tokens(answer), tokens(target)) for target in targets)


METRICS: Final[dict[str, Metric]] = {"exact": exact, "normalised": normalised, "f1": f1}


def tokens(text: str) -> list[str]:
    """Return the tokens that `f1` compares."""
    return _TOKENS.findall(normalise(text))


def _token_f1(said: list[str], wanted: list[str]) -> float:
    shared = (Counter(said) & Counter(wanted)).total()
    return 2 * shared / (len(said) + len(wanted)) if shared else 0.0


def _is_punctuation(letter: str) -> bool:
    return letter in string.punctuation or unicodedata.category(letter).startswith("P")
