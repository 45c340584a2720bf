"""A paired comparison of two runs over the same rows."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, get_args

from fungi_hf.checks import check_choice
from fungi_hf.errors import ComparisonError, InputTypeError
from fungi_hf.icl.results import EvalResult
from fungi_hf.statistics import bootstrap_difference, mcnemar_p, smallest_difference

if TYPE_CHECKING:
    from collections.abc import Sequence

    from fungi_hf.icl.examples import RowId
    from fungi_hf.icl.results import RowResult

Scope = Literal["all", "common"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """How run a differs from run b, row by row."""

    n: int  # rows compared
    n_right_a: int  # rows that a has right
    n_right_b: int  # rows that b has right
    gained: tuple[RowId, ...]  # ids that only a has right
    lost: tuple[RowId, ...]  # ids that only b has right
    delta: float  # accuracy of a less accuracy of b
    interval: tuple[float, float]  # 95 % paired bootstrap interval of delta
    p: float  # exact two-sided McNemar p-value
    smallest_delta: float  # the difference that n rows would show with 80 % power
    n_left_out: int = 0  # rows that only one run has, or that one has not finished

    def __str__(self) -> str:
        low, high = self.interval
        lines = [
            f"rows        {self.n}" + (f" ({self.n_left_out} left out)" if self.n_left_out else ""),
            f"accuracy    {self.n_right_a / self.n:.4f} against {self.n_right_b / self.n:.4f}",
            f"difference  {self.delta:+.4f}, 95 % interval [{low:+.4f}, {high:+.4f}]",
            f"McNemar     p = {self.p:.4g} (exact, two-sided)",
            f"gained      {len(self.gained)}{_some(self.gained)}",
            f"lost        {len(self.lost)}{_some(self.lost)}",
            f"detectable  {self.smallest_delta:.4f} with 80 % power at this share of flips",
        ]
        return "\n".join(lines)


def compare(a: EvalResult, b: EvalResult, *, rows: Scope = "all", seed: int = 0) -> Comparison:
    """Compare the run of interest, a, with b over the same queries; differences are a less b.

    `rows="all"` needs two complete runs over the same ids; "common" takes the rows that both have
    finished. The seed is for the bootstrap.

    Raises:
        ComparisonError: If scope, ids or gold labels do not fit, or a run is incomplete.
    """
    check_choice("rows", rows, get_args(Scope), error=ComparisonError)
    first, second = _by_id(a, "a", rows), _by_id(b, "b", rows)
    common = [key for key in first if key in second]
    n_left_out = len(first.keys() | second.keys()) - len(common)
    if n_left_out and rows == "all":
        only_a = [key for key in first if key not in second]
        only_b = [key for key in second if key not in first]
        raise ComparisonError(
            f"the runs have different ids: {len(only_a)} only in a{_some(only_a)}, {len(only_b)} "
            f"only in b{_some(only_b)}; pass rows='common' to compare the {len(common)} others"
        )
    if not common:
        raise ComparisonError("the runs have no finished row in common")
    unequal = [key for key in common if first[key].gold != second[key].gold]
    if unequal:
        key = unequal[0]
        raise ComparisonError(
            f"{len(unequal)} rows have different gold labels: id {key!r} has {first[key].gold!r} "
            f"in a and {second[key].gold!r} in b"
        )
    gained = tuple(key for key in common if first[key].correct and not second[key].correct)
    lost = tuple(key for key in common if second[key].correct and not first[key].correct)
    counts = len(gained), len(lost), len(common)
    # No run has finished these, so that they appear in neither table.
    unfinished = {row.id for run in (a, b) for row in run.rows} - first.keys() - second.keys()
    return Comparison(
        n=len(common),
        n_right_a=sum(bool(first[key].correct) for key in common),
        n_right_b=sum(bool(second[key].correct) for key in common),
        gained=gained,
        lost=lost,
        delta=(len(gained) - len(lost)) / len(common),
        interval=bootstrap_difference(*counts, seed=seed),
        p=mcnemar_p(len(gained), len(lost)),
        smallest_delta=smallest_difference(*counts),
        n_left_out=n_left_out + len(unfinished),
    )


def _by_id(result: EvalResult, name: str, scope: Scope) -> dict[RowId, RowResult]:
    if not isinstance(result, EvalResult):
        raise InputTypeError(f"{name} is {type(result).__name__}; an EvalResult is needed")
    failed = [row.id for row in result.rows if row.status == "failed"]
    if scope == "all" and (failed or not result.complete):
        raise ComparisonError(
            f"run {name} is incomplete ({len(failed)} failed rows{_some(failed)}); run it again "
            "to finish it, or pass rows='common'"
        )
    by_id: dict[RowId, RowResult] = {}
    for row in result.rows:
        if row.id in by_id:
            raise ComparisonError(f"run {name} has id {row.id!r} twice")
        if row.status != "failed":
            by_id[row.id] = row
    return by_id


def _some(ids: Sequence[RowId]) -> str:
    if not ids:
        return ""
    more = ", ..." if len(ids) > 5 else ""
    return f" ({', '.join(map(repr, ids[:5]))}{more})"
