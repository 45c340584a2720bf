"""Token counts of prompts, and the choice of the demonstrations that fit in a budget.

Demonstrations are kept whole or dropped whole; the nearest are asked first.
"""

from __future__ import annotations

import functools
import operator
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, TypeAlias

from fungi_hf.errors import DemoConfigError, InputError, InputTypeError
from fungi_hf.icl.audio import AudioClip

if TYPE_CHECKING:
    from collections.abc import Sequence

    from fungi_hf.icl.examples import Content

CountTokens: TypeAlias = Callable[..., int]


@dataclass(frozen=True, slots=True)
class TokenCounter:
    """How tokens are counted.

    Attributes:
        count: Text -> tokens, a pure function; None estimates 3.5 characters per token, rounded up.
        per_message: Tokens that a chat server adds to each message.
        per_prompt: Tokens that it adds once.
        takes_audio: `count` takes an `AudioClip` too; otherwise clips are not counted.
    """

    count: CountTokens | None = None
    per_message: int = 3
    per_prompt: int = 3
    takes_audio: bool = False
    _kept: Callable[[Content], int] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        if self.count is not None and not callable(self.count):
            raise InputTypeError(
                f"count_tokens is {type(self.count).__name__}; a function text -> int is needed"
            )
        for name in ("per_message", "per_prompt"):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int) or value < 0:
                raise DemoConfigError(f"{name} is {value!r}; it is a whole number >= 0")
        if self.takes_audio and self.count is None:
            raise DemoConfigError("takes_audio needs a count function")
        # Demonstrations repeat between queries, so their counts are kept.
        object.__setattr__(self, "_kept", functools.lru_cache(maxsize=1 << 16)(self.tokens))

    def prompt(self, contents: Sequence[Content]) -> int:
        """Return the tokens of a prompt of these messages, chat overhead included."""
        overhead = self.per_prompt + self.per_message * len(contents)
        return overhead + sum(map(self._kept, contents))

    def tokens(self, content: Content) -> int:
        """Return the tokens of one message's content.

        Raises:
            InputTypeError: If the count function returns something else than a whole number.
            InputError: If it returns a negative number.
        """
        if self.count is None:
            return 0 if isinstance(content, AudioClip) else -(-2 * len(content) // 7)
        if isinstance(content, AudioClip) and not self.takes_audio:
            return 0
        value = self.count(content)
        try:
            number = operator.index(value)
        except TypeError:
            number = None
        if number is None or isinstance(value, bool):
            raise InputTypeError(f"count_tokens returned {value!r}; a whole number is needed")
        if number < 0:
            raise InputError(f"count_tokens returned {number}; a number >= 0 is needed")
        return number

    def counts_exactly(self, contents: Sequence[Content]) -> bool:
        """Return whether the counts of these contents are exact."""
        is_audio = any(isinstance(content, AudioClip) for content in contents)
        return self.count is not None and (self.takes_audio or not is_audio)


def choose_that_fit(
    n: int, cost: Callable[[Sequence[int]], int], budget: int | None
) -> tuple[list[int], list[int]]:
    """Choose among n items, nearest first, those that fit; skip one that does not, and go on.

    Args:
        n: Number of items; item 0 is the nearest.
        cost: Tokens of the prompt that holds the given items (ascending numbers).
        budget: Tokens allowed; None allows any number.

    Returns:
        The kept items, ascending, and for each item the tokens over budget (0 if it was kept):
        an item is dropped only if the kept nearer items and it cost more than the budget.
    """
    everything = list(range(n))
    if budget is None or cost(everything) <= budget:
        return everything, [0] * n
    kept: list[int] = []
    over = []
    for item in everything:
        excess = cost([*kept, item]) - budget
        over.append(max(excess, 0))
        if excess <= 0:
            kept.append(item)
    return kept, over
