"""From predictions to records: metrics, means, spreads, intervals, paired tests."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from fungi_hf.evaluation.protocols import need
from fungi_hf.evaluation.records import EvaluationResult
from fungi_hf.statistics import bootstrap_interval, paired_difference

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import numpy.typing as npt

    from fungi_hf.evaluation.inputs import Combination, LabelledRows
    from fungi_hf.neighbors.labels import LabelArray
    from fungi_hf.types import Float64Array

BASELINE = ("embedding",)


@dataclass(frozen=True, slots=True, kw_only=True)
class Draw:
    """What one draw or seed of n_train rows gave.

    Scores are the outcome of each row, [N], whose mean is the main metric; NaN is none.
    """

    metrics: Mapping[str, float]
    scores: Float64Array
    notes: tuple[str, ...] = ()
    n_train: int


def classification_metrics(
    truth: LabelArray, predicted: LabelArray, classes: LabelArray, second: Float64Array | None
) -> dict[str, float]:
    """Give `accuracy`, `mean_per_class` (recall, over the classes of the truth) and, of two, `auc`.

    True labels [N] not among the classes [C] are always wrong; second [N] is the share of the
    second of two classes.
    """
    right = truth == predicted
    recalls = [*recall_per_class(truth, right).values()]
    values = {"accuracy": float(right.mean()), "mean_per_class": float(np.mean(recalls))}
    if second is not None and np.array_equal(np.unique(truth), classes):
        score = need("sklearn.metrics").roc_auc_score
        values["auc"] = float(score(truth == classes[1], second))
    return values


def recall_per_class(truth: LabelArray, right: npt.ArrayLike) -> dict[str, float]:
    """Give the mean of each true class's outcomes [N], which may themselves be means over draws."""
    classes, codes = np.unique(truth, return_inverse=True)
    shares = np.bincount(codes, right) / np.bincount(codes)
    return dict(zip(map(str, classes), shares.tolist(), strict=True))


def summarise(
    task: str,
    rule: Any,
    draws: Mapping[Combination, Sequence[Draw]],
    judged: LabelledRows,
    *,
    seeds: Sequence[int] = (),
    notes: tuple[str, ...] = (),
) -> list[EvaluationResult]:
    """Give one record a combination, in the order of the draws; the rule is the task's protocol."""
    shared = EvaluationResult(
        task=task,
        protocol=rule.name,
        blocks=(),
        metrics={},
        settings=asdict(rule),
        seeds=tuple(seeds),
        n_test=len(judged),
        fingerprint=judged.rows.fingerprint,
        notes=notes,
    )
    tables = {some: np.stack([draw.scores for draw in own]) for some, own in draws.items()}
    first = BASELINE if BASELINE in draws else next(iter(draws))
    baseline = _without_gaps(tables[first])
    records = []
    for some, own in draws.items():
        values, outcomes = _values(own), _without_gaps(tables[some])
        recalls = recall_per_class(judged.labels, tables[some].mean(axis=0))
        records.append(
            replace(
                shared,
                blocks=some,
                metrics={name: float(value.mean()) for name, value in values.items()},
                spread={n: float(v.std(ddof=1)) for n, v in values.items() if len(own) > 1},
                intervals={shared.main: bootstrap_interval(outcomes)},
                against_baseline={} if some == first else paired_difference(baseline, outcomes),
                per_class=recalls if len(recalls) > 1 else {},
                n_train=own[0].n_train,
                notes=notes + tuple(dict.fromkeys(note for draw in own for note in draw.notes)),
                scores=tables[some],
            )
        )
    return records


def change_per_class(result: EvaluationResult, baseline: EvaluationResult) -> dict[str, float]:
    """Give class -> recall minus that of a baseline of the same test rows, largest gain first."""
    shared = [name for name in result.per_class if name in baseline.per_class]
    changes = {name: result.per_class[name] - baseline.per_class[name] for name in shared}
    return dict(sorted(changes.items(), key=lambda item: (-item[1], item[0])))


def _values(draws: Sequence[Draw]) -> dict[str, Float64Array]:
    """Give metric -> [draws], of the metrics that every draw has."""
    names = [name for name in draws[0].metrics if all(name in draw.metrics for draw in draws)]
    return {name: np.array([draw.metrics[name] for draw in draws]) for name in names}


def _without_gaps(table: Float64Array) -> Float64Array:
    """Leave out the rows that have no outcome in some draw."""
    return table[:, ~np.isnan(table).any(axis=0)]
