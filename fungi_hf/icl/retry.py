"""The one retry loop of a request: what to repeat, when, how often, and when to stop the run.

It knows status codes and headers, but no HTTP client and no real clock.
"""

from __future__ import annotations

import email.utils
import math
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

from fungi_hf.errors import LLMAuthError, LLMError, RequestFailedError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from fungi_hf.icl.limits import Gate, Limits

Kind = Literal["retry", "fatal", "auth", "refused", "overflow"]

_RETRIED = (408, 409, 429)
_BILLING_CODES = (
    "insufficient_quota",
    "billing_hard_limit_reached",
    "billing_not_active",
    "quota_exceeded",
)
_FIRST_WAIT_S, _LONGEST_WAIT_S = 0.5, 30.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Failure:
    """One attempt without an answer.

    Attributes:
        kind: "retry", "fatal" (the run stops), "auth" (the run stops, credentials), "refused" or
            "overflow" (this row is settled, others go on).
        message: What the server or the connection said.
        wait_s: Seconds that the server asked to wait, if it did.
        throttled: The server asked everybody to slow down.
        unreachable: No connection could be made.
    """

    kind: Kind
    message: str
    wait_s: float | None = None
    throttled: bool = False
    unreachable: bool = False


Payload: TypeAlias = dict[str, Any]


def judge(status: int, headers: Mapping[str, str], body: object, wall_s: float) -> Failure:
    """Decide what an HTTP error means.

    Args:
        status: The status code, 400 or higher.
        headers: The answer's headers; names in any case that the mapping understands.
        body: The decoded body, as far as it could be decoded.
        wall_s: Seconds since 1970, to read dates.

    Returns:
        The verdict.
    """
    error = body.get("error", body) if isinstance(body, Mapping) else None
    code, said = None, str(body or "")[:300]
    if isinstance(error, Mapping):
        code, said = error.get("code") or error.get("type"), str(error.get("message") or said)
    message = f"the server answered {status}: {said}" if said else f"the server answered {status}"
    if code in _BILLING_CODES:
        return Failure(kind="fatal", message=f"{message} ({code})")
    if status in (401, 403):
        return Failure(kind="auth", message=message)
    if status in _RETRIED or status >= 500:
        wait = server_wait(headers, wall_s)
        return Failure(kind="retry", message=message, wait_s=wait, throttled=status == 429)
    if code == "context_length_exceeded":
        return Failure(kind="overflow", message=message)
    if code == "content_filter":
        return Failure(kind="refused", message=message)
    return Failure(kind="fatal", message=message)


def server_wait(headers: Mapping[str, str], wall_s: float) -> float | None:
    """Give the seconds that a server asks to wait, or None if it does not say.

    `retry-after-ms` wins over `Retry-After`, which holds seconds or an HTTP date.

    Args:
        headers: The answer's headers.
        wall_s: Seconds since 1970.

    Returns:
        Seconds, at least 0.
    """
    for name, unit in (("retry-after-ms", 1e-3), ("retry-after", 1.0)):
        words = headers.get(name)
        if words is None:
            continue
        try:
            seconds = float(words) * unit
        except ValueError:
            seconds = _seconds_until(words, wall_s)
        if math.isfinite(seconds) and seconds >= 0:
            return seconds
    return None


def _seconds_until(words: str, wall_s: float) -> float:
    try:
        return max(0.0, email.utils.parsedate_to_datetime(words).timestamp() - wall_s)
    except (ValueError, TypeError, OverflowError):
        return math.nan


def backoff(attempt: int, draw: float) -> float:
    """Give our own wait in seconds after a failed attempt.

    Formula: u * min(30, 0.5 * 2^(attempt - 1)), u = 0.75 + draw / 4.

    Args:
        attempt: 1 for the first.
        draw: Uniform in [0, 1).

    Returns:
        Seconds.
    """
    return (0.75 + 0.25 * draw) * min(_LONGEST_WAIT_S, _FIRST_WAIT_S * 2.0 ** (attempt - 1))


async def persist(
    send: Callable[[], Awaitable[Payload | Failure]],
    gate: Gate,
    limits: Limits,
    charge: tuple[int, Callable[[Payload], int]],
    draw: Callable[[], float],
) -> tuple[Payload | Failure, int]:
    """Send until there is an answer, the row is settled, or the attempts are used up.

    Args:
        send: Makes one attempt.
        gate: Admits every attempt.
        limits: How often to try and how long to wait.
        charge: The estimated tokens of an attempt, and a function from an answer to its real ones.
        draw: Uniform numbers in [0, 1), to spread the waits.

    Returns:
        The answer, or a failure of kind "refused" or "overflow"; and the attempts made.

    Raises:
        LLMError: If the run has to stop: a fatal answer, or a wait above `limits.max_wait`.
        LLMAuthError: If credentials were refused.
        RequestFailedError: If the attempts are used up.
    """
    estimate, measure = charge
    for attempt in range(1, limits.max_attempts + 1):
        ticket = await gate.enter(estimate)
        used = estimate
        try:
            outcome = await send()
            if not isinstance(outcome, Failure):
                used = measure(outcome)
                return outcome, attempt
            wait = max(outcome.wait_s or 0.0, backoff(attempt, draw()))
            if outcome.throttled:  # before the slot is free, or a waiting worker slips through
                gate.close_for(wait)
        finally:
            gate.leave(ticket, used)
        if outcome.kind in ("refused", "overflow"):
            return outcome, attempt
        reason = _reason_to_stop(outcome, limits)
        if reason is not None and outcome.kind == "auth":
            raise LLMAuthError(reason)
        if reason is not None:
            raise LLMError(reason)
        if attempt == limits.max_attempts:
            raise RequestFailedError(outcome.message, attempt)
        await limits.clock.sleep(wait)
    raise RequestFailedError("no attempt is allowed", 0)


def _reason_to_stop(failure: Failure, limits: Limits) -> str | None:
    if failure.kind in ("auth", "fatal"):
        return failure.message
    if failure.wait_s is not None and failure.wait_s > limits.max_wait:
        until = time.gmtime(limits.clock.wall() + failure.wait_s)
        return (
            f"{failure.message}; it asks to wait {failure.wait_s:.0f} s, more than "
            f"max_wait={limits.max_wait:g} s; run again after "
            f"{time.strftime('%Y-%m-%d %H:%M:%SZ', until)}"
        )
    return None
