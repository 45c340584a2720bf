"""Refuse a chat-completion request as a strict server would, and build the bodies of its answers.

Everything here works on decoded JSON and knows no socket, so that it is testable without a server.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeAlias

from fungi_hf.icl.sampling import schema_fits

if TYPE_CHECKING:
    from collections.abc import Mapping

Json: TypeAlias = dict[str, Any]
CountTokens: TypeAlias = Callable[[str], int]

TOKENS_PER_MESSAGE = 3
TOKENS_PER_REQUEST = 3

_ROLES = ("system", "developer", "user", "assistant")
_NUMBER = (int, float)
_FIELDS: dict[str, tuple[type, ...]] = {
    "model": (str,),
    "messages": (list,),
    "temperature": _NUMBER,
    "top_p": _NUMBER,
    "n": (int,),
    "max_tokens": (int,),
    "max_completion_tokens": (int,),
    "response_format": (dict,),
    "seed": (int,),
    "stop": (str, list),
    "stream": (bool,),
    "logprobs": (bool,),
    "top_logprobs": (int,),
    "presence_penalty": _NUMBER,
    "frequency_penalty": _NUMBER,
    "logit_bias": (dict,),
    "user": (str,),
    "metadata": (dict,),
    "store": (bool,),
    "service_tier": (str,),
    "reasoning_effort": (str,),
    "modalities": (list,),
}


class BadRequestError(ValueError):
    """The request would get status 400; the text is the server's message."""


def check_request(body: object) -> Json:
    """Give the body back if a strict server would accept it.

    Args:
        body: The decoded JSON of the request.

    Returns:
        The same object.

    Raises:
        BadRequestError: For unknown fields, wrong types, bad messages, streaming, or a response
            schema outside the rules of strict mode.
    """
    if not isinstance(body, dict):
        raise BadRequestError("the body must be a JSON object")
    for name, value in body.items():
        _check_field(name, value)
    for name in ("model", "messages"):
        if name not in body:
            raise BadRequestError(f"Missing required parameter: '{name}'")
    _check_values(body)
    for position, message in enumerate(body["messages"]):
        _check_message(position, message)
    if "response_format" in body:
        _check_format(body["response_format"])
    return body


def _check_field(name: str, value: object) -> None:
    if name not in _FIELDS:
        raise BadRequestError(f"Unrecognized request argument supplied: {name}")
    allowed = _FIELDS[name]
    is_bool = isinstance(value, bool)
    if is_bool != (allowed == (bool,)) or not isinstance(value, allowed):
        raise BadRequestError(f"Invalid type for '{name}': got {type(value).__name__}")


def _check_values(body: Json) -> None:
    if body.get("stream"):
        raise BadRequestError("stream is not supported by this server")
    if body.get("n", 1) != 1:
        raise BadRequestError("n must be 1")
    if "top_logprobs" in body and not (body.get("logprobs") and 0 <= body["top_logprobs"] <= 20):
        raise BadRequestError("top_logprobs must be between 0 and 20 and needs logprobs=true")
    if not body["messages"]:
        raise BadRequestError("messages must not be empty")


def _check_message(position: int, message: object) -> None:
    where = f"messages[{position}]"
    if not isinstance(message, dict) or message.get("role") not in _ROLES:
        raise BadRequestError(f"{where}.role must be one of {', '.join(_ROLES)}")
    extra = set(message) - {"role", "content", "name"}
    if extra:
        raise BadRequestError(f"{where} has unknown fields: {', '.join(sorted(extra))}")
    content = message.get("content")
    if isinstance(content, list) and message["role"] == "user":
        if not content:
            raise BadRequestError(f"{where}.content must not be an empty list")
        for part in content:
            _check_part(where, part)
    elif not isinstance(content, str):
        raise BadRequestError(f"{where}.content must be a string")


def _check_part(where: str, part: object) -> None:
    kind = part.get("type") if isinstance(part, dict) else None
    if not isinstance(part, dict) or set(part) != {"type", kind}:
        raise BadRequestError(f"{where}: a content part has the fields type and its own name")
    inner = part[kind]
    if kind == "text":
        if not isinstance(inner, str):
            raise BadRequestError(f"{where}: the text of a part must be a string")
    elif kind == "input_audio":
        _check_audio(where, inner)
    else:
        raise BadRequestError(f"{where}: content parts of type {kind!r} are not supported")


def _check_audio(where: str, audio: object) -> None:
    if not isinstance(audio, dict) or set(audio) != {"data", "format"}:
        raise BadRequestError(f"{where}.input_audio must have the fields data and format")
    if audio["format"] not in ("wav", "mp3"):
        raise BadRequestError(f"{where}.input_audio.format must be wav or mp3")
    try:
        data = base64.b64decode(audio["data"], validate=True)
    except (binascii.Error, TypeError, ValueError):
        raise BadRequestError(f"{where}.input_audio.data is not base64") from None
    if audio["format"] == "wav" and (data[:4] != b"RIFF" or data[8:12] != b"WAVE"):
        raise BadRequestError(f"{where}.input_audio.data is not a WAV file")


def _check_format(form: Mapping[str, Any]) -> None:
    kind = form.get("type")
    if kind in ("text", "json_object"):
        return
    inner = form.get("json_schema")
    if kind != "json_schema" or not isinstance(inner, dict):
        raise BadRequestError("response_format.type must be text, json_object or json_schema")
    if not isinstance(inner.get("name"), str) or not isinstance(inner.get("schema"), dict):
        raise BadRequestError("response_format.json_schema needs a name and a schema")
    if inner.get("strict"):
        _check_strict(inner["schema"])


def _check_strict(schema: Mapping[str, Any]) -> None:
    properties = schema.get("properties")
    if schema.get("type") != "object" or not isinstance(properties, dict) or not properties:
        raise BadRequestError("strict schema: the root must be an object with properties")
    if schema.get("additionalProperties") is not False:
        raise BadRequestError("strict schema: additionalProperties must be false")
    if sorted(schema.get("required", [])) != sorted(properties):
        raise BadRequestError("strict schema: every property must be required")
    for name, prop in properties.items():
        values = prop.get("enum", []) if isinstance(prop, dict) else []
        if not all(isinstance(value, str) for value in values):
            raise BadRequestError(f"strict schema: the enum of {name} must hold strings")
        if not schema_fits(values):
            raise BadRequestError(f"strict schema: the enum of {name} is too large")


def message_text(message: Mapping[str, Any]) -> str:
    """Give the words of a message; audio parts have none."""
    content = message["content"]
    if isinstance(content, str):
        return content
    return "\n".join(part["text"] for part in content if part["type"] == "text")


def prompt_tokens(body: Json, count: CountTokens) -> int:
    """Count the tokens of all messages with the chat overhead."""
    return TOKENS_PER_REQUEST + sum(
        TOKENS_PER_MESSAGE + count(message_text(message)) for message in body["messages"]
    )


def estimate_tokens(words: str) -> int:
    """Count one token per four bytes, rounded up."""
    return -(-len(words.encode("utf-8", "surrogatepass")) // 4)


def error_body(message: str, code: str | None, status: int) -> Json:
    """Give the error object that OpenAI-compatible servers send."""
    kind = "invalid_request_error" if status < 429 else "server_error"
    return {"error": {"message": message, "type": kind, "param": None, "code": code}}
