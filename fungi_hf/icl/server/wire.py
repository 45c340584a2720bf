"""Refuse a chat-completion request as a strict server would; this knows JSON and no socket."""

from __future__ import annotations

import base64
import binascii
from typing import TYPE_CHECKING, Any, TypeAlias

from fungi_hf.icl.sampling import schema_fits

if TYPE_CHECKING:
    from collections.abc import Mapping

Json: TypeAlias = dict[str, Any]

_ROLES = ("system", "developer", "user", "assistant")
_FIELDS: dict[str, tuple[type, ...]] = {
    name: kinds
    for kinds, names in (
        ((str,), "model user service_tier reasoning_effort"),
        ((bool,), "stream logprobs store"),
        ((int,), "n max_tokens max_completion_tokens seed top_logprobs"),
        ((int, float), "temperature top_p presence_penalty frequency_penalty"),
        ((list,), "messages modalities"),
        ((dict,), "response_format logit_bias metadata"),
        ((str, list), "stop"),
    )
    for name in names.split()
}


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
