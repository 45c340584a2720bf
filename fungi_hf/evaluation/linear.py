"""Linear probe: logistic regression whose strength is chosen on validation rows alone."""

from __future__ import annotations

import math
import warnings
from dataclasses import dataclass
from numbers import Real
from typing import TYPE_CHECKING, Any

import numpy as np

from fungi_hf.errors import (
    ConfigError,
    InputTypeError,
    LabelError,
    OptionalDependencyError,
    choices,
)
from fungi_hf.evaluation.inputs import (
    check_kinds,
    check_pair,
    choose_combinations,
    expect,
    read_labelled,
    unseen_note,
)
from fungi_hf.evaluation.metrics import classification_metrics
from fungi_hf.evaluation.sampling import split_validation
from fungi_hf.evaluation.summary import Context, Draw, summarise
from fungi_hf.neighbors.base import check_count
from fungi_hf.neighbors.labels import encode_labels

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from fungi_hf.evaluation.inputs import (
        Combination,
        FeatureInput,
        LabelledRows,
    )
    from fungi_hf.evaluation.records import EvaluationResult
    from fungi_hf.neighbors.labels import Labels
    from fungi_hf.types import Float64Array


def _is_finite(value: object) -> bool:
    return isinstance(value, Real) and not isinstance(value, bool) and math.isfinite(value)


@dataclass(frozen=True, slots=True, kw_only=True)
class LinearProtocol:
    """How to fit.

    The objective is mean cross-entropy + strength / 2 |w|^2, so scikit-learn's C is
    1 / (strength x rows).

    Attributes:
        name: For the records.
        strengths: To choose from; the first of the best on validation wins.
        intercept: Whether to fit one.
        max_iterations: Of the solver.
        tolerance: Of the solver.
        validation_share: Held out of the training rows where no validation set is given.
        prefixes_only: Evaluate only the leading blocks 1, 1-2, 1-3, ... where no combinations are
            named, as published.
        pca: As for `KNNProtocol`.
        seed: Of the first validation split; the next ones count on.
        n_seeds: Validation splits, for the spread; one where a validation set is given.
    """

    name: str = "fungi"
    strengths: tuple[float, ...] = (1e-6, 1e-5, 1e-4, 1e-3, 1e-2)
    intercept: bool = True
    max_iterations: int = 1000
    tolerance: float = 1e-4
    validation_share: float = 0.2
    prefixes_only: bool = False
    pca: int | None = None
    seed: int = 42
    n_seeds: int = 1

    def __post_init__(self) -> None:
        """Check the ranges.

        Raises:
            ConfigError: If a value is out of range.
        """
        expect(self.strengths, tuple, "strengths")
        check_count(self.max_iterations, "max_iterations", 1, None)
        check_count(self.seed, "seed", 0, None)
        check_count(self.n_seeds, "n_seeds", 1, None)
        if self.pca is not None:
            check_count(self.pca, "pca", 1, None)
        if not self.strengths or not all(_is_finite(one) and one > 0 for one in self.strengths):
            raise ConfigError(
                f"strengths are {self.strengths}; at least one, all finite numbers above 0"
            )
        if not _is_finite(self.validation_share) or not 0 < self.validation_share < 1:
            raise ConfigError(
                f"validation_share is {self.validation_share!r}; allowed: between 0 and 1, e.g. 0.2"
            )
        if not _is_finite(self.tolerance) or self.tolerance < 0:
            raise ConfigError(
                f"tolerance is {self.tolerance!r}; allowed: finite numbers from 0, e.g. 1e-4"
            )
        for name in ("intercept", "prefixes_only"):
            if not isinstance(getattr(self, name), bool):
                raise ConfigError(f"{name} is {getattr(self, name)!r}; choose True or False")


LINEAR_PROTOCOLS: Mapping[str, LinearProtocol] = {
    "fungi": LinearProtocol(),
    "paper": LinearProtocol(
        name="paper",
        strengths=(5e-6, 1.2875e-4, 2.525e-4, 3.7625e-4, 5e-4),
        intercept=False,
        max_iterations=300,
        tolerance=1e-3,
        prefixes_only=True,
        pca=512,
    ),
}


def evaluate_linear(
    train: FeatureInput,
    train_labels: Labels,
    test: FeatureInput,
    test_labels: Labels,
    *,
    protocol: LinearProtocol | str = "fungi",
    combinations: Sequence[Sequence[str]] | None = None,
    validation: tuple[FeatureInput, Labels] | None = None,
) -> list[EvaluationResult]:
    """Fit a linear probe on every combination of blocks and judge it on the test rows.

    Args:
        train: [N, F] features with a layout, or an array.
        train_labels: N integers or strings, at least two classes.
        test: [Q, F] features of the same layout and fingerprint.
        test_labels: Q labels; those unseen in training count as wrong, which is noted.
        protocol: A `LinearProtocol`, or the name of one of `LINEAR_PROTOCOLS`.
        combinations: Block names to combine; None takes every combination.
        validation: Features and labels to choose the strength by. Without them a stratified
            share of the training rows is held out, and the final fit takes all training rows.

    Returns:
        One record a combination; the chosen strength is in the notes.

    Raises:
        InputTypeError: If the validation is not a pair.
        LabelError: If no validation label is among the training labels.
    """
    rule = _protocol(protocol)
    known, judged = (
        read_labelled(train, train_labels, "train"),
        read_labelled(test, test_labels, "test"),
    )
    check_pair(known, judged)
    encode_labels(known.labels, "train labels")
    notes = unseen_note(known.labels, judged.labels)
    if validation is not None:
        chooser = _read_validation(known, validation)
        notes += unseen_note(known.labels, chooser.labels, "validation")
        splits = [(known, chooser)]
    else:
        splits = _splits(known, rule)
    wanted = choose_combinations(known.layout, combinations)
    if combinations is None and rule.prefixes_only:
        names = tuple(known.layout)
        wanted = [names[: size + 1] for size in range(len(names))]
    draws = {
        some: [_probe(some, (*split, known, judged), rule) for split in splits] for some in wanted
    }
    seeds = [rule.seed + place for place in range(len(splits))]
    context = Context(task="linear", protocol=rule.name, settings=rule, seeds=seeds, notes=notes)
    return summarise(context, draws, judged)


