"""What a chat request asks of the model: sampling fields, and the form of the answer."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, TypeAlias, get_args

from fungi_hf.checks import check_choice, check_fields, check_integer, check_number
from fungi_hf.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

TokenParam = Literal["max_completion_tokens", "max_tokens"]
OutputMode: TypeAlias = Literal["enum", "text", "json"]

_OWN_FIELDS = {"model", "messages", "response_format", "stream", "n", *get_args(TokenParam)}
_OWN_FIELDS |= {"temperature", "seed", "logprobs", "top_logprobs"}


def schema_fits(values: Sequence[str]) -> bool:
    """Say whether an enum stays within the documented limits of strict schemas."""
    return len(values) <= 250 or (len(values) <= 1000 and sum(map(len, values)) <= 15_000)


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
        check_fields(self, ("temperature",), check_number, 0, optional=True)
        check_fields(self, ("token_param",), check_choice, get_args(TokenParam))
        check_fields(self, ("max_output_tokens",), check_integer, 1)
        check_fields(self, ("top_logprobs",), check_integer, 1, 20, optional=True)
        check_fields(self, ("seed",), check_integer, None, optional=True)
        clash = sorted(_OWN_FIELDS & set(self.extra))
        if clash:
            raise ConfigError(f"extra must not name {', '.join(clash)}; they have own arguments")
        try:
            json.dumps(self.extra, allow_nan=False)
        except (TypeError, ValueError) as error:
            raise ConfigError(f"extra must hold JSON values: {error}") from None

    def fields(self) -> dict[str, Any]:
        """Give the fields that are sent."""
        named = {
            self.token_param: self.max_output_tokens,
            "temperature": self.temperature,
            "seed": self.seed,
            "logprobs": None if self.top_logprobs is None else True,
            "top_logprobs": self.top_logprobs,
        }
        return {name: value for name, value in named.items() if value is not None} | {**self.extra}


def response_format(output: OutputMode, surfaces: Sequence[str]) -> dict[str, Any] | None:
    """Give the `response_format` of a request: a strict schema, any JSON object, or None."""
    if output == "text":
        return None
    if output == "json":
        return {"type": "json_object"}
    schema = {
        "type": "object",
        "properties": {"label": {"type": "string", "enum": list(surfaces)}},
        "required": ["label"],
        "additionalProperties": False,
    }
    inner = {"name": "answer", "strict": True, "schema": schema}
    return {"type": "json_schema", "json_schema": inner}
