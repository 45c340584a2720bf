"""What the loopback server makes of a request: it is checked as by a strict server, and answered.

An answer is made from the demonstrations that are read out of the prompt, so it is right only if
formatting, order, transport and parsing all were. No socket is known here.
"""

from __future__ import annotations

import base64
import binascii
import itertools
import json
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeAlias

from fungi_hf.checks import check_choice
from fungi_hf.errors import ConfigError
from fungi_hf.icl.sampling import schema_fits

if TYPE_CHECKING:
    from collections.abc import Mapping

Json: TypeAlias = dict[str, Any]

_ROLES = ("system", "developer", "user", "assistant")
_KINDS: dict[tuple[type, ...], str] = {
    (str,): "model user service_tier reasoning_effort",
    (bool,): "stream logprobs store",
    (int,): "n max_tokens max_completion_tokens seed top_logprobs",
    (int, float): "temperature top_p presence_penalty frequency_penalty",
    (list,): "messages modalities",
    (dict,): "response_format logit_bias metadata",
    (str, list): "stop",
}
_FIELDS = {name: kinds for kinds, names in _KINDS.items() for name in names.split()}


class BadRequestError(ValueError):
    """The request would get status 400; the text is the server's message."""


def _need(holds: object, message: str) -> None:
    if not holds:
        raise BadRequestError(message)


def check_request(body: object) -> Json:
    """Give the body back if a strict server would accept it.

    Raises:
        BadRequestError: For anything that such a server refuses.
    """
    if not isinstance(body, dict):
        raise BadRequestError("the body must be a JSON object")
    for name, value in body.items():
        _need(name in _FIELDS, f"Unrecognized request argument supplied: {name}")
        is_bool, kinds = isinstance(value, bool), _FIELDS[name]
        fits = is_bool == (kinds == (bool,)) and isinstance(value, kinds)
        _need(fits, f"Invalid type for '{name}': got {type(value).__name__}")
    for name in ("model", "messages"):
        _need(name in body, f"Missing required parameter: '{name}'")
    _need(not body.get("stream"), "stream is not supported by this server")
    _need(body.get("n", 1) == 1, "n must be 1")
    top = body.get("top_logprobs")
    in_range = top is None or (body.get("logprobs") and 0 <= top <= 20)
    _need(in_range, "top_logprobs must be between 0 and 20 and needs logprobs=true")
    _need(body["messages"], "messages must not be empty")
    for position, message in enumerate(body["messages"]):
        _check_message(f"messages[{position}]", message)
    if "response_format" in body:
        _check_format(body["response_format"])
    return body


def _check_message(where: str, message: Any) -> None:
    role = message.get("role") if isinstance(message, dict) else None
    _need(role in _ROLES, f"{where}.role must be one of {', '.join(_ROLES)}")
    extra = sorted(set(message) - {"role", "content", "name"})
    _need(not extra, f"{where} has unknown fields: {', '.join(extra)}")
    content = message.get("content")
    if isinstance(content, list) and role == "user":
        _need(content, f"{where}.content must not be an empty list")
        for part in content:
            _check_part(where, part)
    else:
        _need(isinstance(content, str), f"{where}.content must be a string")


def _check_part(where: str, part: Any) -> None:
    kind = part.get("type") if isinstance(part, dict) else None
    is_part = isinstance(part, dict) and set(part) == {"type", kind}
    _need(is_part, f"{where}: a content part has the fields type and its own name")
    if kind == "text":
        _need(isinstance(part[kind], str), f"{where}: the text of a part must be a string")
        return
    _need(kind == "input_audio", f"{where}: content parts of type {kind!r} are not supported")
    where, audio = f"{where}.input_audio", part[kind]
    has_both = isinstance(audio, dict) and set(audio) == {"data", "format"}
    _need(has_both, f"{where} must have the fields data and format")
    _need(audio["format"] in ("wav", "mp3"), f"{where}.format must be wav or mp3")
    try:
        data = base64.b64decode(audio["data"], validate=True)
    except (binascii.Error, TypeError, ValueError):
        raise BadRequestError(f"{where}.data is not base64") from None
    is_wav = data[:4] == b"RIFF" and data[8:12] == b"WAVE"
    _need(is_wav or audio["format"] != "wav", f"{where}.data is not a WAV file")


