"""Linear probe: logistic regression whose strength is chosen on validation rows alone."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from fungi_hf.checks import check_fields, check_flag, check_integer, check_number
from fungi_hf.errors import ConfigError, InputTypeError, LabelError
from fungi_hf.evaluation.inputs import (
    check_pair,
    choose_combinations,
    read_labelled,
    read_sides,
    unseen_note,
)
from fungi_hf.evaluation.protocols import (
    AS_INPUT,
    check_each,
    converge,
    need,
    protocol_named,
    reduced,
)
from fungi_hf.evaluation.records import Draw, classification_metrics, summarise
from fungi_hf.neighbors.labels import encode_labels
from fungi_hf.seeding import numpy_generator

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from fungi_hf.evaluation.inputs import Combination, FeatureInput, LabelledRows, Sides
    from fungi_hf.evaluation.records import EvaluationResult
    from fungi_hf.neighbors.labels import LabelArray, Labels
    from fungi_hf.types import Float32Array, Int64Array


@dataclass(frozen=True, slots=True, kw_only=True)
class LinearProtocol:
    """How to fit.

    The objective is mean cross-entropy + strength / 2 |w|^2, so scikit-learn's C is
    1 / (strength x rows).

    Attributes:
        strengths: To choose from; the first of the best on validation wins.
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
        check_fields(self, ("strengths",), check_each, check_number, 0, inclusive="neither")
        if not self.strengths:
            raise ConfigError("strengths are empty; at least one is needed")
        check_fields(self, ("max_iterations", "n_seeds"), check_integer, **AS_INPUT)
        check_fields(self, ("seed",), check_integer, 0, **AS_INPUT)
        check_fields(self, ("pca",), check_integer, optional=True, **AS_INPUT)
        check_fields(self, ("validation_share",), check_number, 0, 1, inclusive="neither")
        check_fields(self, ("tolerance",), check_number, 0)
        check_fields(self, ("intercept", "prefixes_only"), check_flag)


_PAPER = LinearProtocol(
    name="paper",
    strengths=(5e-6, 1.2875e-4, 2.525e-4, 3.7625e-4, 5e-4),
    intercept=False,
    max_iterations=300,
    tolerance=1e-3,
    prefixes_only=True,
    pca=512,
)
LINEAR_PROTOCOLS: Mapping[str, LinearProtocol] = {"fungi": LinearProtocol(), "paper": _PAPER}


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

    Arguments and records are those of `evaluate_knn`, the protocol a `LinearProtocol` or the name
    of one of `LINEAR_PROTOCOLS`. `validation` holds features and labels to choose the strength by,
    which is noted. Without them a stratified share of the training rows is held out, and the final
    fit takes all training rows.
    """
    rule = protocol_named(protocol, LINEAR_PROTOCOLS, "linear")
    known, judged, notes = read_sides(train, train_labels, test, test_labels)
    splits = [] if validation is not None else _splits(known, rule)
    if validation is not None:
        chooser, unseen = _read_validation(known, validation)
        notes, splits = notes + unseen, [(known, chooser)]
    wanted = choose_combinations(known.layout, combinations)
    if combinations is None and rule.prefixes_only:
        names = tuple(known.layout)
        wanted = [names[: size + 1] for size in range(len(names))]
    whole = known, judged
    draws = {some: [_probe(some, split, whole, rule) for split in splits] for some in wanted}
    seeds = [rule.seed + place for place in range(len(splits))]
    return summarise("linear", rule, draws, judged, seeds=seeds, notes=notes)


def _read_validation(known: LabelledRows, validation: Any) -> tuple[LabelledRows, tuple[str, ...]]:
    # Give the rows to choose the strength by, not all of unseen classes, and a note about these.
    if not isinstance(validation, tuple | list) or len(validation) != 2:
        raise InputTypeError(
            f"validation is a {type(validation).__name__}; give a pair (features, labels)"
        )
    chooser = read_labelled(validation[0], validation[1], "validation")
    check_pair(known, chooser, ("train", "validation features"))
    unseen = unseen_note(known.labels, chooser.labels, "validation")
    if not np.isin(chooser.labels, known.labels).any():
        raise LabelError(
            f"none of the {len(chooser)} validation labels, such as {chooser.labels[0].item()!r}, "
            "is among the training labels; no strength can be chosen by them"
        )
    return chooser, unseen


def split_validation(labels: LabelArray, share: float, seed: int) -> tuple[Int64Array, Int64Array]:
    """Give (training rows, validation rows) of a seeded, stratified split.

    Each class of at least two rows gives round(share x rows) of them, at least one, to the
    validation; a class of one row, which scikit-learn's splits refuse, stays in the training part.

    Raises:
        LabelError: If no class has two rows.
    """
    _, codes = encode_labels(labels, "train labels")
    generator = numpy_generator(seed, "evaluation", "validation")
    held = []
    for code in range(int(codes.max()) + 1):
        rows = generator.permutation(np.flatnonzero(codes == code))
        if len(rows) > 1:
            held.append(rows[: min(len(rows) - 1, max(1, round(share * len(rows))))])
    if not held:
        raise LabelError("no class has two rows, so none can be held out to choose by")
    validation = np.sort(np.concatenate(held))
    return np.setdiff1d(np.arange(len(codes)), validation), validation


def _splits(known: LabelledRows, rule: LinearProtocol) -> list[Sides]:
    """Give pairs of rows to fit on and rows to choose the strength by."""
    pairs = []
    for place in range(rule.n_seeds):
        kept, held = split_validation(known.labels, rule.validation_share, rule.seed + place)
        encode_labels(known.labels[kept], "train labels")  # refuses a single class
        pairs.append((known.subset(kept), known.subset(held)))
    return pairs


def _probe(some: Combination, split: Sides, whole: Sides, rule: LinearProtocol) -> Draw:
    """Choose the strength on the split, then fit on all training rows and judge the test rows."""
    low, choose, notes = reduced(*split, some, rule.pca)
    fits = [_fit(low, split[0], strength, rule)[0] for strength in rule.strengths]
    accuracies = [float(np.mean(fit.predict(choose) == split[1].labels)) for fit in fits]
    best = rule.strengths[int(np.argmax(accuracies))]
    known, judged = whole
    low, high, _ = reduced(known, judged, some, rule.pca)
    model, warned = _fit(low, known, best, rule)
    predicted = model.predict(high)
    second = model.predict_proba(high)[:, 1] if len(model.classes_) == 2 else None
    metrics = classification_metrics(judged.labels, predicted, model.classes_, second)
    return Draw(
        metrics={**metrics, "validation_accuracy": max(accuracies)},
        scores=(predicted == judged.labels).astype(float),
        notes=(*notes, f"strength {best:g}", *warned),
        n_train=len(known),
    )


def _fit(
    rows: Float32Array, known: LabelledRows, strength: float, rule: LinearProtocol
) -> tuple[Any, tuple[str, ...]]:
    model = need("sklearn.linear_model").LogisticRegression(
        C=1 / (strength * len(rows)),
        fit_intercept=rule.intercept,
        max_iter=rule.max_iterations,
        tol=rule.tolerance,
    )
    _, ended = converge(lambda: model.fit(rows.astype(np.float64), known.labels))
    note = f"the solver stopped at {rule.max_iterations} iterations before converging"
    return model, () if ended else (note,)