def _read_validation(known: LabelledRows, validation: tuple[FeatureInput, Labels]) -> LabelledRows:
    """Give the rows to choose the strength by.

    Raises:
        InputTypeError: If they are not features and labels.
        LabelError: If all are of unseen classes, so that any strength is as good.
    """
    if not isinstance(validation, tuple | list) or len(validation) != 2:
        raise InputTypeError(
            f"validation is a {type(validation).__name__}; give a pair (features, labels)"
        )
    chooser = read_labelled(validation[0], validation[1], "validation")
    check_pair(known, chooser)
    check_kinds(known.labels, chooser.labels, ("train", "validation"))
    if not np.isin(chooser.labels, known.labels).any():
        raise LabelError(
            f"none of the {len(chooser)} validation labels, such as {chooser.labels[0].item()!r}, "
            "is among the training labels; no strength can be chosen by them"
        )
    return chooser


def _splits(known: LabelledRows, rule: LinearProtocol) -> list[tuple[LabelledRows, LabelledRows]]:
    """Give pairs of rows to fit on and rows to choose the strength by."""
    pairs = []
    for place in range(rule.n_seeds):
        kept, held = split_validation(known.labels, rule.validation_share, rule.seed + place)
        fitted = known.subset(kept)
        encode_labels(fitted.labels, "train labels")
        pairs.append((fitted, known.subset(held)))
    return pairs


def _probe(
    some: Combination,
    parts: tuple[LabelledRows, LabelledRows, LabelledRows, LabelledRows],
    rule: LinearProtocol,
) -> Draw:
    fitted, chooser, known, judged = parts
    (low, choose), notes = _reduced(some, fitted, chooser, rule)
    accuracies = []
    for strength in rule.strengths:
        model, _ = _fit(low, fitted, strength, rule)
        accuracies.append(float(np.mean(model.predict(choose) == chooser.labels)))
    best = rule.strengths[int(np.argmax(accuracies))]
    (low, high), _ = _reduced(some, known, judged, rule)
    model, warned = _fit(low, known, best, rule)
    predicted = model.predict(high)
    shares: Float64Array = model.predict_proba(high)
    metrics = classification_metrics(judged.labels, predicted, shares, model.classes_)
    metrics["validation_accuracy"] = max(accuracies)
    return Draw(
        metrics=metrics,
        scores=(predicted == judged.labels).astype(float),
        notes=(*notes, f"strength {best:g}", *warned),
        n_train=len(known),
    )


def _reduced(
    some: Combination, known: LabelledRows, other: LabelledRows, rule: LinearProtocol
) -> tuple[tuple[Any, Any], tuple[str, ...]]:
    from fungi_hf.extraction.reduction import project

    low, high = known.take(some), other.take(some)
    if rule.pca is None:
        return (low, high), ()
    if rule.pca < min(low.shape):
        return project(low, high, rule.pca), ()
    return (low, high), (f"PCA to {rule.pca} skipped: {len(low)} rows, width {low.shape[1]}",)


def _fit(
    rows: Any, known: LabelledRows, strength: float, rule: LinearProtocol
) -> tuple[Any, tuple[str, ...]]:
    try:
        from sklearn.exceptions import ConvergenceWarning
        from sklearn.linear_model import LogisticRegression
    except ModuleNotFoundError:
        raise OptionalDependencyError("sklearn", "evaluation") from None
    model = LogisticRegression(
        C=1 / (strength * len(rows)),
        fit_intercept=rule.intercept,
        max_iter=rule.max_iterations,
        tol=rule.tolerance,
    )
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", ConvergenceWarning)
        model.fit(rows.astype(np.float64), known.labels)
    stopped = any(issubclass(one.category, ConvergenceWarning) for one in caught)
    note = f"the solver stopped at {rule.max_iterations} iterations before converging"
    return model, (note,) if stopped else ()


def _protocol(protocol: LinearProtocol | str) -> LinearProtocol:
    if isinstance(protocol, LinearProtocol):
        return protocol
    if not isinstance(protocol, str) or protocol not in LINEAR_PROTOCOLS:
        raise ConfigError(f"unknown linear protocol {choices(protocol, LINEAR_PROTOCOLS)}")
    return LINEAR_PROTOCOLS[protocol]
