"""Saving, loading and pushing an extractor: config, encoder's name, fitted state, digests.

Invariant: whatever is wrong with a folder is an error before anything of it is used; a model's own
files are never overwritten.
"""

from __future__ import annotations

import json
import tempfile
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Self

import torch

from fungi_hf.config import FungiConfig
from fungi_hf.encoders.loading import encoder_digest, load_encoder
from fungi_hf.errors import ConfigError, EncoderError
from fungi_hf.extraction.state import FittedState
from fungi_hf.hub.reference import reference_text
from fungi_hf.hub.saved import SavedExtractor, config_digest
from fungi_hf.storage.files import (
    CONFIG_NAME,
    FORMAT,
    HubOptions,
    find_file,
    replace_file,
    write_folder,
)
from fungi_hf.storage.upload import Pushable, push_folder
from fungi_hf.tuning.report import TUNING_NAME, TuningReport

if TYPE_CHECKING:
    from collections.abc import Iterable

    from torch import nn

    from fungi_hf.encoders.base import Encoder
    from fungi_hf.encoders.loading import Source
    from fungi_hf.hub.card import Result
    from fungi_hf.storage.upload import PushOptions

_MODULES: Final = [
    {
        "idx": 0,
        "name": "0",
        "path": "",
        "type": "fungi_hf.integrations.sentence_transformers.FungiModule",
    }
]


