"""A classifier in a folder: beside the extractor's files `classifier.json` and its arrays.

Invariant: JSON and safetensors alone; whatever was altered, is missing or belongs to another
extractor is named before anything of it is used.
"""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, cast, get_args

from fungi_hf.classifier import labels
from fungi_hf.classifier.evidence import Measured
from fungi_hf.classifier.heads import HeadName
from fungi_hf.errors import StateError, StorageError
from fungi_hf.neighbors.classifier import Weights
from fungi_hf.storage import files
from fungi_hf.storage.files import CLASSIFIER_NAME

if TYPE_CHECKING:
    from collections.abc import Mapping

    import numpy.typing as npt

    from fungi_hf.classifier.labels import ClassArray

ARRAYS: Final = "classifier.safetensors"
KIND: Final = "fungi-hf-classifier"
_FORMAT: Final = 1
_MOST_BYTES: Final = 1 << 26
_FIELDS: Final = {
    "head": str,
    "n_neighbors": int,
    "weights": str,
    "voters": int,
    "strength": float,
    "n_groups": int,
    "fingerprint": str,
    "counts": list,
    "notes": list,
    "results": list,
    "labels": dict,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Record:
    """Everything of a fitted classifier but its extractor and its arrays.

    Attributes:
        head: "neighbors" or "linear".
        n_neighbors: As it was asked for.
        weights: Of the votes.
        voters: K that votes: n_neighbors, at most half of the rows.
        strength: Of a linear head; 0 for the other.
        n_groups: Groups of training rows; 0 where none were named.
        fingerprint: Of the extractor.
        classes: [C] labels, sorted.
        counts: Training rows of each class.
        notes: Facts about the fit.
        results: What was measured.
    """

    head: str
    n_neighbors: int
    weights: str
    voters: int
    strength: float
    n_groups: int
    fingerprint: str
    classes: ClassArray
    counts: tuple[int, ...]
    notes: tuple[str, ...]
    results: tuple[Measured, ...]

    @property
    def n_rows(self) -> int:
        """Training rows."""
        return sum(self.counts)

    def to_dict(self) -> dict[str, Any]:
        """Give plain data."""
        fields = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        fields["labels"] = labels.to_json(fields.pop("classes"))
        fields["results"] = [one.to_dict() for one in self.results]
        return fields | {"counts": list(self.counts), "notes": list(self.notes)}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Record:
        """Read plain data.

        Raises:
            StateError: If a field is missing, of the wrong type, or none of the choices.
        """
        for name, kind in _FIELDS.items():
            if type(data.get(name)) is not kind:
                raise StateError(f"{name!r} must be a {kind.__name__}; got {data.get(name)!r:.60}")
        for name, kinds in {"head": HeadName, "weights": Weights}.items():
            if data[name] not in get_args(kinds):
                raise StateError(f"{name!r} is {data[name]!r}; known: {get_args(kinds)}")
        classes = labels.from_json(data["labels"])
        if any(type(one) is not int for one in data["counts"]) or len(data["counts"]) != len(
            classes
        ):
            raise StateError(f"'counts' must be {len(classes)} whole numbers, one a label")
        plain = {name: data[name] for name in _FIELDS if name not in ("labels", "results")}
        plain["counts"], plain["notes"] = tuple(data["counts"]), tuple(map(str, data["notes"]))
        results = tuple(Measured.from_dict(one) for one in data["results"])
        return cls(**plain, classes=classes, results=results)


def write(folder: str | Path, record: Record, arrays: dict[str, npt.NDArray[Any]]) -> None:
    """Write both files, the arrays first; a folder that cannot be written is a StorageError.

    Raises:
        StorageError: If the folder cannot be written.
    """
    import torch
    from safetensors.torch import save

    tensors = {name: torch.from_numpy(array.copy()) for name, array in arrays.items()}
    fields = record.to_dict()
    document = {
        "kind": KIND,
        "format": _FORMAT,
        **fields,
        "digests": {
            ARRAYS: files.tensor_digest(tensors),
            CLASSIFIER_NAME: files.json_digest(fields),
        },
    }
    text = json.dumps(document, indent=2, ensure_ascii=False, allow_nan=False) + "\n"
    target = Path(folder)
    try:
        target.mkdir(parents=True, exist_ok=True)
        files.replace_file(target / ARRAYS, save(tensors))
        files.replace_file(target / CLASSIFIER_NAME, text.encode("utf-8", "backslashreplace"))
    except OSError as error:
        raise StorageError(f"cannot write to {target}: {error}") from None


def read(
    place: str | Path, hub: files.HubOptions
) -> tuple[Record, dict[str, npt.NDArray[Any]], files.HubOptions]:
    """Read both files, checked, and the way to the very commit that they are from.

    Raises:
        StorageError: If there is no classifier, or a file of it is missing.
        StateError: If one was altered or is damaged.
    """
    path = files.find_file(place, CLASSIFIER_NAME, hub)
    if path is None:
        raise StorageError(
            f"{str(place)!r} holds no classifier: there is no {CLASSIFIER_NAME}; "
            "FungiClassifier.save_pretrained and `fungi-hf tune --classifier` write one"
        )
    if path.parent.parent.name == "snapshots":  # the repository may move on meanwhile
        hub = dataclasses.replace(hub, revision=path.parent.name)
    document = _document(path)
    digests = document.pop("digests", None)
    digests = digests if isinstance(digests, dict) else {}
    fields = {name: value for name, value in document.items() if name not in ("kind", "format")}
    _compare(path, digests.get(CLASSIFIER_NAME), files.json_digest(fields))
    found = {name: files.find_file(place, name, hub) for name in (ARRAYS, files.CONFIG_NAME)}
    for name, beside in found.items():
        if beside is None:
            raise StorageError(f"{str(place)!r} lacks {name}, which its {CLASSIFIER_NAME} needs")
    arrays = cast("Path", found[ARRAYS])
    tensors = files.read_tensors(arrays)
    _compare(arrays, digests.get(ARRAYS), files.tensor_digest(tensors))
    try:
        record = Record.from_dict(fields)
    except StateError as error:
        raise StateError(f"{path} is damaged: {error}") from None
    return record, {name: tensor.numpy() for name, tensor in tensors.items()}, hub


def _document(path: Path) -> dict[str, Any]:
    if path.stat().st_size > _MOST_BYTES:
        raise StateError(f"{path} is larger than {_MOST_BYTES} bytes: it describes no classifier")
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise StateError(f"{path} is damaged: not JSON: {error}") from None
    if not isinstance(document, dict) or document.get("kind") != KIND:
        raise StateError(f"{path} describes no classifier: its kind is not {KIND!r}")
    version = document.get("format")
    if not isinstance(version, int) or version > _FORMAT:
        raise StateError(
            f"{path} has layout version {version!r}, this package reads {_FORMAT}: upgrade fungi-hf"
        )
    return document


def _compare(path: Path, wanted: Any, found: str) -> None:
    if wanted != found:
        raise StateError(
            f"{path} was altered: its digest is {found}, {CLASSIFIER_NAME} says {wanted}; fetch or "
            "save the classifier again"
        )
