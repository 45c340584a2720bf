"""What a report reads of a stored evaluation is there and is a number, or the field is named."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from fungi_hf.errors import StateError

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from fungi_hf.evaluation.records import EvaluationResult
    from fungi_hf.evaluation.sweeps.records import SweepResult

_COMPARED: Final = ("difference", "low", "high", "p")
_NEEDED: Final = {
    "layers": ("features", "part", "block", "accuracy"),
    "sketches": ("kind", "width", "rank", "cosine_rmse", "accuracy"),
}
_WORDS: Final = ("features", "part", "layer", "kind")


def check_record(one: EvaluationResult) -> None:
    """Refuse a record that no table or figure can be made of.

    Raises:
        StateError: Naming record and field.
    """
    place = f"the record {one.task}, {one.protocol}, {one.name}"
    fields: dict[str, Any] = {
        name: getattr(one, name) for name in ("metrics", "spread", "per_class", "against_baseline")
    }
    for name, values in fields.items():
        if not isinstance(values, dict):
            raise StateError(f"{place} is damaged: {name!r} must be an object; got {values!r}")
        _check_numbers(values.items(), f"{place} is damaged: {name!r}")
    main = "map" if one.task == "retrieval" else "accuracy"
    if main not in one.metrics:
        raise StateError(
            f"{place} is damaged: 'metrics' lacks {main!r}; it has "
            f"{', '.join(one.metrics) or 'nothing'}; write the file again"
        )
    for name in _COMPARED if one.against_baseline else ():
        if name not in one.against_baseline:
            raise StateError(
                f"{place} is damaged: 'against_baseline' lacks {name!r}; write the file again"
            )
    for name, ends in one.intervals.items():
        where = f"{place} is damaged: the interval of"
        if len(ends) != 2:
            raise StateError(f"{where} {name!r} must have two ends; got {len(ends)}")
        _check_numbers([(name, end) for end in ends], where)


def check_sweep(sweep: SweepResult) -> None:
    """Refuse a sweep that no figure can be made of.

    Raises:
        StateError: Naming row and column.
    """
    needed = _NEEDED.get(sweep.kind, ("features", sweep.kind, "accuracy"))
    for number, row in enumerate(sweep.rows):
        place = f"the sweep {sweep.kind!r} is damaged: row {number}"
        for name in needed:
            if name not in row:
                raise StateError(
                    f"{place} has no column {name!r}; it has {', '.join(row)}; write the file again"
                )
        cells = [(name, row[name]) for name in row if name not in _WORDS and row[name] is not None]
        _check_numbers(cells, place)


def check_matrix(names: tuple[Any, ...], values: tuple[tuple[Any, ...], ...]) -> None:
    """Refuse block similarities that are not square.

    Raises:
        StateError: Naming the field.
    """
    place = "the evaluation is damaged: 'linear_cka'"
    if any(len(row) != len(names) for row in (values, *values)):
        raise StateError(f"{place} must hold {len(names)} rows of {len(names)} values")
    _check_numbers([("values", cell) for row in values for cell in row], place)


def check_costs(costs: Mapping[str, Any]) -> None:
    """Refuse times that are not numbers."""
    _check_numbers(costs.items(), "the evaluation is damaged: 'costs'")


def _check_numbers(values: Iterable[tuple[str, Any]], place: str) -> None:
    for name, value in values:
        if isinstance(value, bool) or not isinstance(value, (int, float)):
            raise StateError(f"{place} {name!r} must be a number; got {value!r}; write it again")
