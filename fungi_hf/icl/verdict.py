"""Decide what a server's answer means: an answer, another attempt, a settled row, or the end.

It knows status codes, headers and bodies, but no HTTP client. It is the one place that judges.
"""

from __future__ import annotations

import email.utils
import json
import math
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

if TYPE_CHECKING:
    from fungi_hf.icl.limits import Limits

Kind = Literal["retry", "fatal", "auth", "refused", "overflow"]
Payload: TypeAlias = dict[str, Any]

_RETRIED = (408, 409, 429)
_BILLING_CODES = (
    "insufficient_quota", "billing_hard_limit_reached", "billing_not_active", "quota_exceeded",
)  # fmt: skip
_SETTLING_CODES: dict[object, Kind] = {
    "context_length_exceeded": "overflow",
    "content_filter": "refused",
}
_SLOW_DOWN_S = 0.5  # after a 429 that names no wait: the client's own first wait


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

    Args:
        status: The status code.
        headers: The answer's headers; names in any case that the mapping understands.
        content: The body as it came, decompressed.
        limits: The longest wait, and the clock to read dates by.
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
    """Decide what an HTTP error means, from 400 upward, however far its body could be decoded.

    A server that asks for a wait above `limits.max_wait` stops the run; the message says when to
    continue.
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
    if status not in _RETRIED and status < 500:
        return Failure(kind=_SETTLING_CODES.get(code, "fatal"), message=message)
    now = limits.clock.wall()
    wait = server_wait(headers, now)
    if wait is not None and wait > limits.max_wait:
        until = time.strftime("%Y-%m-%d %H:%M:%SZ", time.gmtime(now + wait))
        message += f"; it asks to wait {wait:.0f} s, more than max_wait={limits.max_wait:g} s"
        return Failure(kind="fatal", message=f"{message}; run again after {until}")
    if wait is None and status == 429:
        wait = _SLOW_DOWN_S
    return Failure(kind="retry", message=message, wait_s=wait)


def server_wait(headers: Mapping[str, str], wall_s: float) -> float | None:
    """Give the seconds, at least 0, that a server asks to wait; None if it does not say.

    `retry-after-ms` wins over `Retry-After`, which holds seconds or an HTTP date; `wall_s` is the
    present in seconds since 1970.
    """
    for name, unit in (("retry-after-ms", 1e-3), ("retry-after", 1.0)):
        words = headers.get(name, "")
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
