"""What a server answered and what it cost, whatever words it has for that."""

from __future__ import annotations

import math
import re
from dataclasses import asdict, dataclass, field, replace
from typing import TYPE_CHECKING, Any, TypeAlias

from fungi_hf.checks import check_number

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

Payload: TypeAlias = dict[str, Any]

# Other servers' words for why an answer ended, in lower case.
_ENDS = {
    "stop": "stop eos eos_token stop_sequence end_turn end_of_turn complete completed done "
    "finish_reason_stop stop_token normal",
    "length": "length max_tokens model_length max_length max_output_tokens max_new_tokens "
    "finish_reason_max_tokens token_limit",
    "content_filter": "content_filter content_filtered safety recitation blocklist spii "
    "prohibited_content finish_reason_safety refusal guardrail_intervened moderation",
    "error": "error",
}
_ENDS_BY_WORD = {word: end for end, words in _ENDS.items() for word in words.split()}
_OPENED = re.compile(
    r"\s*(?:<(think|thinking|thought|reasoning|reflection)>|\[(THINK)\])", re.IGNORECASE
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Usage:
    """Tokens that were billed."""

    input_tokens: int = 0  # all of them, the cached ones included
    output_tokens: int = 0
    cached_input_tokens: int = 0  # those that the server says it read from its prompt cache

    def __add__(self, other: Usage) -> Usage:
        return Usage(**{name: n + getattr(other, name) for name, n in asdict(self).items()})

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
        """Give the price of these tokens; the arguments are prices of a million of each.

        `cached_input` is the input price if not given. A price that is negative or not finite
        raises `ConfigError`.
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
            prompt is too long), in whatever words the server says them; else the server's word.
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
        if self.content and (opened := _OPENED.match(self.content)):
            closing = f"</{opened[1]}>" if opened[1] else "[/THINK]"
            if closing.lower() not in self.content.lower():
                return "length"  # cut off among its thoughts
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


def ended_by(word: str) -> str:
    """Give why an answer ended as "stop", "length", "content_filter", "error"; else the word."""
    return _ENDS_BY_WORD.get(word.lower(), word)


def read_usage(payload: Mapping[str, Any]) -> Usage:
    """Read what a chat completion cost; zero where the server does not say."""
    usage = _get(payload, "usage", dict, {})
    details = _get(usage, "prompt_tokens_details", dict) or _get(
        usage, "input_tokens_details", dict, {}
    )
    return Usage(
        input_tokens=_count(usage, "prompt_tokens", "input_tokens", "prompt_eval_count"),
        output_tokens=_count(usage, "completion_tokens", "output_tokens", "eval_count"),
        cached_input_tokens=_count(details, "cached_tokens"),
    )


def _count(source: Mapping[str, Any], *names: str) -> int:
    """Give the first of these that is a number of tokens, also as a float; else 0."""
    for name in names:
        value = source.get(name)
        if isinstance(value, (int, float)) and not isinstance(value, bool) and 0 <= value < 1e12:
            return round(value)
    return 0


def read_reply(payload: Mapping[str, Any], attempts: int = 0) -> Reply:
    """Read a chat completion, whatever the server left out; without label scores."""
    choice = first(payload, "choices")
    message = _get(choice, "message", dict, {})
    content, refusal = _words(message.get("content"))
    ended = _get(choice, "finish_reason", str) or "stop"
    return Reply(
        content=_get(choice, "text", str) if content is None else content,
        finish_reason=ended_by(ended),
        refusal=_get(message, "refusal", str) or refusal,
        usage=read_usage(payload),
        model=_get(payload, "model", str),
        system_fingerprint=_get(payload, "system_fingerprint", str),
        attempts=attempts,
    )


def _words(content: object) -> tuple[str | None, str | None]:
    """Give the text of a message's content, and its refusal; parts that think are left out."""
    if not isinstance(content, list):
        return (content if isinstance(content, str) else None), None
    parts = [part for part in content if isinstance(part, dict)]
    texts = [part for part in content if isinstance(part, str)]
    texts += [
        str(part["text"])
        for part in parts
        if part.get("type", "text") in ("text", "output_text") and isinstance(part.get("text"), str)
    ]
    refusals = [part["refusal"] for part in parts if isinstance(part.get("refusal"), str)]
    return "".join(texts), "\n".join(refusals) or None


def first_token_scores(
    payload: Mapping[str, Any], surfaces: Sequence[str]
) -> tuple[float, ...] | None:
    """Read [C] log probabilities of labels from the alternatives of an answer's first token.

    A label that is not among them gets the smallest one listed, which bounds its own from above.
    None if an alternative fits several labels, or none fits any.
    """
    token_scores = first(_get(first(payload, "choices"), "logprobs", dict, {}), "content")
    scores: dict[int, float] = {}
    listed = []
    for entry in _get(token_scores, "top_logprobs", list, ()):
        value = entry.get("logprob") if isinstance(entry, dict) else None
        if not isinstance(value, (int, float)):
            continue
        token = str(entry.get("token", "")).strip().casefold()
        listed.append(float(value))
        fits = [i for i, s in enumerate(surfaces) if token and s.casefold().startswith(token)]
        exact = [i for i in fits if surfaces[i].casefold() == token]
        if len(exact or fits) > 1:
            return None
        for label in exact or fits:
            scores[label] = max(float(value), scores.get(label, -math.inf))
    if not scores:
        return None
    return tuple(scores.get(label, min(listed)) for label in range(len(surfaces)))


def _get(source: Mapping[str, Any], name: str, kind: type, default: Any = None) -> Any:
    # A member of decoded JSON if it has that very type (True is no int), else the default.
    value = source.get(name)
    return value if type(value) is kind else default


def first(source: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    """Give the first object of a list in decoded JSON; empty if there is none."""
    values = _get(source, name, list)
    return values[0] if values and isinstance(values[0], dict) else {}
