"""FUNGI features as a sentence-transformers module; the vectors are the extractor's.

A folder or repository that this package wrote loads with
`SentenceTransformer(place, trust_remote_code=True)`: that library asks for the argument whenever a
module is not its own, and then imports the installed package; no code is in the folder.
`truncate_dim` cuts columns, so it drops the last blocks.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import torch

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
        """What the encoder takes."""
        return [self.extractor.encoder.modality]

    @property
    def max_seq_length(self) -> int:
        """The longest input, in the encoder's tokens."""
        return self.extractor.encoder.max_length

    def preprocess(
        self, inputs: Sequence[Any], prompt: str | None = None, **_: Any
    ) -> dict[str, Any]:
        """Pass raw inputs on, texts behind their prompt; the extractor cuts its own batches.

        Raises:
            ConfigError: If there is a prompt and the inputs are no texts.
            InputTypeError: If there is a prompt and an input is no text.
        """
        raw = list(inputs)
        if not prompt:
            return {"fungi_inputs": raw}
        if self.modalities != ["text"]:
            raise ConfigError(f"a prompt belongs to texts; this model takes {self.modalities[0]}")
        check = self.extractor.encoder.check
        return {"fungi_inputs": [f"{prompt}{check(text, i)}" for i, text in enumerate(raw)]}

    def forward(self, features: dict[str, Any], **_: Any) -> dict[str, Any]:
        """Add "sentence_embedding", [N, F] float32, on the encoder's device."""
        array = self.extractor(features["fungi_inputs"]).array
        device = next(self.encoder.parameters()).device
        return {**features, "sentence_embedding": torch.from_numpy(array).to(device)}

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
        **_: Any,
    ) -> FungiModule:
        """Read what `save` or `FungiExtractor.save_pretrained` wrote."""
        place = str(Path(model_name_or_path) / subfolder) if subfolder else model_name_or_path
        hub = HubOptions(revision, token, cache_folder, local_files_only)
        return cls(FungiExtractor.from_pretrained(place, **dataclasses.asdict(hub)))


def _rebuild(parts: ExtractorParts) -> FungiModule:
    return FungiModule(parts.build())
