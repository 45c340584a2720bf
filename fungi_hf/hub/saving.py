"""Saving and pushing an extractor: config, encoder's name, fitted state, digests.

Invariant: a model's own files are never overwritten.
"""

from __future__ import annotations

import json
import tempfile
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Protocol

from fungi_hf.encoders.loading import encoder_digest
from fungi_hf.hub.card import Subject, render_card
from fungi_hf.hub.reference import reference_text
from fungi_hf.storage.digests import json_digest
from fungi_hf.storage.files import FORMAT, replace_file, write_folder
from fungi_hf.storage.upload import push_folder
from fungi_hf.tuning.report import TUNING_NAME

if TYPE_CHECKING:
    from collections.abc import Iterable

    from fungi_hf.config import FungiConfig
    from fungi_hf.encoders.base import Encoder
    from fungi_hf.encoders.loading import Source
    from fungi_hf.extraction.state import FittedState
    from fungi_hf.hub.card import Result
    from fungi_hf.storage.upload import PushOptions
    from fungi_hf.tuning.report import TuningReport

_MODULES: Final = [
    {
        "idx": 0,
        "name": "0",
        "path": "",
        "type": "fungi_hf.integrations.sentence_transformers.FungiModule",
    }
]


class Savable(Protocol):
    """What is saved of an extractor."""

    encoder: Encoder
    config: FungiConfig
    source: Source
    tuning: TuningReport | None

    @property
    def state(self) -> FittedState:
        """What `fit` learned."""

    @property
    def fingerprint(self) -> str:
        """Digest of config, encoder and state."""

    @property
    def layout(self) -> dict[str, slice]:
        """Block name -> columns."""

    def digests(self) -> dict[str, str]:
        """Give a digest of every random object."""


def save(
    extractor: Savable, folder: str | Path, *, with_model: bool = False, public: bool = False
) -> None:
    """Write an extractor.

    Args:
        extractor: What to save; its model is not copied.
        folder: Made if missing; files of a model that live there are not touched.
        with_model: The model is in the folder: no reference to another one is written.
        public: For a repository: a local folder's name is left out.

    Raises:
        StorageError: If the folder cannot be written.
    """
    name, encoder = extractor.source.name, extractor.encoder
    if name and Path(name).is_dir():
        name = "" if public else str(Path(name).resolve())
    fields = extractor.config.to_dict()
    document = {
        "format": FORMAT,
        "config": fields,
        "encoder": {"name": name, "revision": extractor.source.revision},
        "resolved": resolved(encoder),
        "digests": {
            **extractor.digests(),
            "config": json_digest(fields),
            "state": extractor.state.digest(),
            "encoder": encoder_digest(encoder),
        },
        "fingerprint": extractor.fingerprint,
        "layout": {name: [part.start, part.stop] for name, part in extractor.layout.items()},
    }
    extras = {"modules.json": json.dumps(_MODULES, indent=2) + "\n"}
    if not with_model:
        extras["config.json"] = reference_text(name)
    write_folder(folder, document, extractor.state.to_tensors(), extras)
    report = Path(folder) / TUNING_NAME
    if extractor.tuning is not None:
        replace_file(report, extractor.tuning.to_json().encode())
    elif report.exists():  # another extractor's
        report.unlink()


def resolved(encoder: Encoder) -> dict[str, Any]:
    """Give layer, pooling and length as they were found, as fields of a config."""
    return {
        "target_layer": encoder.layer_path,
        "pooling": encoder.pooling,
        "max_length": encoder.max_length,
    }


def card(extractor: Savable, results: Iterable[Result], place: str) -> str:
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


def push(extractor: Savable, repo_id: str, options: PushOptions) -> str:
    """Push what `save` writes, and a card, in one commit.

    Returns:
        The address of the commit or pull request.

    Raises:
        StorageError: If the repository cannot be written.
    """
    if not extractor.source.name or Path(extractor.source.name).is_dir():
        warnings.warn(
            "the encoder is no repository of the Hub: whoever loads this must pass model=",
            stacklevel=3,
        )
    with tempfile.TemporaryDirectory() as folder:
        save(extractor, folder, public=True)
        (Path(folder) / "README.md").write_text(card(extractor, (), repo_id), "utf-8")
        return push_folder(folder, repo_id, options)
