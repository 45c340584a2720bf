"""What a chat request asks of the model: sampling fields and the form of the answer."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, TypeAlias, get_args

from fungi_hf.errors import ConfigError, choices
from fungi_hf.icl.reply import LABEL_KEY

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

TokenParam = Literal["max_completion_tokens", "max_tokens"]
OutputMode: TypeAlias = Literal["enum", "text", "json"]

_OWN_FIELDS = frozenset(
    {
        "model", "messages", "response_format", "temperature", "max_tokens", "seed", "stream",
        "max_completion_tokens", "logprobs", "top_logprobs", "n",
    }
)  # fmt: skip
_MAX_ENUM_VALUES = 1000  # limits of strict schemas, as documented
_LONG_ENUM = 250
_MAX_LONG_ENUM_CHARACTERS = 15_000


def schema_fits(values: list[str]) -> bool:
    """Say whether an enum of these strings stays within the documented schema limits."""
    if len(values) > _MAX_ENUM_VALUES:
        return False
    return len(values) <= _LONG_ENUM or sum(map(len, values)) <= _MAX_LONG_ENUM_CHARACTERS


@dataclass(frozen=True, slots=True, kw_only=True)
class Sampling:
    """Sampling fields of a request.

    Attributes:
        temperature: At least 0; None leaves the field out (some models reject it).
        max_output_tokens: Most tokens of an answer.
        token_param: What the server calls that field.
        seed: Best-effort repeatability; None leaves the field out.
        top_logprobs: 1 to 20 alternatives for the first token, from which label scores are read
            in text mode if the labels start differently; None asks for none.
        extra: More fields of the request, JSON values; sent as they are and part of cache keys.

    Raises:
        ConfigError: If a value is out of range, or extra names a field that has its own argument.
    """

    temperature: float | None = 0.0
    max_output_tokens: int = 64
    token_param: TokenParam = "max_completion_tokens"  # noqa: S105 - tokens of text
    seed: int | None = None
    top_logprobs: int | None = None
    extra: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.temperature is not None and not _is_number(self.temperature):
            raise ConfigError(f"temperature must be at least 0 or None, got {self.temperature!r}")
        if self.token_param not in get_args(TokenParam):
            allowed = choices(self.token_param, get_args(TokenParam))
            raise ConfigError(f"unknown token_param {allowed}")
        for name, least, most in (
            ("max_output_tokens", 1, None),
            ("top_logprobs", 1, 20),
            ("seed", None, None),
        ):
            _check_int(name, getattr(self, name), least, most)
        clash = sorted(_OWN_FIELDS & set(self.extra))
        if clash:
            raise ConfigError(f"extra must not name {', '.join(clash)}; they have own arguments")
        try:
            json.dumps(self.extra, allow_nan=False)
        except (TypeError, ValueError) as error:
            raise ConfigError(f"extra must hold JSON values: {error}") from None

    def fields(self) -> dict[str, Any]:
        """Give the fields that are sent."""
        sent: dict[str, Any] = {self.token_param: self.max_output_tokens}
        if self.temperature is not None:
            sent["temperature"] = self.temperature
        if self.seed is not None:
            sent["seed"] = self.seed
        if self.top_logprobs is not None:
            sent |= {"logprobs": True, "top_logprobs": self.top_logprobs}
        return sent | dict(self.extra)


def _is_number(value: object) -> bool:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return False
    return math.isfinite(value) and value >= 0


def _check_int(name: str, value: object, least: int | None, most: int | None) -> None:
    if value is None and name != "max_output_tokens":
        return
    whole = isinstance(value, int) and not isinstance(value, bool)
    if not whole or (least is not None and value < least) or (most is not None and value > most):  # type: ignore[operator]
        span = f"between {least} and {most}" if most is not None else f"of at least {least}"
        allowed = "an integer" if least is None else f"an integer {span}"
        raise ConfigError(f"{name} must be {allowed}, got {value!r}")


def response_format(output: OutputMode, surfaces: Sequence[str]) -> dict[str, Any] | None:
    """Give the `response_format` of a request.

    Args:
        output: "enum" for a strict JSON schema with the labels, "json" for any JSON object,
            "text" for none.
        surfaces: The labels as they are to be spelled, in id order.

    Returns:
        The field's value; None in text mode.
    """
    if output == "text":
        return None
    if output == "json":
        return {"type": "json_object"}
    schema = {
        "type": "object",
        "properties": {LABEL_KEY: {"type": "string", "enum": list(surfaces)}},
        "required": [LABEL_KEY],
        "additionalProperties": False,
    }
    inner = {"name": "answer", "strict": True, "schema": schema}
    return {"type": "json_schema", "json_schema": inner}


def first_token_scores(
    top: Sequence[Mapping[str, Any]], surfaces: Sequence[str]
) -> tuple[float, ...] | None:
    """Read one log probability per label from the alternatives of an answer's first token.

    Args:
        top: Alternatives with "token" and "logprob".
        surfaces: The labels in id order.

    Returns:
        [C] log probabilities; a label that is not among the alternatives gets the smallest one
        listed, which bounds its own from above. None if an alternative fits several labels, or
        none fits any.
    """
    scores: dict[int, float] = {}
    listed = []
    for entry in top:
        token, value = str(entry.get("token", "")).strip().casefold(), entry.get("logprob")
        if not isinstance(value, (int, float)):
            continue
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
