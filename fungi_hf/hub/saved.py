"""What an extractor does to be kept: read and write a folder, a repository of the Hub, a card."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Any, Self

from fungi_hf.hub import folders
from fungi_hf.storage.files import HubOptions
from fungi_hf.storage.sharing import PushOptions

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    import torch
    from torch import nn

    from fungi_hf.config import FungiConfig
    from fungi_hf.encoders.base import Encoder
    from fungi_hf.encoders.source import Source
    from fungi_hf.extraction.state import FittedState
    from fungi_hf.hub.card import Result
    from fungi_hf.tuning.report import TuningReport


class SavedExtractor(ABC):
    """The half of `fungi_hf.extractor.FungiExtractor` that is kept; the other half computes."""

    encoder: Encoder
    config: FungiConfig
    source: Source
    tuning: TuningReport | None

    @abstractmethod
    def __init__(
        self, encoder: Encoder, config: FungiConfig | None = None, *, source: Source | None = None
    ) -> None: ...

    @property
    @abstractmethod
    def state(self) -> FittedState:
        """What `fit` learned."""

    @property
    @abstractmethod
    def layout(self) -> dict[str, slice]:
        """Ordered block name -> slice of the columns."""

    @property
    @abstractmethod
    def fingerprint(self) -> str:
        """Identity of config, encoder and state."""

    @abstractmethod
    def digests(self) -> dict[str, str]:
        """Give a digest of every random object."""

    @abstractmethod
    def restore(self, state: FittedState, tuning: TuningReport | None = None) -> None:
        """Load fitted state and its evidence."""

    @classmethod
    def from_pretrained(  # noqa: PLR0913  (the ecosystem's own signature)
        cls,
        model_or_folder: str | Path | nn.Module,
        config: FungiConfig | None = None,
        processor: Any = None,
        *,
        device: str | torch.device | None = None,
        revision: str | None = None,
        token: str | bool | None = None,
        cache_dir: str | Path | None = None,
        local_files_only: bool = False,
        model: str | Path | nn.Module | None = None,
    ) -> Self:
        """Load an encoder, or a saved extractor with its config and fitted state.

        What is loaded is a Hub id or folder of a model; a folder or repository written by
        `save_pretrained`, which brings its config (`config` must be None, and `model` is the
        encoder where that is not where it was); or a loaded model with its `processor`, a
        tokenizer or feature extractor, whose own dtype is taken when `config` is None. `device` is
        for a model that is loaded here. The other options are those of
        `fungi_hf.storage.files.HubOptions`.

        Raises:
            EncoderError: If the model or its preprocessor cannot be used.
            StateError: If a saved folder's digests do not hold here.
            StorageError: If a folder or repository cannot be read.
            ConfigError: If the config does not fit the encoder.
        """
        hub = HubOptions(revision, token, cache_dir, local_files_only)
        loaded = folders.load(model_or_folder, config, processor, hub, device=device, model=model)
        extractor = cls(loaded.encoder, loaded.config, source=loaded.source)
        if loaded.saved is not None:
            extractor.restore(*loaded.saved.fitted(loaded.encoder, extractor.digests()))
        return extractor

    def save_pretrained(self, folder: str | Path) -> None:
        """Write config, encoder name, digests and fitted state; the model itself is not copied.

        Beside our two files, a folder that has none gets a `config.json` that points to the
        encoder (for `transformers.pipeline`) and a `modules.json` (for sentence-transformers). The
        folder is made if missing; files of a model that live there are not touched. One that
        cannot be written is a StorageError.
        """
        folders.save(self, folder)

    def push_to_hub(
        self,
        repo_id: str,
        *,
        commit_message: str | None = None,
        private: bool | None = None,
        token: str | bool | None = None,
        revision: str | None = None,
        create_pr: bool = False,
    ) -> str:
        """Push what `save_pretrained` writes, and a card, as `FungiConfig.push_to_hub` does.

        A repository that cannot be written is a StorageError. Gives the address of the commit.
        """
        options = PushOptions(commit_message, private, token, revision, create_pr)
        return folders.push(self, repo_id, options)

    def make_card(self, results: Iterable[Result] = (), *, place: str = "") -> str:
        """Render a model card: Markdown with the Hub's YAML head, for README.md.

        Its snippet loads `place`; an empty one, the encoder with the config. A result of another
        type is an InputError.
        """
        return folders.card(self, results, place)
