"""Extractors in folders and repositories: config, encoder's name, fitted state, digests.

Invariant: a model's own files are never overwritten; whatever is wrong with a saved folder is an
error before anything of it is used.
"""

from __future__ import annotations

import dataclasses
import json
import tempfile
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NamedTuple, Protocol

import torch

from fungi_hf.config import FungiConfig
from fungi_hf.encoders.loading import encoder_digest, load_encoder
from fungi_hf.errors import ConfigError, EncoderError, StateError
from fungi_hf.extraction.state import FittedState
from fungi_hf.hub.card import Subject, render_card
from fungi_hf.storage import files
from fungi_hf.storage.sharing import push_folder
from fungi_hf.tuning.report import TUNING_NAME, TuningReport

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from torch import nn

    from fungi_hf.encoders.base import Encoder
    from fungi_hf.encoders.source import Source
    from fungi_hf.hub.card import Result
    from fungi_hf.storage.sharing import PushOptions

_RESOLVED: Final = ("target_layer", "pooling", "max_length", "prompts", "default_prompt_name")
_MODULE: Final = "fungi_hf.integrations.sentence_transformers.FungiModule"


class _Savable(Protocol):
    """What is saved of an extractor."""

    encoder: Encoder
    config: FungiConfig
    source: Source
    tuning: TuningReport | None

    @property
    def state(self) -> FittedState: ...
    @property
    def fingerprint(self) -> str: ...
    @property
    def layout(self) -> dict[str, slice]: ...
    def digests(self) -> dict[str, str]: ...


def save(
    extractor: _Savable, folder: str | Path, *, with_model: bool = False, public: bool = False
) -> None:
    """Write an extractor; its model is not copied, and a model's files there are not touched.

    In a folder `with_model` no reference to another one is written; in a `public` one, for a
    repository, a local folder's name is left out.
    """
    name, encoder = extractor.source.name, extractor.encoder
    if name and Path(name).is_dir():
        name = "" if public else str(Path(name).resolve())
    fields = extractor.config.to_dict()
    document = {
        "format": files.FORMAT,
        "config": fields,
        "encoder": {"name": name, "revision": extractor.source.revision},
        "resolved": resolved(encoder),
        "digests": _digests(extractor.digests(), fields, extractor.state, encoder),
        "fingerprint": extractor.fingerprint,
        "layout": {name: [part.start, part.stop] for name, part in extractor.layout.items()},
    }
    modules = [{"idx": 0, "name": "0", "path": "", "type": _MODULE}]
    extras = {"modules.json": json.dumps(modules, indent=2) + "\n"}
    if not with_model:
        extras["config.json"] = files.reference_text(name)
    files.write_folder(folder, document, extractor.state.to_tensors(), extras)
    report = Path(folder) / TUNING_NAME
    if extractor.tuning is not None:
        files.replace_file(report, extractor.tuning.to_json().encode())
    elif report.exists():  # another extractor's
        report.unlink()


def resolved(encoder: Encoder) -> dict[str, Any]:
    """Give layer, pooling, length and prompts as they were found, as fields of a config."""
    found: dict[str, Any] = {
        "target_layer": encoder.layer_path,
        "pooling": encoder.pooling,
    }
    if encoder.modality != "vision":  # an image's size is in its processor's settings
        found["max_length"] = encoder.max_length
    if encoder.prompts:
        names = [name for name, text in encoder.prompts.items() if text == encoder.default_prompt]
        found["prompts"] = dict(encoder.prompts)
        found["default_prompt_name"] = names[0] if names and encoder.default_prompt else ""
    return found


def _digests(
    drawn: Mapping[str, str], fields: dict[str, Any], state: FittedState, encoder: Encoder
) -> dict[str, str]:
    known = {"config": files.json_digest(fields), "state": state.digest()}
    return {**drawn, **known, "encoder": encoder_digest(encoder)}


def card(extractor: _Savable, results: Iterable[Result], place: str) -> str:
    """Render an extractor's model card; see `FungiExtractor.make_card`."""
    name, encoder = extractor.source.name, extractor.encoder
    base = "" if Path(name).is_dir() else name
    subject = Subject(
        title=place.rpartition("/")[2] or f"FUNGI features of {base or 'a local encoder'}",
        config=extractor.config,
        base_model=base,
        place=place,
        modality=encoder.modality,
        target_layer=encoder.layer_path,
        pooling=encoder.pooling,
        fingerprint=extractor.fingerprint,
    )
    return render_card(subject, results)


def push(extractor: _Savable, repo_id: str, options: PushOptions) -> str:
    """Push what `save` writes, and a card, in one commit, and give its address."""
    if not extractor.source.name or Path(extractor.source.name).is_dir():
        warnings.warn(
            "the encoder is no repository of the Hub: whoever loads this must pass model=",
            stacklevel=3,
        )
    with tempfile.TemporaryDirectory() as folder:
        save(extractor, folder, public=True)
        (Path(folder) / "README.md").write_text(card(extractor, (), repo_id), "utf-8")
        return push_folder(folder, repo_id, options, own=(TUNING_NAME,))


