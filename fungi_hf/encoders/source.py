"""What an encoder's folder says of its training: pooling, length, prompts, lower case."""

from __future__ import annotations

import copy
import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from fungi_hf.errors import EncoderError, StorageError
from fungi_hf.storage.files import HubOptions, find_file

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import nn

_POOLING_MODES: Final = {
    "cls": "cls",
    "cls_token": "cls",
    "mean": "mean",
    "mean_tokens": "mean",
    "lasttoken": "last",
    # The same direction as the mean, and every block is normalised.
    "mean_sqrt_len_tokens": "mean",
}
# Modules of sentence-transformers that the embedding block has: it is of unit norm.
_APPLIED: Final = frozenset({"Transformer", "Pooling", "Normalize", "Dropout"})


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """Where an encoder came from, and what its folder says of its training.

    `name` is a repository id or folder, empty for a model object without one; `revision` is the
    commit of a repository. `unusable` says why the folder's embedding cannot be computed here.
    """

    name: str = ""
    revision: str | None = None
    pooling: str | None = None
    max_length: int | None = None
    prompts: Mapping[str, str] | None = None
    default_prompt_name: str | None = None
    lowercase: bool = False
    unusable: str = ""


def source_of(model: nn.Module) -> Source:
    """Give what the folder of a model object says, where the object names one."""
    name = str(getattr(model, "name_or_path", "") or "")
    config = getattr(model, "config", None)
    if name and Path(name).is_dir():
        return read_source(name, model, HubOptions())
    return Source(name=name, revision=getattr(config, "_commit_hash", None))


def read_source(name: str, model: nn.Module, hub: HubOptions) -> Source:
    """Read what a sentence-transformers folder says of pooling and length."""
    revision = getattr(getattr(model, "config", None), "_commit_hash", None)
    try:
        settings = find_file(name, "config.json", hub)
        if settings is not None and settings.parent.parent.name == "snapshots":
            revision = settings.parent.name
        modules = _read_json(name, "modules.json", hub) or []
        kinds = [str(one.get("type", "")).rpartition(".")[2] for one in modules]
        paths = [str(one.get("path", "")) for one in modules]
        place = paths[kinds.index("Pooling")] if "Pooling" in kinds else None
        pooling = None if place is None else _read_json(name, f"{place}/config.json", hub)
        transformer = _read_json(name, "sentence_bert_config.json", hub) or {}
        own = (
            "FungiModule" in kinds
        )  # our folder's config says its prompts, the host applies its own
        words = {} if own else _read_json(name, "config_sentence_transformers.json", hub) or {}
        return Source(
            name=name,
            revision=revision,
            pooling=_trained_pooling(pooling) if pooling else None,
            max_length=_whole(transformer.get("max_seq_length")),
            prompts={k: v for k, v in (words.get("prompts") or {}).items() if v is not None},
            default_prompt_name=words.get("default_prompt_name"),
            lowercase=bool(transformer.get("do_lower_case")),
            unusable=_unusable(kinds, pooling or {}),
        )
    except (StorageError, AttributeError):
        return Source(name=name, revision=revision)


def _whole(value: Any) -> int | None:
    return value if isinstance(value, int) and value > 0 else None


def _unusable(kinds: list[str], pooling: dict[str, Any]) -> str:
    """Say which module of a sentence-transformers folder this package does not apply."""
    if "Pooling" not in kinds:
        return ""
    others = [kind for kind in kinds if kind not in _APPLIED]
    if others:
        return f"has a module {others[0]} that this package does not apply"
    if pooling.get("include_prompt") is False:
        return "leaves its prompts out of the mean (include_prompt is false)"
    return ""


def lowercased(tokenizer: Any) -> Any:
    """Give a tokenizer that lowercases first, as a folder with `do_lower_case` asks for.

    A tokenizer that does so already is given back; another one is copied, not changed.

    Raises:
        EncoderError: If the tokenizer is not a fast one.
    """
    from tokenizers.normalizers import Lowercase, Sequence

    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None:
        raise EncoderError(
            f"the encoder's folder says do_lower_case, which {type(tokenizer).__name__} cannot be "
            "told; pass a fast tokenizer"
        )
    if '"Lowercase"' in str(backend.to_str()) or '"lowercase":true' in backend.to_str():
        return tokenizer
    made = copy.deepcopy(tokenizer)
    before = made.backend_tokenizer.normalizer
    made.backend_tokenizer.normalizer = Sequence([Lowercase(), *([before] if before else [])])
    return made


def _trained_pooling(pooling: dict[str, Any]) -> str:
    """Give our name of a pooling mode, or its own name where we have none."""
    mode = pooling.get("pooling_mode")
    if mode is None:
        asked = [key for key, value in pooling.items() if value is True]
        modes = [
            key.removeprefix("pooling_mode_") for key in asked if key.startswith("pooling_mode_")
        ]
        mode = "+".join(modes)
    return _POOLING_MODES.get(str(mode), str(mode))


def _read_json(name: str, file: str, hub: HubOptions) -> Any:
    path = find_file(name, file, hub)
    return None if path is None else json.loads(path.read_text(encoding="utf-8"))
