"""One JSON file for all that an evaluation found: records, block similarities, costs, sweeps.

A file is a function of its content: no time, no machine, so that equal runs give equal files.
What a report reads of a file is there and is a number, or the field is named.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from fungi_hf.errors import StateError, StorageError
from fungi_hf.evaluation import records
from fungi_hf.evaluation.records import EvaluationResult, SweepResult, read_plain, write_text

if TYPE_CHECKING:
    from collections.abc import Sequence

RECORD: Final = "fungi-hf-evaluation-set"
_DAMAGED: Final = "the evaluation is damaged:"
_COLUMNS: Final = {
    "layers": ("features", "part", "block", "accuracy"),
    "sketches": ("kind", "width", "rank", "cosine_rmse", "accuracy"),
}
_TEXTS: Final = {"features", "part", "layer", "kind"}


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
        """Read what `to_dict` gave, or a single record or sweep; nothing else is checked."""
        if values.get("record") == records.RECORD:
            return cls(results=(EvaluationResult.from_dict(values),))
        if values.get("record") == records.SWEEP:
            return cls(sweeps=(SweepResult.from_dict(values),))
        kept = read_plain(values, RECORD, ("source", "results", "linear_cka", "costs", "sweeps"))
        alike = kept["linear_cka"]
        return cls(
            results=tuple(EvaluationResult.from_dict(one) for one in kept["results"]),
            similarity=(tuple(alike["blocks"]), tuple(tuple(row) for row in alike["values"])),
            costs=dict(kept["costs"]),
            sweeps=tuple(SweepResult.from_dict(one) for one in kept["sweeps"]),
            source=dict(kept["source"]),
        )


def write_document(path: str | Path, document: EvaluationDocument) -> None:
    """Write the JSON file."""
    write_text(path, document.to_json() + "\n", "evaluation")


def read_documents(paths: Sequence[str | Path]) -> EvaluationDocument:
    """Read JSON files of documents, single records or sweeps, and join them.

    Block similarities, costs and source are those of the first file with any.
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
    # Read one file; what is missing or odd in it is a `StateError` that names the field.
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise StorageError(f"cannot read {path}: {error.strerror}") from None
    except (ValueError, RecursionError) as error:
        raise StorageError(f"{path} is not JSON: {error}") from None
    if not isinstance(values, dict):
        raise StateError(f"{path} holds a {type(values).__name__}; an evaluation is an object")
    try:
        _check(found := EvaluationDocument.from_dict(values))
    except StateError as error:
        raise StateError(f"{path}: {error}") from None
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        what = f"{error} is missing" if isinstance(error, KeyError) else error
        raise StateError(f"{path}: {_DAMAGED} {what}; write the file again") from None
    return found


def _check(document: EvaluationDocument) -> None:
    # Refuse what no table or figure can be made of.
    for one in document.results:
        place = f"the record {one.task}, {one.protocol}, {one.name} is damaged:"
        compared = ("difference", "low", "high", "p") if one.against_baseline else ()
        needed = {"metrics": [one.main], "against_baseline": compared}
        for name in ("metrics", "spread", "per_class", "against_baseline"):
            _check_numbers(getattr(one, name), f"{place} {name!r}", needed.get(name, ()))
        for name, ends in one.intervals.items():
            _check_row(ends, 2, f"{place} the interval of {name!r}")
    for sweep in document.sweeps:
        columns = _COLUMNS.get(sweep.kind, ("features", sweep.kind, "accuracy"))
        for number, row in enumerate(sweep.rows):
            place = f"the sweep {sweep.kind!r} is damaged: row {number}"
            _check_numbers(row, place, columns, cells=True)
    names, values = document.similarity
    if len(values) != len(names):
        raise StateError(f"{_DAMAGED} 'linear_cka' must hold {len(names)} rows; write it again")
    for alike in values:
        _check_row(alike, len(names), f"{_DAMAGED} a row of 'linear_cka'")
    _check_numbers(document.costs, f"{_DAMAGED} 'costs'")


def _check_numbers(
    values: object, place: str, needed: Sequence[str] = (), *, cells: bool = False
) -> None:
    # Refuse what is no object of numbers; cells of a table may be empty, or texts in some columns.
    if not isinstance(values, Mapping):
        raise StateError(f"{place} must be an object; got {values!r}; write the file again")
    lacking = [name for name in needed if name not in values]
    if lacking:
        held = ", ".join(values) or "nothing"
        raise StateError(f"{place} lacks {lacking[0]!r}; it has {held}; write the file again")
    for name, value in values.items():
        if not (cells and (value is None or name in _TEXTS)):
            _check_row([value], 1, f"{place} {name!r}")


def _check_row(row: Sequence[Any], n: int, place: str) -> None:
    # Refuse what is not so many numbers.
    odd = [one for one in row if isinstance(one, bool) or not isinstance(one, int | float)]
    if odd or len(row) != n:
        what = "a number" if n == 1 else f"{n} numbers"
        got = row[0] if n == 1 else list(row)
        raise StateError(f"{place} must be {what}; got {got!r}; write the file again")
