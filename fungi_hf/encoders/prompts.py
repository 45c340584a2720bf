"""Prompts of retrieval models: text in front of a query or a document, chosen by name."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, Final

from fungi_hf.errors import ConfigError, choices

if TYPE_CHECKING:
    from collections.abc import Mapping

    from fungi_hf.encoders.base import Encoder

_DOCUMENTS: Final = ("document", "passage", "corpus")  # names of one role, as the field has them


def prompt_text(encoder: Encoder, prompt_name: str | None, prompt: str | None) -> str:
    """Give the text in front of every input: the prompt itself, a named one, or the default.

    Raises:
        ConfigError: If both are given, the name is unknown, or the inputs are no texts.
    """
    if prompt_name is not None and prompt is not None:
        raise ConfigError(
            f"prompt_name={prompt_name!r} and prompt={prompt!r} are both given; give one of them"
        )
    for argument, value in (("prompt_name", prompt_name), ("prompt", prompt)):
        if value is not None and not isinstance(value, str):
            raise ConfigError(f"{argument} must be a text; got {type(value).__name__}: {value!r}")
    if (prompt_name or prompt) and encoder.modality != "text":
        raise ConfigError(f"a prompt belongs to texts; this encoder takes {encoder.modality}")
    if prompt is not None:
        return prompt
    if prompt_name is None:
        return encoder.default_prompt
    return named_prompt(encoder.prompts, prompt_name)


def prompted(fingerprint: str, encoder: Encoder, prompt: str) -> str:
    """Give the fingerprint of features behind a prompt: another one where nobody has named it."""
    if prompt in ("", encoder.default_prompt, *encoder.prompts.values()):
        return fingerprint
    return hashlib.sha256(f"{fingerprint}|{prompt}".encode()).hexdigest()[:16]


def named_prompt(prompts: Mapping[str, str], name: str) -> str:
    """Give the prompt of a name; "document", "passage" and "corpus" stand for each other.

    Raises:
        ConfigError: If there is none.
    """
    names = [name, *(_DOCUMENTS if name in _DOCUMENTS else ())]
    found = next((one for one in names if one in prompts), None)
    if found is None:
        known = choices(name, prompts) if prompts else f"{name!r}; the encoder has no prompts"
        raise ConfigError(
            f"unknown prompt_name {known}: give prompt=, or name it in the config: "
            f"FungiConfig(prompts={{{name!r}: '...'}})"
        )
    return prompts[found]


def role_name(encoder: Encoder, role: str) -> str | None:
    """Give the name of the prompt for "query" or "document"; None where the encoder has none."""
    names = _DOCUMENTS if role in _DOCUMENTS else (role,)
    return next((name for name in names if encoder.prompts.get(name)), None)
