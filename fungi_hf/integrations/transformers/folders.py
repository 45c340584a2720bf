"""How a pipeline finds its encoder, config and fitted state, and how it is written.

Invariant: what is written is one folder that loads again.
"""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, Final

from fungi_hf.checks import check_known
from fungi_hf.config import FungiConfig
from fungi_hf.errors import ConfigError, EncoderError, InputTypeError, StorageError
from fungi_hf.hub.folders import save
from fungi_hf.storage.files import (
    CONFIG_NAME,
    STATE_NAME,
    TASK,
    HubOptions,
    find_file,
    is_reference,
    replace_file,
)
from fungi_hf.storage.sharing import read_config

if TYPE_CHECKING:
    from fungi_hf.extractor import FungiExtractor

_IGNORED: Final = (
    *("_commit_hash", "_from_pipeline", "code_revision", "trust_remote_code"),
    *("dtype", "torch_dtype"),
)
_PASSED_ON: Final = "attn_implementation"
_SHIM_NAME: Final = "fungi_pipeline.py"
_SHIM_CLASS: Final = "fungi_pipeline.FungiPipeline"
_SHIM: Final = (
    '"""Loads the pipeline of the installed package fungi-hf; nothing else is executed."""\n\n'
    "from fungi_hf.integrations.pipeline import FungiPipeline  # noqa: F401\n"
)


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
        ways, asked = HubOptions.__dataclass_fields__, self.arguments
        check_known("model_kwargs", asked, (*ways, *_IGNORED, _PASSED_ON), noun="use for")
        given = {key: asked[key] for key in ways if asked.get(key) is not None}
        return dataclasses.replace(hub, **given)


def build_extractor(
    model: Any, processor: Any, fungi_config: Any, *, dtype: Any, hub: HubOptions
) -> FungiExtractor:
    """Give the extractor of a pipeline, fitted if its folder holds state.

    The model is a `ModelByName`, a name, or loaded; `fungi_config` is None, a config, its
    dictionary, or a folder or repository; `dtype` is "auto", None, or a torch dtype or its name.

    Raises:
        ConfigError: If the config is unusable or does not fit the model.
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
    if by_name and dtype in (None, "auto"):  # transformers takes it from model_kwargs then
        dtype = model.arguments.get("dtype", model.arguments.get("torch_dtype"))
    asked = str(dtype).removeprefix("torch.") if by_name and dtype not in (None, "auto") else None
    target = model.name if by_name else model
    home = _home(target, fungi_config, hub)
    if home is not None:
        own = by_name and home == target
        way = _hub_of(home, target, hub)
        extractor = FungiExtractor.from_pretrained(
            home, None, processor, model=None if own else target, **dataclasses.asdict(way)
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
        options = dataclasses.asdict(hub) if by_name else {}
        extractor = FungiExtractor.from_pretrained(target, config, processor, **options)
    if by_name and (attention := model.arguments.get(_PASSED_ON)) is not None:
        module: Any = extractor.encoder.model
        module.set_attn_implementation(attention)
    return extractor


def _home(target: Any, fungi_config: Any, hub: HubOptions) -> str | None:
    # The folder or repository whose config and state are to be loaded.
    if isinstance(fungi_config, (str, Path)):
        way = _hub_of(fungi_config, target, hub)
        if find_file(fungi_config, CONFIG_NAME, way) is None:
            raise ConfigError(f"fungi_config: there is no {CONFIG_NAME} in {str(fungi_config)!r}")
        return str(fungi_config) if find_file(fungi_config, STATE_NAME, way) is not None else None
    name = target
    if not isinstance(target, str):
        pipelines = getattr(getattr(target, "config", None), "custom_pipelines", None) or {}
        name = getattr(target, "name_or_path", "") if TASK in pipelines else ""
    there = fungi_config is None and name and find_file(name, CONFIG_NAME, hub) is not None
    return name if there else None


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


def save_pipeline(
    extractor: FungiExtractor,
    folder: str | Path,
    *,
    custom_code: bool = False,
    options: dict[str, Any] | None = None,
) -> None:
    """Write encoder, preprocessor, config and state.

    With `custom_code` also the one-line module, named in `config.json`. The options are those of
    the model's own `save_pretrained`.

    Raises:
        StorageError: If the folder holds another model or cannot be written.
    """
    target = Path(folder)
    if target.is_file():
        raise StorageError(f"{target} is a file; give a folder")
    config = target / "config.json"
    if config.exists() and not is_reference(config) and not (target / CONFIG_NAME).exists():
        raise StorageError(
            f"{target} holds a model, which saving a pipeline would overwrite; choose another "
            "folder, or write our files alone with pipe.extractor.save_pretrained(folder)"
        )
    try:
        extractor.encoder.model.save_pretrained(target, **(options or {}))  # type: ignore[operator]
        for preprocessor in (extractor.encoder.tokenizer, extractor.encoder.processor):
            if preprocessor is not None:
                preprocessor.save_pretrained(target)
        save(extractor, target, with_model=True)
        if custom_code:
            settings = json.loads(config.read_text(encoding="utf-8"))
            kinds = ["AutoModelForTextEncoding", "AutoModel"]
            settings["custom_pipelines"] = {TASK: {"impl": _SHIM_CLASS, "pt": kinds}}
            replace_file(target / _SHIM_NAME, _SHIM.encode())
            replace_file(config, (json.dumps(settings, indent=2, sort_keys=True) + "\n").encode())
    except OSError as error:
        raise StorageError(f"cannot write to {target}: {error}") from None
