"""From draws to records: means, spreads, intervals, and the paired test against the baseline."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, field, is_dataclass, replace
from typing import TYPE_CHECKING, TypeAlias

import numpy as np

from fungi_hf.evaluation.records import EvaluationResult
from fungi_hf.statistics import bootstrap_interval, paired_difference

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from _typeshed import DataclassInstance

    from fungi_hf.evaluation.inputs import Combination, LabelledRows
    from fungi_hf.evaluation.records import Setting
    from fungi_hf.types import Float64Array

BASELINE = ("embedding",)


@dataclass(frozen=True, slots=True, kw_only=True)
class Draw:
    """What one draw or seed gave.

    Attributes:
        metrics: Metric name -> value.
        scores: [N] per-row outcome whose mean is the main metric; NaN where a row has none.
            None where there are no per-row outcomes.
        notes: Facts for the record.
        n_train: Rows that it learnt from.
    """

    metrics: Mapping[str, float]
    scores: Float64Array | None = None
    notes: tuple[str, ...] = ()
    n_train: int = 0

    def with_notes(self, notes: tuple[str, ...], n_train: int) -> Draw:
        """Give the same with notes and the number of training rows."""
        return replace(self, notes=self.notes + notes, n_train=n_train)


Draws: TypeAlias = "Mapping[Combination, Sequence[Draw]]"


@dataclass(frozen=True, slots=True, kw_only=True)
class Context:
    """What all records of one run share.

    Attributes:
        task: See `EvaluationResult`.
        protocol: Its name.
        settings: The protocol, a dataclass.
        seeds: One a draw.
        main: The metric whose per-row values are `Draw.scores`.
        notes: For all records.
    """

    task: str
    protocol: str
    settings: DataclassInstance
    seeds: Sequence[int]
    main: str = "accuracy"
    notes: tuple[str, ...] = field(default=())


def summarise(context: Context, draws: Draws, judged: LabelledRows) -> list[EvaluationResult]:
    """Give one record a combination.

    Args:
        context: What they share.
        draws: Combination -> its draws, all with the same metrics.
        judged: The test rows.

    Returns:
        Records in the order of the draws.
    """
    first = BASELINE if BASELINE in draws else next(iter(draws))
    baseline = _table(draws[first])
    return [
        _record(context, some, own, judged, None if some == first else baseline)
        for some, own in draws.items()
    ]


def _record(
    context: Context,
    some: Combination,
    draws: Sequence[Draw],
    judged: LabelledRows,
    baseline: Float64Array | None,
) -> EvaluationResult:
    names = [name for name in draws[0].metrics if all(name in draw.metrics for draw in draws)]
    values = {name: np.array([draw.metrics[name] for draw in draws]) for name in names}
    table = _table(draws)
    intervals, against, per_class = {}, {}, {}
    if table is not None:
        kept = table[:, ~np.isnan(table).any(axis=0)]
        intervals = {context.main: bootstrap_interval(kept)}
        per_class = _per_class(table, judged)
        if baseline is not None:
            against = paired_difference(baseline[:, ~np.isnan(baseline).any(axis=0)], kept)
    return EvaluationResult(
        task=context.task,
        protocol=context.protocol,
        blocks=some,
        metrics={name: float(value.mean()) for name, value in values.items()},
        spread={n: float(v.std(ddof=1)) for n, v in values.items() if len(draws) > 1},
        intervals=intervals,
        against_baseline=against,
        per_class=per_class,
        settings=_settings(context.settings),
        seeds=tuple(context.seeds),
        n_train=draws[0].n_train,
        n_test=len(judged),
        fingerprint=judged.rows.fingerprint,
        notes=context.notes + tuple(dict.fromkeys(note for draw in draws for note in draw.notes)),
        scores=table,
    )


def _table(draws: Sequence[Draw]) -> Float64Array | None:
    tables = [draw.scores for draw in draws if draw.scores is not None]
    return np.stack(tables) if len(tables) == len(draws) else None


def _per_class(table: Float64Array, judged: LabelledRows) -> dict[str, float]:
    classes, codes = np.unique(judged.labels, return_inverse=True)
    if len(classes) < 2:
        return {}
    rows = table.mean(axis=0)
    held = ~np.isnan(rows)
    totals = np.bincount(codes[held], rows[held], len(classes))
    counts = np.bincount(codes[held], minlength=len(classes))
    shares = totals / np.maximum(counts, 1)
    return {str(c): float(s) for c, s, n in zip(classes, shares, counts, strict=True) if n}


def _settings(protocol: DataclassInstance) -> dict[str, Setting]:
    if not is_dataclass(protocol):
        return {}
    return {
        name: value
        for name, value in asdict(protocol).items()
        if not (isinstance(value, float) and math.isnan(value))
    }


def change_per_class(result: EvaluationResult, baseline: EvaluationResult) -> dict[str, float]:
    """Give each class's recall minus that of the baseline, largest gain first.

    Args:
        result: A record with `per_class`.
        baseline: Of the same test rows.

    Returns:
        Class -> difference of shares.
    """
    shared = [name for name in result.per_class if name in baseline.per_class]
    changes = {name: result.per_class[name] - baseline.per_class[name] for name in shared}
    return dict(sorted(changes.items(), key=lambda item: (-item[1], item[0])))