@dataclasses.dataclass(frozen=True, slots=True)
class _SavedExtractor:
    """A folder or repository that `save_pretrained` wrote, and its `fungi_config.json`, checked.

    Whatever is wrong with it is a StateError.
    """

    place: str | Path
    hub: files.HubOptions
    config: FungiConfig
    document: Mapping[str, Any]

    @classmethod
    def read(cls, place: str | Path, path: Path, hub: files.HubOptions) -> _SavedExtractor:
        document = files.read_document(path)
        for key in ("encoder", "resolved", "digests"):
            if not isinstance(document.get(key) or {}, dict):
                raise StateError(f"{path}: {key!r} must be an object; got {document[key]!r}")
        for key in document.get("resolved") or {}:
            if key not in _RESOLVED:
                raise StateError(f"{path}: 'resolved' has an unknown field {key!r}")
        if path.parent.parent.name == "snapshots":
            # A repository may move on between two files: the rest is read from the same commit.
            hub = dataclasses.replace(hub, revision=path.parent.name)
        return cls(place, hub, FungiConfig.from_dict(document["config"]), document)

    def encoder(
        self, given: str | Path | nn.Module | None
    ) -> tuple[str | Path | nn.Module, files.HubOptions]:
        # Which encoder to load and how to reach it.
        if given is not None:
            return given, dataclasses.replace(self.hub, revision=None)
        beside = files.find_file(self.place, "config.json", self.hub)
        if beside is not None and not files.is_reference(beside):
            return self.place, self.hub
        recorded = self.document.get("encoder") or {}
        name, revision = recorded.get("name"), recorded.get("revision")
        if not name:
            raise StateError(
                f"{str(self.place)!r} does not name its encoder (it was made from a model object "
                "or a local folder); pass model="
            )
        if not isinstance(name, str) or not isinstance(revision, (str, type(None))):
            raise StateError(
                f"{str(self.place)!r}: the encoder's name must be a text; got {name!r}"
            )
        if not Path(self.place).is_dir() and (Path(name).is_absolute() or ".." in Path(name).parts):
            raise StateError(
                f"{str(self.place)!r} names an encoder outside of the Hub: {name!r}; pass model="
            )
        return name, dataclasses.replace(self.hub, revision=revision)

    def fitted(
        self, encoder: Encoder, digests: Mapping[str, str]
    ) -> tuple[FittedState, TuningReport | None]:
        # The fitted state and how the config was chosen; the digests are those drawn here.
        path = files.find_file(self.place, files.STATE_NAME, self.hub)
        state = FittedState.from_tensors({} if path is None else files.read_tensors(path))
        stored = self.document.get("digests") or {}
        if "state" not in stored and path is not None:
            raise StateError(f"{str(self.place)!r} holds fitted state without its digest")
        here = _digests(digests, self.document["config"], state, encoder)
        for name, digest in stored.items():
            if here.get(name) != digest:
                raise StateError(
                    f"the digest of {name!r} is {here.get(name)} here and {digest} in the saved "
                    "folder: a file was altered, the encoder's weights differ, or this version "
                    "of torch draws other random numbers; features would not be comparable"
                )
        report = files.find_file(self.place, TUNING_NAME, self.hub)
        return state, None if report is None else TuningReport.read(report)


class _Loaded(NamedTuple):
    """What an extractor is made of; without `saved`, a bare model's, there is no fitted state."""

    encoder: Encoder
    source: Source
    config: FungiConfig
    saved: _SavedExtractor | None = None


def load(
    model_or_folder: str | Path | nn.Module,
    config: FungiConfig | None,
    processor: Any,
    hub: files.HubOptions,
    *,
    device: str | torch.device | None = None,
    model: str | Path | nn.Module | None = None,
) -> _Loaded:
    """Load an encoder, or the encoder and config of a saved extractor.

    The arguments are those of `FungiExtractor.from_pretrained`; `hub` is the way to a repository.

    Raises:
        ConfigError: If the config is none, or does not belong to what is loaded.
        EncoderError: If a model is none.
    """
    if config is not None and not isinstance(config, FungiConfig):
        raise ConfigError(f"config must be a FungiConfig or None; got {type(config).__name__}")
    for given in (model_or_folder, *(() if model is None else (model,))):
        if not isinstance(given, (str, Path, torch.nn.Module)):
            raise EncoderError(
                "a model is a Hub id, a folder or a loaded torch module; got "
                f"{type(given).__name__}: {given!r:.60}"
            )
    if not isinstance(model_or_folder, torch.nn.Module):
        found = files.find_file(model_or_folder, files.CONFIG_NAME, hub)
        if found is not None:
            if config is not None:
                raise ConfigError(
                    f"{str(model_or_folder)!r} brings its own config; pass config=None, or the "
                    "model's own name with your config"
                )
            saved = _SavedExtractor.read(model_or_folder, found, hub)
            where, hub = saved.encoder(model)
            # Layer, pooling and length as they were found when it was saved.
            config = saved.config.replace(**(saved.document.get("resolved") or {}))
            encoder = load_encoder(where, config, processor=processor, device=device, hub=hub)
            return _Loaded(*encoder, saved.config, saved)
    if model is not None:
        raise ConfigError(
            f"model= is for saved extractors; there is no {files.CONFIG_NAME} in "
            f"{str(model_or_folder)!r}"
        )
    if config is None:
        config = FungiConfig()
        if isinstance(model_or_folder, torch.nn.Module):
            dtype = str(next(model_or_folder.parameters()).dtype).removeprefix("torch.")
            config = config.replace(dtype=dtype)
    encoder = load_encoder(model_or_folder, config, processor=processor, device=device, hub=hub)
    return _Loaded(*encoder, config)
