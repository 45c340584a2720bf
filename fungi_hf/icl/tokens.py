"""How the tokens of a prompt are counted or estimated."""

from __future__ import annotations

import functools
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from fungi_hf.checks import check_fields, check_integer
from fungi_hf.errors import DemoConfigError, InputError, InputTypeError
from fungi_hf.icl.audio import AudioClip

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from fungi_hf.icl.examples import Content


@dataclass(frozen=True, slots=True)
class TokenCounter:
    """How tokens are counted."""

    # text -> tokens, a pure function; None estimates 3.5 characters per token, rounded up
    count: Callable[..., int] | None = None
    per_message: int = 3  # tokens that a chat server adds to each message
    per_prompt: int = 3  # tokens that it adds once
    takes_audio: bool = False  # `count` takes an `AudioClip` too; otherwise clips are not counted
    _known: Callable[[Content], int] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        if self.count is not None and not callable(self.count):
            raise InputTypeError(
                f"count_tokens is {type(self.count).__name__}; a function text -> int is needed"
            )
        sizes = ("per_message", "per_prompt")
        check_fields(self, sizes, check_integer, 0, error=DemoConfigError)
        if self.takes_audio and self.count is None:
            raise DemoConfigError("takes_audio needs a count function")
        # Demonstrations repeat between queries, so their counts are kept.
        known = self.tokens if self.count is None else functools.lru_cache(1 << 16)(self.tokens)
        object.__setattr__(self, "_known", known)

    def prompt(self, contents: Sequence[Content]) -> tuple[int, bool]:
        """Return the tokens of a prompt, overhead included, and whether they are exact."""
        overhead = self.per_prompt + self.per_message * len(contents)
        has_clips = any(isinstance(content, AudioClip) for content in contents)
        is_exact = self.count is not None and (self.takes_audio or not has_clips)
        return overhead + sum(map(self._known, contents)), is_exact

    def tokens(self, content: Content) -> int:
        """Return the tokens of one message's content.

        A count function that returns no whole number raises `InputTypeError`, one that returns a
        negative number `InputError`.
        """
        if self.count is None:
            return 0 if isinstance(content, AudioClip) else -(-2 * len(content) // 7)
        if isinstance(content, AudioClip) and not self.takes_audio:
            return 0
        name, value = "what count_tokens returned", self.count(content)
        return check_integer(name, value, 0, error=InputError, type_error=InputTypeError)


ESTIMATE = TokenCounter()
