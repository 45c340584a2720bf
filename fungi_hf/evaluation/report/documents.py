"""One JSON file for all that an evaluation found: records, block similarities, costs, sweeps.

A file is a function of its content: no time, no machine, so that equal runs give equal files.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from fungi_hf.errors import StateError, StorageError
from fungi_hf.evaluation.records import EvaluationResult
from fungi_hf.evaluation.report.document_checks import (
    check_costs,
    check_matrix,
    check_record,
    check_sweep,
)
from fungi_hf.evaluation.sweeps.records import SweepResult

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

RECORD: Final = "fungi-hf-evaluation-set"


@dataclass(frozen=True, slots=True, kw_only=True)
class EvaluationDocument:
    """What one run of `fungi-hf evaluate` or `fungi-hf sweep` found.

    Attributes:
        results: Records of any tasks and protocols.
        similarity: Block names and their linear CKA, [blocks, blocks]; empty names: not computed.
        costs: Combination -> extraction time over that of the embedding alone.
        sweeps: Results of sweeps.
        source: Where the features come from: model, data, fingerprint, versions.
    """

    results: tuple[EvaluationResult, ...] = ()
    similarity: tuple[tuple[str, ...], tuple[tuple[float, ...], ...]] = ((), ())
    costs: Mapping[str, float] = field(default_factory=dict)
    sweeps: tuple[SweepResult, ...] = ()
    source: Mapping[str, Any] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """Give plain, JSON-able values."""
        names, values = self.similarity
        return {
            "record": RECORD,
            "version": 1,
            "source": dict(self.source),
            "results": [one.to_dict() for one in self.results],
            "linear_cka": {"blocks": list(names), "values": [list(row) for row in values]},
            "costs": dict(self.costs),
            "sweeps": [one.to_dict() for one in self.sweeps],
        }

    def to_json(self) -> str:
        """Give `to_dict` as a JSON text."""
        return json.dumps(self.to_dict(), indent=2, ensure_ascii=False, allow_nan=False)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> EvaluationDocument:
        """Read what `to_dict` gave, or a single record or sweep.

        Raises:
            StateError: If it is neither, or a field that a report needs is missing or odd.
        """
        try:
            found = cls._parse(values)
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            what = f"{error} is missing" if isinstance(error, KeyError) else f"{error}"
            raise StateError(f"the evaluation is damaged: {what}; write the file again") from None
        for record in found.results:
            check_record(record)
        for sweep in found.sweeps:
            check_sweep(sweep)
        check_matrix(*found.similarity)
        check_costs(found.costs)
        return found

    @classmethod
    def _parse(cls, values: Mapping[str, Any]) -> EvaluationDocument:
        """Read any of the three kinds.

        Raises:
            StateError: If it is none of them.
        """
        if values.get("record") == "fungi-hf-evaluation":
            return cls(results=(EvaluationResult.from_dict(values),))
        if values.get("record") == "fungi-hf-sweep":
            return cls(sweeps=(SweepResult.from_dict(values),))
        if values.get("record") != RECORD or values.get("version") != 1:
            raise StateError(
                f"not an evaluation of version 1: record is {values.get('record')!r}, version is "
                f"{values.get('version')!r}; `fungi-hf evaluate --out FILE` writes one"
            )
        alike = values["linear_cka"]
        return cls(
            results=tuple(EvaluationResult.from_dict(one) for one in values["results"]),
            similarity=(tuple(alike["blocks"]), tuple(tuple(row) for row in alike["values"])),
            costs=dict(values["costs"]),
            sweeps=tuple(SweepResult.from_dict(one) for one in values["sweeps"]),
            source=dict(values["source"]),
        )


def write_document(path: str | Path, document: EvaluationDocument) -> None:
    """Write the JSON file.

    Raises:
        StorageError: If it cannot be written.
    """
    try:
        Path(path).write_text(document.to_json() + "\n", encoding="utf-8")
    except OSError as error:
        raise StorageError(f"the evaluation cannot be written to {path}: {error}") from error


def read_documents(paths: Sequence[str | Path]) -> EvaluationDocument:
    """Read JSON files and join them.

    Args:
        paths: Files of `write_document`, or of single records.

    Returns:
        One document; block similarities, costs and source are those of the first file with any.

    Raises:
        StorageError: If a file is missing or not JSON.
        StateError: If it is no evaluation.
    """
    parts = [_read(Path(path)) for path in paths]
    return EvaluationDocument(
        results=tuple(one for part in parts for one in part.results),
        similarity=next((part.similarity for part in parts if part.similarity[0]), ((), ())),
        costs=next((part.costs for part in parts if part.costs), {}),
        sweeps=tuple(one for part in parts for one in part.sweeps),
        source=next((part.source for part in parts if part.source), {}),
    )


def _read(path: Path) -> EvaluationDocument:
    """Read one file.

    Raises:
        StorageError: If it is missing or not JSON.
        StateError: If it is no evaluation.
    """
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise StorageError(f"cannot read {path}: {error.strerror}") from None
    except (ValueError, RecursionError) as error:
        raise StorageError(f"{path} is not JSON: {error}") from None
    if not isinstance(values, dict):
        raise StateError(f"{path} holds a {type(values).__name__}; an evaluation is an object")
    try:
        return EvaluationDocument.from_dict(values)
    except StateError as error:
        raise StateError(f"{path}: {error}") from None
