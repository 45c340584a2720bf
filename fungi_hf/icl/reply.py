"""What a language model answered, and what it cost."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field, replace
from typing import TYPE_CHECKING, Any

from fungi_hf.checks import check_number

if TYPE_CHECKING:
    from collections.abc import Mapping

LABEL_KEY = "label"


@dataclass(frozen=True, slots=True, kw_only=True)
class Usage:
    """Tokens that were billed.

    Attributes:
        input_tokens: All input tokens, those read from the provider's prompt cache included.
        output_tokens: Generated tokens.
        cached_input_tokens: The part of the input that the server says was cached.
    """

    input_tokens: int = 0
    output_tokens: int = 0
    cached_input_tokens: int = 0

    def __add__(self, other: Usage) -> Usage:
        return Usage(
            input_tokens=self.input_tokens + other.input_tokens,
            output_tokens=self.output_tokens + other.output_tokens,
            cached_input_tokens=self.cached_input_tokens + other.cached_input_tokens,
        )

    @property
    def total_tokens(self) -> int:
        """Input and output together."""
        return self.input_tokens + self.output_tokens

    def cost(
        self,
        *,
        input: float,  # noqa: A002 - the word on every price list
        output: float,
        cached_input: float | None = None,
    ) -> float:
        """Give the price of these tokens, in the currency of the prices.

        A price that is negative or not finite raises `ConfigError`.

        Args:
            input: Price of a million input tokens.
            output: Price of a million output tokens.
            cached_input: Price of a million cached input tokens; the input price if not given.
        """
        cached = input if cached_input is None else cached_input
        for name, price in (("input", input), ("output", output), ("cached_input", cached)):
            check_number(f"the price of {name}", price, 0)
        fresh = self.input_tokens - self.cached_input_tokens
        priced = fresh * input + self.cached_input_tokens * cached + self.output_tokens * output
        return priced / 1e6

    def to_dict(self) -> dict[str, int]:
        """Give the three counts by name."""
        return asdict(self)


@dataclass(frozen=True, slots=True, kw_only=True)
class Reply:
    """One answer.

    Attributes:
        content: The words; None or empty if there were none.
        finish_reason: "stop", "length", "content_filter", "overflow" (the server said that the
            prompt is too long), or whatever the server says.
        refusal: The model's refusal, if it refused.
        usage: What was billed for this answer, all its attempts together; zero from a cache.
        model: The model that the server says has answered.
        system_fingerprint: The server's configuration, if it says so.
        label_scores: [C] log probabilities by label id, if they were computed.
        from_cache: Nothing was sent for this answer.
        attempts: Requests that were sent.
    """

    content: str | None = None
    finish_reason: str = "stop"
    refusal: str | None = None
    usage: Usage = field(default_factory=Usage)
    model: str | None = None
    system_fingerprint: str | None = None
    label_scores: tuple[float, ...] | None = None
    from_cache: bool = False
    attempts: int = 0

    @property
    def failure(self) -> str | None:
        """The row status of an answer that cannot be read for a label; None if it can."""
        if self.refusal or self.finish_reason == "content_filter":
            return "refused"
        if self.finish_reason in ("length", "overflow"):
            return self.finish_reason
        return None if self.content and self.content.strip() else "empty"

    def free(self) -> Reply:
        """Give the same answer as one that cost nothing."""
        return replace(self, usage=Usage(), from_cache=True, attempts=0)

    def after(self, earlier: Reply) -> Reply:
        """Give this answer with the cost of an earlier one, which it replaces, added."""
        attempts = earlier.attempts + self.attempts
        return replace(self, usage=earlier.usage + self.usage, attempts=attempts)


def read_usage(payload: Mapping[str, Any]) -> Usage:
    """Read what a chat completion cost; zero where the server does not say."""
    usage = _mapping(payload.get("usage"))
    details = _mapping(usage.get("prompt_tokens_details"))
    return Usage(
        input_tokens=_count(usage.get("prompt_tokens")),
        output_tokens=_count(usage.get("completion_tokens")),
        cached_input_tokens=_count(details.get("cached_tokens")),
    )


def read_reply(payload: Mapping[str, Any], attempts: int = 0) -> Reply:
    """Read a chat completion, whatever the server left out; without label scores.

    Args:
        payload: The decoded JSON body.
        attempts: Requests that were sent for it.
    """
    choice = _first(payload.get("choices"))
    message = _mapping(choice.get("message"))
    return Reply(
        content=_text(message.get("content")),
        finish_reason=_text(choice.get("finish_reason")) or "stop",
        refusal=_text(message.get("refusal")),
        usage=read_usage(payload),
        model=_text(payload.get("model")),
        system_fingerprint=_text(payload.get("system_fingerprint")),
        attempts=attempts,
    )


def read_alternatives(payload: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """Give the alternatives of the first token, with their log probabilities, if there are any."""
    choice = _first(payload.get("choices"))
    token = _first(_mapping(choice.get("logprobs")).get("content"))
    listed = token.get("top_logprobs")
    return [_mapping(entry) for entry in listed] if isinstance(listed, list) else []


def _first(values: object) -> Mapping[str, Any]:
    return _mapping(values[0]) if isinstance(values, list) and values else {}


def _mapping(value: object) -> Mapping[str, Any]:
    return value if isinstance(value, dict) else {}


def _text(value: object) -> str | None:
    return value if isinstance(value, str) else None


def _count(value: object) -> int:
    return value if isinstance(value, int) and not isinstance(value, bool) else 0
