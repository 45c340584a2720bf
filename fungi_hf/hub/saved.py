"""A saved extractor's folder or repository, read and checked before anything of it is used."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from fungi_hf.config import FungiConfig
from fungi_hf.errors import StateError
from fungi_hf.hub.reference import is_reference
from fungi_hf.storage.files import STATE_NAME, find_file, read_document, read_tensors

if TYPE_CHECKING:
    from collections.abc import Mapping

    import torch
    from torch import nn

    from fungi_hf.storage.files import HubOptions

_RESOLVED: Final = ("target_layer", "pooling", "max_length")


@dataclasses.dataclass(frozen=True, slots=True)
class SavedExtractor:
    """A folder or repository that `save_pretrained` wrote, checked.

    Attributes:
        place: The folder or repository.
        hub: How to reach it.
        config: What it computes.
        document: Its `fungi_config.json`.
    """

    place: str | Path
    hub: HubOptions
    config: FungiConfig
    document: Mapping[str, Any]

    @classmethod
    def read(cls, place: str | Path, path: Path, hub: HubOptions) -> SavedExtractor:
        """Read and check `fungi_config.json`.

        Raises:
            StateError: If a field has the wrong type.
        """
        document = read_document(path)
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

    def resolved_config(self) -> FungiConfig:
        """Give the config with layer, pooling and length as they were found when it was saved."""
        return self.config.replace(**(self.document.get("resolved") or {}))

    def encoder(
        self, given: str | Path | nn.Module | None
    ) -> tuple[str | Path | nn.Module, HubOptions]:
        """Say which encoder to load and how to reach it.

        Raises:
            StateError: If the folder does not name one, or names something outside of the Hub.
        """
        if given is not None:
            return given, dataclasses.replace(self.hub, revision=None)
        beside = find_file(self.place, "config.json", self.hub)
        if beside is not None and not is_reference(beside):
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

    def tensors(self) -> dict[str, torch.Tensor]:
        """Read the fitted state; none is an empty dictionary."""
        path = find_file(self.place, STATE_NAME, self.hub)
        return {} if path is None else read_tensors(path)

    def check_digests(self, here: Mapping[str, str]) -> None:
        """Compare what is here with what was there.

        Raises:
            StateError: Naming the first that differs.
        """
        stored = self.document.get("digests") or {}
        if "state" not in stored and find_file(self.place, STATE_NAME, self.hub) is not None:
            raise StateError(f"{str(self.place)!r} holds fitted state without its digest")
        for name, digest in stored.items():
            if here.get(name) != digest:
                raise StateError(
                    f"the digest of {name!r} is {here.get(name)} here and {digest} in the saved "
                    "folder: a file was altered, the encoder's weights differ, or this version "
                    "of torch draws other random numbers; features would not be comparable"
                )


def config_digest(data: Mapping[str, Any]) -> str:
    """Digest of a config as the file holds it: fields of later versions do not count."""
    text = json.dumps(data, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:16]