def _check_format(form: Mapping[str, Any]) -> None:
    kind, inner = form.get("type"), form.get("json_schema")
    if kind in ("text", "json_object"):
        return
    if kind != "json_schema" or not isinstance(inner, dict):
        raise BadRequestError("response_format.type must be text, json_object or json_schema")
    named = isinstance(inner.get("name"), str) and isinstance(inner.get("schema"), dict)
    _need(named, "response_format.json_schema needs a name and a schema")
    if not inner.get("strict"):
        return
    schema = inner["schema"]
    properties = schema.get("properties")
    if schema.get("type") != "object" or not isinstance(properties, dict) or not properties:
        raise BadRequestError("strict schema: the root must be an object with properties")
    closed = schema.get("additionalProperties") is False
    _need(closed, "strict schema: additionalProperties must be false")
    required = sorted(schema.get("required", [])) == sorted(properties)
    _need(required, "strict schema: every property must be required")
    for name, prop in properties.items():
        values = prop.get("enum", []) if isinstance(prop, dict) else []
        are_texts = all(isinstance(value, str) for value in values)
        _need(are_texts, f"strict schema: the enum of {name} must hold strings")
        _need(schema_fits(values), f"strict schema: the enum of {name} is too large")


def message_text(message: Mapping[str, Any]) -> str:
    """Give the words of a message; audio parts have none."""
    content = message["content"]
    if isinstance(content, str):
        return content
    return "\n".join(part["text"] for part in content if part["type"] == "text")


