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
from fungi_hf.storage.digests import json_digest
from fungi_hf.storage.files import FORMAT, reference_text, replace_file, write_folder
from fungi_hf.storage.sharing import push_folder
from fungi_hf.tuning.report import TUNING_NAME

if TYPE_CHECKING:
    from collections.abc import Iterable

    from fungi_hf.config import FungiConfig
    from fungi_hf.encoders.base import Encoder
    from fungi_hf.encoders.loading import Source
    from fungi_hf.extraction.state import FittedState
    from fungi_hf.hub.card import Result
    from fungi_hf.storage.sharing import PushOptions
    from fungi_hf.tuning.report import TuningReport

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
    modules = [{"idx": 0, "name": "0", "path": "", "type": _MODULE}]
    extras = {"modules.json": json.dumps(modules, indent=2) + "\n"}
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
        return push_folder(folder, repo_id, options)
