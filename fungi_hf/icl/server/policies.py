"""Answers of the loopback server, made from the demonstrations that it reads out of a prompt.

So an answer is right only if formatting, order, transport and parsing all were.
"""

from __future__ import annotations

import itertools
import json
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, TypeAlias

from fungi_hf.checks import check_choice
from fungi_hf.errors import ConfigError
from fungi_hf.icl.server.wire import BadRequestError, Json, message_text

if TYPE_CHECKING:
    from collections.abc import Mapping


@dataclass(frozen=True, slots=True, kw_only=True)
class FakeReply:
    """What a policy answers, when a plain string does not say enough."""

    content: str | None = None
    finish_reason: str = "stop"
    refusal: str | None = None
    cached_tokens: int | None = None
    top_logprobs: Mapping[str, float] = field(default_factory=dict)


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


Policy: TypeAlias = str | Sequence[str | FakeReply] | Callable[[Json], str | FakeReply]


def read_prompt(body: Json) -> Shown:
    """Read demonstrations and query out of a checked request in any of the prompt styles.

    Shown are the user and assistant pairs before the last user message, else the `Text:` and
    `Label:` lines of the last user message.
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
    return Shown(demos=demos, query=query, enum=enum, system=system, json_key=key)


def _read_lines(block: str) -> tuple[list[tuple[str, str]], str]:
    pairs, waiting = [], None
    for line in block.split("\n"):
        if line.startswith("Text: "):
            words = line.removeprefix("Text: ")
            value = _decoded(words)
            waiting = value if isinstance(value, str) else words
        elif line.startswith("Label: ") and waiting is not None:
            pairs.append((waiting, line.removeprefix("Label: ").strip()))
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
    if form["type"] == "json_object":
        return (), "label"
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


def _first_label(shown: Shown) -> str | None:
    return next(iter([*shown.enum, *sorted(set(shown.labels), key=shown.place)]), None)


_VOTES: dict[str, Callable[[Shown], str | None]] = {
    "majority": _majority,
    "nearest": lambda shown: next(reversed(shown.labels), None),
    "reciprocal_rank": _reciprocal_rank,
    "first_label": _first_label,
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

    "lookup" gives the label of the query in `table` (text -> label) if it is shown, else the
    majority.

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