def estimate_tokens(words: str) -> int:
    """Count one token per four bytes, rounded up."""
    return -(-len(words.encode("utf-8", "surrogatepass")) // 4)


@dataclass(frozen=True, slots=True, kw_only=True)
class FakeReply:
    """What a policy answers, when a plain string does not say enough."""

    content: str | None = None
    finish_reason: str = "stop"
    refusal: str | None = None
    cached_tokens: int | None = None
    top_logprobs: Mapping[str, float] = field(default_factory=dict)


Policy: TypeAlias = str | Sequence[str | FakeReply] | Callable[[Json], str | FakeReply]


@dataclass(frozen=True, slots=True, kw_only=True)
class Shown:
    """The demonstrations of one prompt as the model sees them, first to last."""

    demos: tuple[tuple[str, str], ...]  # (text, label); an audio demonstration has the text ""
    query: str
    enum: tuple[str, ...]  # the labels that the response schema allows, if there is one
    system: str  # the system message, which may list the labels
    json_key: str | None  # the key of a JSON answer; None if answers are plain

    @property
    def labels(self) -> list[str]:
        """The labels shown, first to last, with repetitions."""
        return [label for _, label in self.demos]

    def place(self, label: str) -> int:
        """Give where the label stands in the prompt's list of labels; unlisted ones come last."""
        listed = [*self.enum, *self.system.split("\n")]
        if label in listed:
            return listed.index(label)
        found = re.search(rf"(?<!\w){re.escape(label)}(?!\w)", self.system)
        return len(listed) + (found.start() if found else len(self.system))


def read_prompt(body: Json) -> Shown:
    """Read demonstrations and query out of a checked request in any of the prompt styles.

    They are the turns before the last user message, else its `Text:` and `Label:` or `Answer:`
    lines. Free answers are taken for labels here: "nearest" gives the answer shown last.
    """
    messages = body["messages"]
    system = "\n".join(message_text(m) for m in messages if m["role"] in ("system", "developer"))
    turns = [m for m in messages if m["role"] in ("user", "assistant")]
    pairs, query = [], message_text(turns[-1]) if turns else ""
    if any(m["role"] == "assistant" for m in turns):
        for asked, answered in itertools.pairwise(turns):
            if answered["role"] == "assistant":
                pairs.append((message_text(asked), message_text(answered)))
    else:
        system = system or query.partition("Text: ")[0]
        pairs, query = _read_lines(query)
    answers = [_answer(label) for _, label in pairs]
    demos = tuple((text, label) for (text, _), (label, _) in zip(pairs, answers, strict=True))
    enum, key = _read_schema(body)
    key = key or next((key for _, key in answers if key), None)
    if key is None and body.get("response_format", {}).get("type") == "json_object":
        key = "answer" if '{"answer"' in system else "label"
    return Shown(demos=demos, query=query, enum=enum, system=system, json_key=key)


def _read_lines(block: str) -> tuple[list[tuple[str, str]], str]:
    pairs, waiting = [], None
    for line in block.split("\n"):
        if line.startswith("Text: "):
            words = line.removeprefix("Text: ")
            value = _decoded(words)
            waiting = value if isinstance(value, str) else words
        elif line.startswith(("Label: ", "Answer: ")) and waiting is not None:
            pairs.append((waiting, line.partition(": ")[2].strip()))
            waiting = None
    return pairs, block if waiting is None else waiting


def _decoded(words: str) -> object:
    try:
        return json.loads(words)
    except json.JSONDecodeError:
        return None


def _answer(words: str) -> tuple[str, str | None]:
    """Give the label of a demonstration's answer and its JSON key, if it is JSON."""
    value = _decoded(words)
    if isinstance(value, dict) and len(value) == 1:
        ((key, label),) = value.items()
        if isinstance(label, str):
            return label, key
    return words, None


def _read_schema(body: Json) -> tuple[tuple[str, ...], str | None]:
    form = body.get("response_format", {"type": "text"})
    if form["type"] != "json_schema":
        return (), None
    ((key, prop), *_) = form["json_schema"]["schema"]["properties"].items()
    return tuple(prop.get("enum", ())), key


def _majority(shown: Shown) -> str | None:
    """Give the most frequent label, of several the one shown last."""
    return max(reversed(shown.labels), key=shown.labels.count, default=None)


def _reciprocal_rank(shown: Shown) -> str | None:
    votes: dict[str, float] = {}
    for rank, label in enumerate(reversed(shown.labels), start=1):
        votes[label] = votes.get(label, 0.0) + 1.0 / rank
    # Sums of 1/rank are rounded so that the order of summation cannot break a tie.
    order = {label: (-round(votes[label], 9), shown.place(label)) for label in votes}
    return min(order, key=order.__getitem__, default=None)


_VOTES: dict[str, Callable[[Shown], str | None]] = {
    "majority": _majority,
    "nearest": lambda shown: next(reversed(shown.labels), None),
    "reciprocal_rank": _reciprocal_rank,
    "first_label": lambda s: next(iter([*s.enum, *sorted(set(s.labels), key=s.place)]), None),
    "echo": lambda shown: shown.query,
    "invalid": lambda _: "something else entirely",
    "length": _majority,
}
_SILENCE = {
    "empty": FakeReply(content=""),
    "refusal": FakeReply(refusal="I cannot help with that."),
}
POLICIES = (*_VOTES, "lookup", *_SILENCE)


def answers_of(
    policy: Policy, table: Mapping[str, str] | None = None
) -> Callable[[Json], str | FakeReply]:
    """Give the function from a checked request to its answer, in the form that it asks for.

    "lookup" gives the query's label in `table` if that label is shown, else the majority.

    Raises:
        ConfigError: If the policy is unknown, or "lookup" has no table.
    """
    if (policy == "lookup") != (table is not None):
        raise ConfigError("table is needed by the policy 'lookup', and by no other")
    if isinstance(policy, str):
        name = check_choice("policy", policy, POLICIES)
        return lambda body: _SILENCE.get(name) or _by_name(name, read_prompt(body), table or {})
    if callable(policy):
        return policy
    script = iter(policy)

    def next_answer(_: Json) -> str | FakeReply:
        answer = next(script, None)
        if answer is None:
            raise BadRequestError(f"the script of {len(policy)} answers is used up")
        return answer

    return next_answer


def _by_name(name: str, shown: Shown, table: Mapping[str, str]) -> FakeReply:
    label = table.get(shown.query)
    if name != "lookup" or label not in shown.labels:
        label = _VOTES["majority" if name == "lookup" else name](shown)
    if label is None:  # nothing is shown: a constrained model still has to choose
        label = shown.enum[0] if shown.enum else "no demonstrations were shown"
    key = shown.json_key
    content = label if key is None else json.dumps({key: label}, ensure_ascii=False)
    if name == "length":
        return FakeReply(content=content[: len(content) // 2], finish_reason="length")
    # Shares of the labels shown, as of a model with one token per label.
    labels = shown.labels
    shares = {label: labels.count(label) / len(labels) for label in dict.fromkeys(labels)}
    return FakeReply(content=content, top_logprobs=shares)
