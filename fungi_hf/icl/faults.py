"""What a failed request means: for the row alone, for the run, or that it is sent again.

This is the one place that judges status codes, headers and errors. It knows no HTTP client.
"""

from __future__ import annotations

import email.utils
import json
import math
import re
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal

from fungi_hf.icl.reply import ended_by, first

if TYPE_CHECKING:
    from fungi_hf.icl.limits import Limits
    from fungi_hf.icl.reply import Payload

Kind = Literal["retry", "row", "fatal", "auth", "refused", "overflow"]

_BILLING_CODES = (
    "insufficient_quota", "billing_hard_limit_reached", "billing_not_active", "quota_exceeded",
)  # fmt: skip
# A gateway keeps the words and loses the code. Gemini says the first words of a minute's quota too,
# and then when to come again.
_SPENT = re.compile(
    r"insufficient_quota|exceeded your current quota|billing.(?:hard.limit|not.active)"
    r"|insufficient (?:credits?|balance)",
    re.IGNORECASE,
)
_WAIT = re.compile(r"try (?:again )?(?:in|after) (\d+(?:\.\d+)?) ?(ms|s)(?:ec(?:ond)?s?)?\b", re.I)
# A gateway hands on its provider's headers with a prefix.
_WAITS = [
    (prefix + name, unit)
    for prefix in ("", "llm_provider-")
    for name, unit in (("retry-after-ms", 1e-3), ("retry-after", 1.0))
]
_TOO_LONG = re.compile(
    r"context.?(?:length|window|size)|maximum (?:context|model|input|sequence) length"
    r"|(?:prompt|input|request|message)s? (?:is|are) too (?:long|large)|too many (?:input )?tokens"
    r"|exceeds? (?:the )?(?:available |maximum |max |model.s )*"
    r"(?:context|number of (?:input )?tokens|token|length)"
    r"|longer than the (?:maximum|context)|when context the overflows"
    r"|(?:payload|entity) too large|max_model_len|reduce the length|contextwindowexceeded",
    re.IGNORECASE,
)
_REFUSED = re.compile(
    r"content.?(?:filter|management|policy|moderation)|responsible.?ai|safety (?:system|setting)"
    r"|prohibited.?content|flagged|blocked by|block.?reason|jailbreak|contentpolicyviolation",
    re.IGNORECASE,
)
# What a 400 says, and what helps.
_REMEDIES = (
    (r"max_completion_tokens", "Sampling(token_param='max_completion_tokens'), on the command line "
     "--token-param max_completion_tokens; or max_tokens where that is refused"),
    (r"max_tokens", "Sampling(token_param='max_tokens'), --token-param max_tokens; or "
     "max_completion_tokens where that is refused"),
    (r"response_format|json_schema|json_object|guided|structured", "output='text', --output text"),
    (r"temperature", "Sampling(temperature=None), --temperature none"),
    (r"seed", "Sampling(seed=None)"),
    (r"logprobs", "Sampling(top_logprobs=None)"),
    (r"No connected db", "the master key: without a database this gateway knows no other"),
    (r"api.?version", "query={'api-version': ...}, --query api-version=..."),
)  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class Failure:
    """One attempt without an answer; `message` is what the server or the connection said.

    "fatal" and "auth" stop the run, "refused" and "overflow" settle the row. "row" is the row's own
    failure once the server has answered others, and stops the run before.
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
    if isinstance(body, str) and status < 500 and _is_page(body):
        title = re.search(r"<title>\s*(.*?)\s*</title>", body, re.IGNORECASE | re.DOTALL)
        words = f" ({title[1][:80]})" if title else ""
        message = f"the server answered {status} with an HTML page{words}; is base_url right?"
        return Failure(kind="fatal", message=message)
    if status >= 400:
        return judge(status, headers, body, limits)
    if not isinstance(body, dict):
        return Failure(kind="retry", message="unreadable answer: the body is not a JSON object")
    return _fault_inside(body, headers, limits) or body


def _is_page(body: str) -> bool:
    return body.lstrip("\ufeff \t\r\n")[:14].lower().startswith(("<!doctype html", "<html"))


def _fault_inside(body: Payload, headers: Mapping[str, str], limits: Limits) -> Failure | None:
    """Judge an error that a server put into an answer with status 200."""
    choice = first(body, "choices")
    error = body.get("error") or choice.get("error")
    ended = str(choice.get("finish_reason") or choice.get("native_finish_reason") or "").lower()
    if not error and ended_by(ended) == "error":
        error = {"message": "the model ended with an error"}
    if error:
        code = str(error.get("code") or error.get("status")) if isinstance(error, dict) else ""
        inside = int(code) if code.isdigit() and 400 <= int(code) < 600 else 502
        found = judge(inside, headers, {"error": error}, limits)
        return replace(found, message=f"in an answer with status 200, {found.message}")
    if choice:
        return None
    told = json.dumps(body)[:300]
    blocks = re.search(r'"(?:block_?reason|blockReason)": *"[^"]+"|"filtered": *true', told)
    if blocks:
        return Failure(kind="refused", message=f"the server blocked the prompt: {told}")
    return Failure(kind="retry", message=f"the answer has no choices: {told}")


def judge(status: int, headers: Mapping[str, str], body: object, limits: Limits) -> Failure:
    """Decide what an HTTP error from 400 upward means, however far its body could be decoded.

    A wait above `limits.max_wait` stops the run; the message says when to continue.
    """
    error = body.get("error", body) if isinstance(body, Mapping) else None
    code, said = None, str(body or "")[:300]
    if isinstance(error, Mapping):
        # A code that is a status says nothing more; the type may.
        code = error.get("type") if _is_status(error.get("code")) else error["code"]
        said = str(error.get("message") or error.get("detail") or said)
    elif isinstance(error, str) and error:
        said = error
    words, message = f"{code} {said}", f"the server answered {status}" + (said and f": {said}")
    if code in _BILLING_CODES:
        return Failure(kind="fatal", message=f"{message} ({code})")
    now = limits.clock.wall()
    wait = server_wait(headers, now, said)
    if status == 402 or (status in (403, 429) and wait is None and _SPENT.search(said)):
        return Failure(kind="fatal", message=message)
    if status in (401, 403) and not _REFUSED.search(words):
        return Failure(kind="auth", message=message)
    if status not in (408, 409, 429) and status < 500:
        return Failure(kind=_kind(status, words), message=message + _remedy(status, said))
    if wait is not None and wait > limits.max_wait:
        until = time.strftime("%Y-%m-%d %H:%M:%SZ", time.gmtime(now + wait))
        message += f"; it asks to wait {wait:.0f} s, more than max_wait={limits.max_wait:g} s"
        return Failure(kind="fatal", message=f"{message}; run again after {until}")
    if wait is None and status == 429:
        wait = 0.5  # the client's own first wait
    return Failure(kind="retry", message=message, wait_s=wait)


def _is_status(code: object) -> bool:
    return not code or str(code).isdigit()  # a gateway's code is the status once more


def _kind(status: int, words: str) -> Kind:
    if _TOO_LONG.search(words) or status == 413:
        return "overflow"
    return "refused" if _REFUSED.search(words) else "row"


def _remedy(status: int, said: str) -> str:
    """Say what helps against a refusal that everybody meets."""
    if status in (404, 405):
        return (
            "; the base URL usually ends in /v1, and the model's name must be one of the server's"
        )
    found = next((what for words, what in _REMEDIES if re.search(words, said)), "")
    return f"; try {found}" if found and status in (400, 422) else ""


def server_wait(headers: Mapping[str, str], wall_s: float, said: str = "") -> float | None:
    """Give the seconds, at least 0, that a server asks to wait at `wall_s` seconds since 1970.

    `retry-after-ms` wins over `Retry-After` (seconds or an HTTP date), a server's own header over
    its provider's, and headers over the words `said` ("try again in 2 s"). None if none says.
    """
    for name, unit in _WAITS:
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
    found = _WAIT.search(said)
    return float(found[1]) * (1e-3 if found[2].lower() == "ms" else 1.0) if found else None
