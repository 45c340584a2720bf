"""How the pipeline finds its encoder, config and fitted state, whichever way it was asked."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, Final

from fungi_hf.checks import check_known
from fungi_hf.config import FungiConfig
from fungi_hf.errors import ConfigError, EncoderError, InputTypeError
from fungi_hf.hub.reference import TASK
from fungi_hf.storage.configs import read_config
from fungi_hf.storage.files import CONFIG_NAME, STATE_NAME, HubOptions, find_file

if TYPE_CHECKING:
    from fungi_hf.extractor import FungiExtractor

_IGNORED: Final = (
    "_commit_hash",
    "_from_pipeline",
    "code_revision",
    "trust_remote_code",
    "dtype",
    "torch_dtype",
)
_PASSED_ON: Final = "attn_implementation"


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
        """Give the way to the repository; what loading would ignore is refused."""
        ways = [item.name for item in dataclasses.fields(HubOptions)]
        check_known("model_kwargs", self.arguments, (*ways, *_IGNORED, _PASSED_ON), noun="use for")
        given = {key: self.arguments[key] for key in ways if self.arguments.get(key) is not None}
        return dataclasses.replace(hub, **given)


def build_extractor(
    model: Any, processor: Any, fungi_config: Any, *, dtype: Any, hub: HubOptions
) -> FungiExtractor:
    """Give the extractor of a pipeline.

    Args:
        model: A `ModelByName`, a name, or a loaded model.
        processor: Its preprocessor, if the user gave one.
        fungi_config: None, a config, its dictionary, or a folder or repository.
        dtype: "auto", None, or a torch dtype or its name.
        hub: How to reach repositories.

    Returns:
        The extractor, fitted if its folder holds state.

    Raises:
        ConfigError: If the config is unusable or does not fit the model.
        InputTypeError: If `fungi_config` is nothing of the kind.
        EncoderError: If the preprocessor is a name that does not fit the model.
    """
    from fungi_hf.extractor import FungiExtractor  # heavy: not at the import of the package

    if isinstance(model, (str, Path)):
        model = ModelByName(str(model), {})
    by_name = isinstance(model, ModelByName)
    hub = model.hub(hub) if by_name else hub
    if isinstance(processor, (str, Path)):
        raise EncoderError(
            f"the preprocessor must be an object; got the name {str(processor)!r}: load it "
            "with its from_pretrained"
        )
    # A dtype of a loaded model is the model's own; for a name None and "auto" mean the config's.
    asked = str(dtype).removeprefix("torch.") if by_name and dtype not in (None, "auto") else None
    target = model.name if by_name else model
    home = _home(target, fungi_config, hub)
    if home is not None:
        own = by_name and home == target
        way = _hub_of(home, target, hub)
        extractor = FungiExtractor.from_pretrained(
            home, None, processor, model=None if own else target, **way.arguments()
        )
        if asked not in (None, extractor.config.dtype):
            raise ConfigError(
                f"{home!r} was saved with dtype={extractor.config.dtype!r}; dtype={asked!r} would "
                "give other features: leave dtype out"
            )
    else:
        config = _read_config(fungi_config, hub)
        if asked is not None:
            config = (config or FungiConfig()).replace(dtype=asked)
        extractor = FungiExtractor.from_pretrained(
            target, config, processor, **hub.arguments() if by_name else {}
        )
    attention = model.arguments.get(_PASSED_ON) if by_name else None
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
        way = _hub_of(fungi_config, target, hub)
        if find_file(fungi_config, CONFIG_NAME, way) is None:
            raise ConfigError(f"fungi_config: there is no {CONFIG_NAME} in {str(fungi_config)!r}")
        return str(fungi_config) if find_file(fungi_config, STATE_NAME, way) is not None else None
    if fungi_config is not None:
        return None
    if isinstance(target, str):
        return target if find_file(target, CONFIG_NAME, hub) is not None else None
    settings = getattr(target, "config", None)
    name = getattr(target, "name_or_path", "")
    saved_here = TASK in (getattr(settings, "custom_pipelines", None) or {})
    return name if saved_here and name and find_file(name, CONFIG_NAME, hub) is not None else None


def _hub_of(source: Any, target: Any, hub: HubOptions) -> HubOptions:
    """Give the way to another repository than the model's: its revision does not hold there."""
    return hub if str(source) == str(target) else dataclasses.replace(hub, revision=None)


def _read_config(given: Any, hub: HubOptions) -> FungiConfig | None:
    if given is None or isinstance(given, FungiConfig):
        return given
    if isinstance(given, dict):
        return FungiConfig.from_dict(given)
    if isinstance(given, (str, Path)):
        return FungiConfig.from_dict(read_config(given, dataclasses.replace(hub, revision=None)))
    raise InputTypeError(
        "fungi_config must be a FungiConfig, its dictionary, or a folder or repository; got "
        f"{type(given).__name__}: {given!r}"
    )
