"""How the pipeline finds its encoder, config and fitted state, whichever way it was asked."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, Final

import torch

from fungi_hf.config import FungiConfig
from fungi_hf.errors import ConfigError, EncoderError, InputTypeError, choices
from fungi_hf.hub.reference import TASK
from fungi_hf.storage.files import CONFIG_NAME, STATE_NAME, find_file, read_document

if TYPE_CHECKING:
    from fungi_hf.extractor import FungiExtractor
    from fungi_hf.storage.files import HubOptions

_REACH: Final = ("revision", "token", "cache_dir", "local_files_only")
_IGNORED: Final = (
    "_commit_hash",
    "_from_pipeline",
    "code_revision",
    "trust_remote_code",
    "dtype",
    "torch_dtype",
)
_PASSED_ON: Final = ("attn_implementation",)


@dataclass(frozen=True, slots=True)
class ModelByName:
    """A model's name in the place of the model, until the config says how to load it.

    transformers would load it in the checkpoint's dtype, an encoder-decoder whole, and hide what
    went wrong behind the next class that it tries.
    """

    name: str
    arguments: dict[str, Any]

    @classmethod
    def from_pretrained(cls, name: str, **arguments: Any) -> ModelByName:
        """Keep the name; called by `transformers.pipeline`."""
        return cls(name, arguments)

    @property
    def config(self) -> SimpleNamespace:
        """Give what early transformers 5 reads of a model: no commit is known yet."""
        return SimpleNamespace(_commit_hash=None)

    def hub(self, hub: HubOptions) -> HubOptions:
        """Give the way to the repository."""
        reach = {key: self.arguments[key] for key in _REACH if self.arguments.get(key) is not None}
        return dataclasses.replace(hub, **reach)

    def check(self) -> None:
        """Refuse arguments that loading would ignore.

        Raises:
            ConfigError: Naming the argument.
        """
        known = (*_REACH, *_IGNORED, *_PASSED_ON)
        for key in self.arguments:
            if key not in known:
                raise ConfigError(f"model_kwargs has no use for {choices(key, known)}")


@dataclass(frozen=True, slots=True, kw_only=True)
class PipelineParts:
    """What `transformers.pipeline` hands over.

    Attributes:
        model: A `ModelByName`, a name, or a loaded model.
        processor: Its preprocessor, if the user gave one.
        dtype: "auto", None, or a torch dtype or its name.
        hub: How to reach repositories.
    """

    model: Any
    processor: Any
    dtype: Any
    hub: HubOptions


def build_extractor(parts: PipelineParts, fungi_config: Any) -> FungiExtractor:
    """Give the extractor of a pipeline.

    Args:
        parts: Model and preprocessor.
        fungi_config: None, a config, its dictionary, or a folder or repository.

    Returns:
        The extractor, fitted if its folder holds state.

    Raises:
        ConfigError: If the config is unusable or does not fit the model.
        InputTypeError: If `fungi_config` is nothing of the kind.
        EncoderError: If the preprocessor is a name that does not fit the model.
    """
    from fungi_hf.extractor import FungiExtractor  # heavy: not at the import of the package

    model, hub = parts.model, parts.hub
    if isinstance(model, (str, Path)):
        model = ModelByName(str(model), {})
    by_name = isinstance(model, ModelByName)
    if by_name:
        model.check()
        hub = model.hub(hub)
    if isinstance(parts.processor, (str, Path)):
        raise EncoderError(
            f"the preprocessor must be an object; got the name {str(parts.processor)!r}: load it "
            "with its from_pretrained"
        )
    dtype = _dtype_name(parts.dtype)
    target = model.name if by_name else model
    home = _home(target, fungi_config, hub)
    if home is not None:
        extractor = _load_saved(home, target, parts.processor, hub)
        if by_name and dtype not in (None, extractor.config.dtype):
            raise ConfigError(
                f"{home!r} was saved with dtype={extractor.config.dtype!r}; dtype={dtype!r} would "
                "give other features: leave dtype out"
            )
    else:
        config = _read_config(fungi_config, hub)
        if by_name and dtype is not None:
            config = (config or FungiConfig()).replace(dtype=dtype)
        extractor = FungiExtractor.from_pretrained(
            target, config, parts.processor, **_reach(hub) if by_name else {}
        )
    attention = model.arguments.get("attn_implementation") if by_name else None
    if attention is not None:
        module: Any = extractor.encoder.model
        module.set_attn_implementation(attention)
    return extractor


def _home(target: Any, fungi_config: Any, hub: HubOptions) -> str | None:
    """Give the folder or repository whose config and state are to be loaded, if any.

    Raises:
        ConfigError: If `fungi_config` names a place without a config.
    """
    if isinstance(fungi_config, (str, Path)):
        config = find_file(fungi_config, CONFIG_NAME, hub_of(fungi_config, target, hub))
        if config is None:
            raise ConfigError(f"fungi_config: there is no {CONFIG_NAME} in {str(fungi_config)!r}")
        has_state = read_document(config).get("digests", {}).get("state") is not None
        state = find_file(fungi_config, STATE_NAME, hub_of(fungi_config, target, hub))
        return str(fungi_config) if has_state and state is not None else None
    if fungi_config is not None:
        return None
    if isinstance(target, str):
        return target if find_file(target, CONFIG_NAME, hub) is not None else None
    settings = getattr(target, "config", None)
    name = getattr(target, "name_or_path", "")
    saved_here = TASK in (getattr(settings, "custom_pipelines", None) or {})
    return name if saved_here and name and find_file(name, CONFIG_NAME, hub) is not None else None


def hub_of(source: Any, target: Any, hub: HubOptions) -> HubOptions:
    """Give the way to another repository than the model's: its revision does not hold there."""
    return hub if str(source) == str(target) else dataclasses.replace(hub, revision=None)


def _load_saved(home: str, target: Any, processor: Any, hub: HubOptions) -> FungiExtractor:
    from fungi_hf.extractor import FungiExtractor

    own = isinstance(target, str) and home == target
    reach = _reach(hub_of(home, target, hub))
    return FungiExtractor.from_pretrained(
        home, None, processor, model=None if own else target, **reach
    )


def _read_config(given: Any, hub: HubOptions) -> FungiConfig | None:
    if given is None or isinstance(given, FungiConfig):
        return given
    if isinstance(given, dict):
        return FungiConfig.from_dict(given)
    if isinstance(given, (str, Path)):
        path = find_file(given, CONFIG_NAME, dataclasses.replace(hub, revision=None))
        if path is not None:
            return FungiConfig.from_dict(read_document(path)["config"])
    raise InputTypeError(
        "fungi_config must be a FungiConfig, its dictionary, or a folder or repository; got "
        f"{type(given).__name__}: {given!r}"
    )


def _reach(hub: HubOptions) -> dict[str, Any]:
    return {key: getattr(hub, key) for key in _REACH}


def _dtype_name(dtype: Any) -> str | None:
    if dtype is None or dtype == "auto":
        return None
    if isinstance(dtype, torch.dtype):
        return str(dtype).removeprefix("torch.")
    return str(dtype)
