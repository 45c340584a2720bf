"""FUNGI features as a sentence-transformers module; the vectors are the extractor's.

A folder or repository that this package wrote loads with
`SentenceTransformer(place, trust_remote_code=True)`: that library asks for the argument whenever a
module is not its own, and then imports the installed package; no code is in the folder.
`truncate_dim` cuts columns, so it drops the last blocks.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Final

import torch

from fungi_hf.checks import check_known
from fungi_hf.encoders.prompts import prompt_text
from fungi_hf.errors import ConfigError, NotFittedError, OptionalDependencyError
from fungi_hf.extractor import FungiExtractor
from fungi_hf.integrations.parts import ExtractorParts
from fungi_hf.integrations.transformers.folders import save_pipeline
from fungi_hf.storage.files import CONFIG_NAME, HubOptions

try:
    from sentence_transformers.base.modules import InputModule
except ImportError as error:
    reason = "" if error.name == "sentence_transformers" else f"sentence_transformers: {error}"
    raise OptionalDependencyError(
        "sentence_transformers", "sentence-transformers", reason
    ) from error

if TYPE_CHECKING:
    from collections.abc import Sequence

    from fungi_hf.config import FungiConfig


_MODEL_KWARGS: Final = ("dtype", "torch_dtype", "attn_implementation")
_ALLOWED: Final = ("trust_remote_code", "init_defaults")  # the first is of the host alone


class FungiModule(InputModule):
    """The one module of a `SentenceTransformer` that gives FUNGI features.

    It wraps an extractor, or what `FungiExtractor.from_pretrained` loads with the config; one that
    still needs `fit` is a NotFittedError, a config beside an extractor a ConfigError.

    Example:
        >>> from sentence_transformers import SentenceTransformer
        >>> model = SentenceTransformer(modules=[FungiModule("folder-or-hub-id")])
        >>> model.encode(["a text"]).shape
    """

    config_file_name: ClassVar[str] = CONFIG_NAME
    save_in_root: ClassVar[bool] = True
    config_keys: ClassVar[list[str]] = []

    def __init__(
        self, extractor: FungiExtractor | str | Path, config: FungiConfig | None = None
    ) -> None:
        super().__init__()
        if not isinstance(extractor, FungiExtractor):
            extractor = FungiExtractor.from_pretrained(extractor, config)
        elif config is not None:
            raise ConfigError("the extractor brings its config; pass config=None")
        if not extractor.is_fitted:
            raise NotFittedError("fit the extractor before it becomes a module")
        self.extractor = extractor
        self.encoder = extractor.encoder.model  # registered, so that `.to(device)` moves it
        held = {"tokenizer": extractor.encoder.tokenizer, "processor": extractor.encoder.processor}
        for name, preprocessor in held.items():
            if preprocessor is not None:
                setattr(self, name, preprocessor)

    def __reduce__(self) -> tuple[Any, ...]:
        """Travel to other processes as parts."""
        return _rebuild, (ExtractorParts(self.extractor),)

    @property
    def modalities(self) -> list[str]:
        """What the encoder takes, in the host's words."""
        modality = self.extractor.encoder.modality
        return ["image" if modality == "vision" else modality]

    @property
    def max_seq_length(self) -> int:
        """The longest input, in the encoder's tokens; setting it changes the config.

        What an extractor has learned is of the old length, so that a fitted one is a ConfigError.
        """
        return self.extractor.encoder.max_length

    @max_seq_length.setter
    def max_seq_length(self, length: int) -> None:
        config = self.extractor.config
        if self.extractor.encoder.modality == "vision":
            raise ConfigError("images have no length; make the extractor with another image_size")
        if config.needs_fit:
            raise ConfigError(
                f"max_seq_length={length} does not fit what was learned at {self.max_seq_length}; "
                f"make the extractor anew with max_length={length}, and fit it"
            )
        self.extractor = self.extractor.with_config(config.replace(max_length=length))

    def preprocess(
        self,
        inputs: Sequence[Any],
        prompt: str | None = None,
        task: str | None = None,
        **others: Any,
    ) -> dict[str, Any]:
        """Pass raw inputs on, with their prompt; the extractor cuts its own batches.

        Without a prompt the task of `encode_query` and `encode_document` takes the encoder's own
        prompt of that name, and `encode` takes its default prompt; "" is no prompt.

        Raises:
            ConfigError: If there is a prompt and the inputs are no texts, or another argument.
        """
        check_known("FungiModule.preprocess", _set(others), ("modality",), noun="argument")
        raw = list(inputs)
        encoder = self.extractor.encoder
        if task is not None and not prompt:  # encode_query, encode_document
            roles = [task, *(("passage", "corpus") if task == "document" else ())]
            found = next((encoder.prompts[role] for role in roles if role in encoder.prompts), "")
            prompt = prompt_text(encoder, None, found)
        elif prompt:
            prompt = prompt_text(encoder, None, prompt)
        return {"fungi_inputs": raw, "fungi_prompt": prompt}

    def forward(self, features: dict[str, Any], **_: Any) -> dict[str, Any]:
        """Add "sentence_embedding", [N, F] float32, on the encoder's device."""
        prompt = features.get("fungi_prompt")
        array = self.extractor(features["fungi_inputs"], prompt=prompt).array
        device = next(self.encoder.parameters()).device
        return _Outputs({**features, "sentence_embedding": torch.from_numpy(array).to(device)})

    def get_embedding_dimension(self) -> int:
        """Give F."""
        return self.extractor.width

    def get_config_dict(self) -> dict[str, Any]:
        """Give the config's fields."""
        return self.extractor.config.to_dict()

    def save(self, output_path: str, *_: Any, safe_serialization: bool = True, **__: Any) -> None:
        """Write encoder, preprocessor, config and fitted state.

        Raises:
            ConfigError: If anything but safetensors is asked for.
        """
        if not safe_serialization:
            raise ConfigError("only safetensors are written; leave safe_serialization=True")
        save_pipeline(self.extractor, output_path)

    @classmethod
    def load(  # the host's signature
        cls,
        model_name_or_path: str,
        subfolder: str = "",
        token: bool | str | None = None,
        cache_folder: str | None = None,
        revision: str | None = None,
        local_files_only: bool = False,
        *,
        model_kwargs: dict[str, Any] | None = None,
        **others: Any,
    ) -> FungiModule:
        """Read what `save` or `FungiExtractor.save_pretrained` wrote.

        Of the host's arguments for a model, `dtype` must be the saved one and
        `attn_implementation` is set; what would be ignored is refused.

        Raises:
            ConfigError: If an argument would have no effect, or would change the features.
        """
        if (backend := others.pop("backend", "torch")) != "torch":
            raise ConfigError(f"backend={backend!r} has no gradients; only 'torch' is possible")
        asked = {name: value for name, value in (model_kwargs or {}).items() if value is not None}
        check_known("model_kwargs", asked, _MODEL_KWARGS, noun="use for")
        check_known("FungiModule.load", _set(others), _ALLOWED, noun="use for")
        place = str(Path(model_name_or_path) / subfolder) if subfolder else model_name_or_path
        hub = HubOptions(revision, token, cache_folder, local_files_only)
        extractor = FungiExtractor.from_pretrained(place, **dataclasses.asdict(hub))
        dtype = str(asked.get("dtype", asked.get("torch_dtype", "auto"))).removeprefix("torch.")
        if dtype not in ("auto", extractor.config.dtype):
            raise ConfigError(
                f"{place!r} was saved with dtype={extractor.config.dtype!r}; dtype={dtype!r} would "
                "give other features: leave dtype out"
            )
        if attention := asked.get("attn_implementation"):
            module: Any = extractor.encoder.model
            module.set_attn_implementation(attention)
        return cls(extractor)


class _Outputs(dict[str, Any]):
    """What `forward` gives; an output that this module does not have is a ConfigError."""

    def __missing__(self, name: str) -> Any:
        raise ConfigError(
            f"output_value={name!r} is not an output of FUNGI features; leave "
            "output_value='sentence_embedding'"
        )


def _set(arguments: dict[str, Any]) -> list[str]:
    """Name the arguments that ask for something."""
    return [name for name, value in arguments.items() if value not in (None, False, {}, "")]


def _rebuild(parts: ExtractorParts) -> FungiModule:
    return FungiModule(parts.build())