class Shareable(Pushable):
    """The part of `FungiExtractor` that reads and writes folders and repositories."""

    encoder: Encoder
    config: FungiConfig
    source: Source
    state: FittedState
    tuning: TuningReport | None
    fingerprint: Any
    layout: Any

    if TYPE_CHECKING:

        def __init__(
            self, encoder: Encoder, config: FungiConfig | None = None, *, source: Source | None
        ) -> None: ...

        def restore(self, state: FittedState) -> None:  # noqa: D102
            ...

        def digests(self) -> dict[str, str]:  # noqa: D102
            ...

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

        Args:
            model_or_folder: A Hub id or folder of a model; a folder or repository written by
                `save_pretrained`; or a loaded model.
            config: What to compute. Must be None for a saved extractor. A loaded model's own
                dtype is taken when it is None.
            processor: The loaded model's tokenizer or feature extractor.
            device: Where to put a model that is loaded here.
            revision: Branch, tag or commit.
            token: Access token of the Hub.
            cache_dir: Cache folder of the Hub.
            local_files_only: Do not ask the network.
            model: The encoder of a saved extractor when it is not where it was.

        Returns:
            The extractor.

        Raises:
            EncoderError: If the model or its preprocessor cannot be used.
            StateError: If a saved folder's digests do not hold here.
            StorageError: If a folder or repository cannot be read.
            ConfigError: If the config does not fit the encoder.
        """
        hub = HubOptions(
            revision=revision, token=token, cache_dir=cache_dir, local_files_only=local_files_only
        )
        if config is not None and not isinstance(config, FungiConfig):
            raise ConfigError(f"config must be a FungiConfig or None; got {type(config).__name__}")
        for given in (model_or_folder, *(() if model is None else (model,))):
            if not isinstance(given, (str, Path, torch.nn.Module)):
                raise EncoderError(
                    "a model is a Hub id, a folder or a loaded torch module; got "
                    f"{type(given).__name__}: {given!r:.60}"
                )
        if not isinstance(model_or_folder, torch.nn.Module):
            found = find_file(model_or_folder, CONFIG_NAME, hub)
            if found is not None:
                if config is not None:
                    raise ConfigError(
                        f"{str(model_or_folder)!r} brings its own config; pass config=None, or the "
                        "model's own name with your config"
                    )
                saved = SavedExtractor.read(model_or_folder, found, hub)
                return cls._load(saved, processor, device, model)
        if model is not None:
            raise ConfigError(
                f"model= is for saved extractors; there is no {CONFIG_NAME} in "
                f"{str(model_or_folder)!r}"
            )
        if config is None:
            config = FungiConfig()
            if isinstance(model_or_folder, torch.nn.Module):
                dtype = str(next(model_or_folder.parameters()).dtype).removeprefix("torch.")
                config = config.replace(dtype=dtype)
        encoder, source = load_encoder(
            model_or_folder, config, processor=processor, device=device, hub=hub
        )
        return cls(encoder, config, source=source)

    @classmethod
    def _load(
        cls,
        saved: SavedExtractor,
        processor: Any,
        device: str | torch.device | None,
        model: str | Path | nn.Module | None,
    ) -> Self:
        where, hub = saved.encoder(model)
        encoder, source = load_encoder(
            where, saved.resolved_config(), processor=processor, device=device, hub=hub
        )
        extractor = cls(encoder, saved.config, source=source)
        state = FittedState.from_tensors(saved.tensors())
        here = {
            **extractor.digests(),
            "config": config_digest(saved.document["config"]),
            "state": state.digest(),
            "encoder": encoder_digest(encoder),
        }
        saved.check_digests(here)
        extractor.restore(state)
        report = find_file(saved.place, TUNING_NAME, saved.hub)
        if report is not None:
            extractor.tuning = TuningReport.read(report)
        return extractor

    def save_pretrained(self, folder: str | Path) -> None:
        """Write config, encoder name, digests and fitted state; the model itself is not copied.

        Beside our two files, a folder that has none gets a `config.json` that points to the
        encoder (for `transformers.pipeline`) and a `modules.json` (for sentence-transformers).

        Args:
            folder: Made if missing. Files of a model that live there are not touched.

        Raises:
            StorageError: If the folder cannot be written.
        """
        self.write(folder)

    def write(self, folder: str | Path, *, with_model: bool = False, public: bool = False) -> None:
        """Do what `save_pretrained` does, for callers that add files of their own.

        Args:
            folder: Made if missing.
            with_model: The model is in the folder: no reference to another one is written.
            public: For a repository: a local folder's name is left out.

        Raises:
            StorageError: If the folder cannot be written.
        """
        name = self.source.name
        if name and Path(name).is_dir():
            name = "" if public else str(Path(name).resolve())
        document = {
            "format": FORMAT,
            "config": self.config.to_dict(),
            "encoder": {"name": name, "revision": self.source.revision},
            "resolved": {
                "target_layer": self.encoder.layer_path,
                "pooling": self.encoder.pooling,
                "max_length": self.encoder.max_length,
            },
            "digests": {
                **self.digests(),
                "config": config_digest(self.config.to_dict()),
                "state": self.state.digest(),
                "encoder": encoder_digest(self.encoder),
            },
            "fingerprint": self.fingerprint,
            "layout": {name: [part.start, part.stop] for name, part in self.layout.items()},
        }
        extras = {"modules.json": json.dumps(_MODULES, indent=2) + "\n"}
        if not with_model:
            extras["config.json"] = reference_text(name)
        write_folder(folder, document, self.state.to_tensors(), extras)
        report = Path(folder) / TUNING_NAME
        if self.tuning is not None:
            replace_file(report, self.tuning.to_json().encode())
        elif report.exists():  # another extractor's
            report.unlink()

    def make_card(self, results: Iterable[Result] = (), *, place: str = "") -> str:
        """Render a model card.

        Args:
            results: What was measured (`fungi_hf.hub.card.Result`).
            place: The repository or folder that the snippet loads; empty takes the encoder with
                the config.

        Returns:
            Markdown with the Hub's YAML head; write it to README.md.

        Raises:
            InputError: If a result is of another type.
        """
        from fungi_hf.hub.card import Subject, render_card

        base = self.source.name if self.source.name and not Path(self.source.name).is_dir() else ""
        subject = Subject(
            title=place.rpartition("/")[2] or f"FUNGI features of {base or 'a local encoder'}",
            config=self.config,
            base_model=base,
            place=place,
            modality=self.encoder.modality,
            target_layer=self.encoder.layer_path,
            pooling=self.encoder.pooling,
            fingerprint=self.fingerprint,
        )
        return render_card(subject, results)

    def _push(self, repo_id: str, options: PushOptions) -> str:
        if not self.source.name or Path(self.source.name).is_dir():
            warnings.warn(
                "the encoder is no repository of the Hub: whoever loads this must pass model=",
                stacklevel=3,
            )
        with tempfile.TemporaryDirectory() as folder:
            self.write(folder, public=True)
            (Path(folder) / "README.md").write_text(self.make_card(place=repo_id), "utf-8")
            return push_folder(folder, repo_id, options)
