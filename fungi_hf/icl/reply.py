"""What a server answered and what it cost, or what its failure means for the row and the run.

This is the one place that judges status codes, headers and bodies. It knows no HTTP client.
"""

from __future__ import annotations

import email.utils
import json
import math
import re
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

from fungi_hf.checks import check_number

if TYPE_CHECKING:
    from collections.abc import Sequence

    from fungi_hf.icl.limits import Limits

Kind = Literal["retry", "row", "fatal", "auth", "refused", "overflow"]
Payload: TypeAlias = dict[str, Any]

_BILLING_CODES = (
    "insufficient_quota", "billing_hard_limit_reached", "billing_not_active", "quota_exceeded",
)  # fmt: skip
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
    (r"api.?version", "query={'api-version': ...}, --query api-version=..."),
)  # fmt: skip
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
    choice = _first(body, "choices")
    error = body.get("error") or choice.get("error")
    ended = str(choice.get("finish_reason") or choice.get("native_finish_reason") or "").lower()
    if not error and _ENDS_BY_WORD.get(ended) == "error":
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
        code, said = error.get("code") or error.get("type"), str(error.get("message") or said)
    message = f"the server answered {status}" + (said and f": {said}")
    if code in _BILLING_CODES:
        return Failure(kind="fatal", message=f"{message} ({code})")
    if status == 402:
        return Failure(kind="fatal", message=message)
    if status in (401, 403) and not _REFUSED.search(f"{code} {said}"):
        return Failure(kind="auth", message=message)
    if status not in (408, 409, 429) and status < 500:
        return Failure(
            kind=_kind(status, f"{code} {said}"), message=message + _remedy(status, said)
        )
    now = limits.clock.wall()
    wait = server_wait(headers, now)
    if wait is not None and wait > limits.max_wait:
        until = time.strftime("%Y-%m-%d %H:%M:%SZ", time.gmtime(now + wait))
        message += f"; it asks to wait {wait:.0f} s, more than max_wait={limits.max_wait:g} s"
        return Failure(kind="fatal", message=f"{message}; run again after {until}")
    if wait is None and status == 429:
        wait = 0.5  # the client's own first wait
    return Failure(kind="retry", message=message, wait_s=wait)


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
    choice = _first(payload, "choices")
    message = _get(choice, "message", dict, {})
    content, refusal = _words(message.get("content"))
    ended = _get(choice, "finish_reason", str) or "stop"
    return Reply(
        content=_get(choice, "text", str) if content is None else content,
        finish_reason=_ENDS_BY_WORD.get(ended.lower(), ended),
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
