"""A paired comparison of two runs over the same rows."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, get_args

from fungi_hf.checks import check_choice
from fungi_hf.errors import ComparisonError, InputTypeError
from fungi_hf.icl.results import EvalResult
from fungi_hf.statistics import (
    bootstrap_difference,
    mcnemar_p,
    paired_difference,
    smallest_difference,
)

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
    delta: float  # accuracy or mean score of a less that of b
    interval: tuple[float, float]  # 95 % paired bootstrap interval of delta
    p: float  # two-sided p-value: exact McNemar's, or of 10,000 random flips of signs
    smallest_delta: float  # the difference that n rows would show with 80 % power
    n_left_out: int = 0  # rows that only one run has, or that one has not finished
    metric: str | None = None  # what scored free answers; `gained` and `lost` are better and worse
    mean_a: float = 0.0  # accuracy or mean score of a
    mean_b: float = 0.0  # of b
    test: str = "McNemar"  # "McNemar"; of scores between 0 and 1 "sign flips"

    def __str__(self) -> str:
        low, high = self.interval
        name, graded = self.metric or "accuracy", self.test != "McNemar"
        how, spread = ("10,000 draws", "spread") if graded else ("exact", "share of flips")
        lines = [
            f"rows        {self.n}" + (f" ({self.n_left_out} left out)" if self.n_left_out else ""),
            f"{name:<11} {self.mean_a:.4f} against {self.mean_b:.4f}",
            f"difference  {self.delta:+.4f}, 95 % interval [{low:+.4f}, {high:+.4f}]",
            f"{self.test:<11} p = {self.p:.4g} ({how}, two-sided)",
            f"gained      {len(self.gained)}{_some(self.gained)}",
            f"lost        {len(self.lost)}{_some(self.lost)}",
            f"detectable  {self.smallest_delta:.4f} with 80 % power at this {spread}",
        ]
        return "\n".join(lines)


def compare(a: EvalResult, b: EvalResult, *, rows: Scope = "all", seed: int = 0) -> Comparison:
    """Compare the run of interest, a, with b over the same queries; differences are a less b.

    `rows="all"` needs two complete runs over the same ids; "common" takes the rows that both have
    finished. The seed is for the bootstrap. Scores between 0 and 1 (free answers) are compared by
    `fungi_hf.statistics.paired_difference`, without the seed.

    Raises:
        ComparisonError: If scope, ids, metrics or gold labels do not fit, or a run is incomplete.
    """
    check_choice("rows", rows, get_args(Scope), error=ComparisonError)
    first, second = _by_id(a, "a", rows), _by_id(b, "b", rows)
    if a.metric != b.metric:
        raise ComparisonError(
            f"run a is scored by {a.metric or 'labels'}, run b by {b.metric or 'labels'}; "
            "EvalResult.rescored (--metric) scores free answers by another metric"
        )
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
    n = len(common)
    points = [[run[key].points for key in common] for run in (first, second)]
    pairs = list(zip(common, *points, strict=True))
    gained = tuple(key for key, mine, other in pairs if mine > other)
    lost = tuple(key for key, mine, other in pairs if other > mine)
    counts = len(gained), len(lost), n
    if {*points[0], *points[1]} <= {0.0, 1.0}:
        delta, p, test = (len(gained) - len(lost)) / n, mcnemar_p(len(gained), len(lost)), "McNemar"
        interval, smallest = bootstrap_difference(*counts, seed=seed), smallest_difference(*counts)
    else:
        found = paired_difference(points[1], points[0])
        delta, p, test = found["difference"], found["p"], "sign flips"
        interval = found["low"], found["high"]
        # The same rule: the mean square of the differences is their share where all are 0 or 1.
        smallest = 2.80 * math.sqrt(math.fsum((x - y) ** 2 for _, x, y in pairs)) / n
    # No run has finished these, so that they appear in neither table.
    unfinished = {row.id for run in (a, b) for row in run.rows} - first.keys() - second.keys()
    return Comparison(
        n=n,
        n_right_a=sum(bool(first[key].correct) for key in common),
        n_right_b=sum(bool(second[key].correct) for key in common),
        gained=gained,
        lost=lost,
        delta=delta,
        interval=interval,
        p=p,
        smallest_delta=smallest,
        n_left_out=n_left_out + len(unfinished),
        metric=a.metric,
        mean_a=sum(points[0]) / n,
        mean_b=sum(points[1]) / n,
        test=test,
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
