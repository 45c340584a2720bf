"""What a server answered and what it cost, or what its failure means for the row and the run.

This is the one place that judges status codes, headers and bodies. It knows no HTTP client.
"""

from __future__ import annotations

import email.utils
import json
import math
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

from fungi_hf.checks import check_number

if TYPE_CHECKING:
    from fungi_hf.icl.limits import Limits

Kind = Literal["retry", "fatal", "auth", "refused", "overflow"]
Payload: TypeAlias = dict[str, Any]

_BILLING_CODES = (
    "insufficient_quota", "billing_hard_limit_reached", "billing_not_active", "quota_exceeded",
)  # fmt: skip
_SETTLING: dict[object, Kind] = {"context_length_exceeded": "overflow", "content_filter": "refused"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Usage:
    """Tokens that were billed.

    Attributes:
        input_tokens: All input tokens, the cached ones included.
        output_tokens: Generated tokens.
        cached_input_tokens: Those that the server says it read from its prompt cache.
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


@dataclass(frozen=True, slots=True, kw_only=True)
class Failure:
    """One attempt without an answer.

    Attributes:
        kind: "retry", "fatal" (the run stops), "auth" (the run stops, credentials), "refused" or
            "overflow" (this row is settled, others go on).
        message: What the server or the connection said.
        wait_s: Seconds in which the server wants no request at all; None if it named none.
        unreachable: No connection could be made.
    """

    kind: Kind
    message: str
    wait_s: float | None = None
    unreachable: bool = False


def read_answer(
    status: int, headers: Mapping[str, str], content: bytes, limits: Limits
) -> Payload | Failure:
    """Give the decoded completion of a whole HTTP answer, or what went wrong.

    `headers` is read by lower-case names, `content` is the decompressed body, `limits` gives the
    longest wait and the clock to read dates by.
    """
    try:
        body = json.loads(content)
    except ValueError:
        body = content.decode("utf-8", "replace")
    if status >= 400:
        return judge(status, headers, body, limits)
    if isinstance(body, dict):
        return body
    return Failure(kind="retry", message="unreadable answer: the body is not a JSON object")


def judge(status: int, headers: Mapping[str, str], body: object, limits: Limits) -> Failure:
    """Decide what an HTTP error from 400 upward means, however far its body could be decoded.

    A wait above `limits.max_wait` stops the run; the message says when to continue.
    """
    error = body.get("error", body) if isinstance(body, Mapping) else None
    code, said = None, str(body or "")[:300]
    if isinstance(error, Mapping):
        code, said = error.get("code") or error.get("type"), str(error.get("message") or said)
    message = f"the server answered {status}" + (said and f": {said}")
    if code in _BILLING_CODES:
        return Failure(kind="fatal", message=f"{message} ({code})")
    if status in (401, 403):
        return Failure(kind="auth", message=message)
    if status not in (408, 409, 429) and status < 500:
        return Failure(kind=_SETTLING.get(code, "fatal"), message=message)
    now = limits.clock.wall()
    wait = server_wait(headers, now)
    if wait is not None and wait > limits.max_wait:
        until = time.strftime("%Y-%m-%d %H:%M:%SZ", time.gmtime(now + wait))
        message += f"; it asks to wait {wait:.0f} s, more than max_wait={limits.max_wait:g} s"
        return Failure(kind="fatal", message=f"{message}; run again after {until}")
    if wait is None and status == 429:
        wait = 0.5  # the client's own first wait
    return Failure(kind="retry", message=message, wait_s=wait)


def server_wait(headers: Mapping[str, str], wall_s: float) -> float | None:
    """Give the seconds, at least 0, that a server asks to wait at `wall_s` seconds since 1970.

    `retry-after-ms` wins over `Retry-After` (seconds or an HTTP date). None if neither says.
    """
    for name, unit in (("retry-after-ms", 1e-3), ("retry-after", 1.0)):
        words = headers.get(name, "")
        try:
            seconds = float(words) * unit
        except ValueError:
            try:
                date = email.utils.parsedate_to_datetime(words)
                seconds = max(0.0, date.timestamp() - wall_s)
            except (ValueError, TypeError, OverflowError):
                continue
        if math.isfinite(seconds) and seconds >= 0:
            return seconds
    return None


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
    """Read a chat completion, whatever the server left out; without label scores."""
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
