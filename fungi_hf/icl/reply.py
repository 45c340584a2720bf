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
    from collections.abc import Sequence

    from fungi_hf.icl.limits import Limits

Kind = Literal["retry", "fatal", "auth", "refused", "overflow"]
Payload: TypeAlias = dict[str, Any]

_BILLING_CODES = (
    "insufficient_quota", "billing_hard_limit_reached", "billing_not_active", "quota_exceeded",
)  # fmt: skip
_SETTLING: dict[object, Kind] = {"context_length_exceeded": "overflow", "content_filter": "refused"}


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
    """One attempt without an answer; `message` is what the server or the connection said.

    "fatal" and "auth" stop the run, "refused" and "overflow" settle the row.
    """

    kind: Kind
    message: str
    wait_s: float | None = None  # in which the server wants no request at all, if it said so


def read_answer(
    status: int, headers: Mapping[str, str], content: bytes, limits: Limits
) -> Payload | Failure:
    """Give the decoded completion of an HTTP answer, or what went wrong."""
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
    usage = _get(payload, "usage", dict, {})
    details = _get(usage, "prompt_tokens_details", dict, {})
    return Usage(
        input_tokens=_get(usage, "prompt_tokens", int, 0),
        output_tokens=_get(usage, "completion_tokens", int, 0),
        cached_input_tokens=_get(details, "cached_tokens", int, 0),
    )


def read_reply(payload: Mapping[str, Any], attempts: int = 0) -> Reply:
    """Read a chat completion, whatever the server left out; without label scores."""
    choice = _first(payload, "choices")
    message = _get(choice, "message", dict, {})
    return Reply(
        content=_get(message, "content", str),
        finish_reason=_get(choice, "finish_reason", str) or "stop",
        refusal=_get(message, "refusal", str),
        usage=read_usage(payload),
        model=_get(payload, "model", str),
        system_fingerprint=_get(payload, "system_fingerprint", str),
        attempts=attempts,
    )


def first_token_scores(
    payload: Mapping[str, Any], surfaces: Sequence[str]
) -> tuple[float, ...] | None:
    """Read [C] log probabilities of labels from the alternatives of an answer's first token.

    A label that is not among them gets the smallest one listed, which bounds its own from above.
    None if an alternative fits several labels, or none fits any.
    """
    first = _first(_get(_first(payload, "choices"), "logprobs", dict, {}), "content")
    scores: dict[int, float] = {}
    listed = []
    for entry in _get(first, "top_logprobs", list, ()):
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


def _first(source: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    values = _get(source, name, list)
    return values[0] if values and isinstance(values[0], dict) else {}
