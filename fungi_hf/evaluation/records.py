"""The one record that every evaluation gives: outcomes become numbers with where they come from."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TypeAlias

import numpy as np

from fungi_hf.errors import StateError, StorageError, choices
from fungi_hf.evaluation.protocols import need
from fungi_hf.statistics import bootstrap_interval, paired_difference

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    import numpy.typing as npt
    from _typeshed import DataclassInstance

    from fungi_hf.evaluation.inputs import Combination, LabelledRows
    from fungi_hf.neighbors.labels import LabelArray
    from fungi_hf.types import Float64Array

RECORD: Final = "fungi-hf-evaluation"
SWEEP: Final = "fungi-hf-sweep"
SUFFIXES: Final = (".json", ".csv")
CONTROL: Final = "control: "  # begins the only block of what is no feature under test
_MAIN: Final = {"retrieval": "map", "segmentation": "miou"}
Cell: TypeAlias = str | int | float | None
Setting: TypeAlias = str | int | float | bool | Sequence[float] | None


@dataclass(frozen=True, slots=True, kw_only=True)
class EvaluationResult:
    """What one protocol says about one combination of blocks.

    Attributes:
        task: `knn`, `linear`, `clustering`, `retrieval` or `segmentation`.
        metrics: Metric name -> value, the mean over draws or seeds; shares are in [0, 1].
        spread: Metric name -> standard deviation over draws or seeds (n - 1), where several.
        intervals: Metric name -> 95 % bootstrap interval over test rows (images, for
            segmentation).
        against_baseline: `difference` of the main metric to the baseline's, its `low` and `high`
            (95 %), and `p` of the paired test; empty for the baseline itself.
        per_class: Class -> recall; IoU for segmentation.
        n_train: Rows to learn from, per draw.
        n_test: Rows to judge.
        notes: Facts that a reader needs, e.g. a PCA that was skipped.
        scores: [draws, N] per-row outcome (1 = right; average precision for retrieval; each
            image's own mIoU for segmentation), for paired tests; not in the JSON.
    """

    task: str
    protocol: str
    blocks: tuple[str, ...]
    metrics: Mapping[str, float]
    spread: Mapping[str, float] = field(default_factory=dict)
    intervals: Mapping[str, tuple[float, float]] = field(default_factory=dict)
    against_baseline: Mapping[str, float] = field(default_factory=dict)
    per_class: Mapping[str, float] = field(default_factory=dict)
    settings: Mapping[str, Setting] = field(default_factory=dict)
    seeds: tuple[int, ...] = ()
    n_train: int = 0
    n_test: int = 0
    fingerprint: str | None = None
    notes: tuple[str, ...] = ()
    scores: Float64Array | None = field(default=None, compare=False, repr=False)

    @property
    def main(self) -> str:
        """The metric that the task is judged by."""
        return _MAIN.get(self.task, "accuracy")

    @property
    def is_control(self) -> bool:
        """Whether it shows what needs no feature at all, or no training: no candidate for best."""
        return self.name.startswith(CONTROL)

    @property
    def name(self) -> str:
        """The combination in one word, e.g. `embedding+kl`."""
        return "+".join(self.blocks)

    def to_dict(self) -> dict[str, Any]:
        """Give plain, JSON-able values, without the per-row scores."""
        return to_plain(RECORD, self, "scores")

    def to_json(self) -> str:
        """Give `to_dict` as a JSON text."""
        return json.dumps(self.to_dict(), indent=2, allow_nan=False)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> EvaluationResult:
        """Read what `to_dict` gave, without per-row scores."""
        kept = read_plain(values, RECORD, {one.name for one in fields(cls)} - {"scores"})
        for name in ("blocks", "seeds", "notes"):
            kept[name] = tuple(kept[name])
        kept["intervals"] = {name: tuple(ends) for name, ends in kept["intervals"].items()}
        return cls(**kept)


@dataclass(frozen=True, slots=True, kw_only=True)
class SweepResult:
    """A table of variants.

    Attributes:
        kind: `layers`, `sketches`, or the swept field of an objective, e.g. `temperature`.
        settings: What all rows share.
        rows: Column -> value, the same columns in every row; shares are in [0, 1].
        notes: Facts that a reader needs, e.g. a layer that was left out.
    """

    kind: str
    settings: Mapping[str, Any] = field(default_factory=dict)
    rows: tuple[Mapping[str, Cell], ...]
    notes: tuple[str, ...] = ()

    @property
    def columns(self) -> list[str]:
        """Names of all columns, in order."""
        return list(dict.fromkeys(name for row in self.rows for name in row))

    def to_dict(self) -> dict[str, Any]:
        """Give plain, JSON-able values."""
        return to_plain(SWEEP, self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> SweepResult:
        """Read what `to_dict` gave."""
        kept = read_plain(values, SWEEP, [one.name for one in fields(cls)])
        rows = tuple(dict(row) for row in kept["rows"])
        return cls(**kept | {"rows": rows, "notes": tuple(kept["notes"])})

    def to_csv(self) -> str:
        """Give the rows as CSV with a header; an absent value is an empty cell."""
        target = io.StringIO()
        writer = csv.DictWriter(target, self.columns, lineterminator="\n")
        writer.writeheader()
        writer.writerows(self.rows)
        return target.getvalue()

    def write(self, path: str | Path) -> None:
        """Write a .json or .csv file.

        Raises:
            StorageError: If the suffix is another.
        """
        place = Path(path)
        if place.suffix not in SUFFIXES:
            raise StorageError(f"{path}: unknown kind of file {choices(place.suffix, SUFFIXES)}")
        text = json.dumps(self.to_dict(), indent=2, allow_nan=False) + "\n"
        write_text(place, self.to_csv() if place.suffix == ".csv" else text, "sweep")


def to_plain(record: str, one: DataclassInstance, *left_out: str) -> dict[str, Any]:
    """Give the fields of a dataclass with their kind and version."""
    names = [field.name for field in fields(one) if field.name not in left_out]
    return {"record": record, "version": 1, **{name: getattr(one, name) for name in names}}


def read_plain(values: Mapping[str, Any], record: str, names: Iterable[str]) -> dict[str, Any]:
    """Give the fields of a stored object after its kind, version and keys are checked.

    Raises:
        StateError: If it is of another kind or version, or keys are missing or unknown.
    """
    if values.get("record") != record or values.get("version") != 1:
        raise StateError(
            f"not a {record} of version 1: record is {values.get('record')!r}, "
            f"version is {values.get('version')!r}; `fungi-hf evaluate` and `sweep` write such "
            "files with --out"
        )
    odd = sorted({*values, "record", "version"} ^ {*names, "record", "version"})
    if odd:
        raise StateError(f"the {record} has missing or unknown keys: {', '.join(odd)}")
    return {name: values[name] for name in names}


def write_text(path: str | Path, text: str, what: str) -> None:
    """Write a file.

    Raises:
        StorageError: If it cannot be written.
    """
    try:
        Path(path).write_text(text, encoding="utf-8")
    except OSError as error:
        raise StorageError(f"the {what} cannot be written to {path}: {error}") from error


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
    first = ("embedding",) if ("embedding",) in draws else next(iter(draws))
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
