"""k-nearest-neighbour accuracy of every combination of blocks, full and few-shot."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from fungi_hf.checks import check_choices, check_fields, check_integer
from fungi_hf.errors import ConfigError, InputError, LabelError
from fungi_hf.evaluation.grams import combination_neighbors
from fungi_hf.evaluation.inputs import choose_combinations, read_sides
from fungi_hf.evaluation.protocols import AS_INPUT, MOST_SEED, need, protocol_named, reduce_or_note
from fungi_hf.evaluation.records import Draw, classification_metrics, summarise
from fungi_hf.neighbors import ExactIndex
from fungi_hf.neighbors.base import Metric
from fungi_hf.neighbors.classifier import Tie, Weights, count_votes, vote
from fungi_hf.neighbors.labels import encode_labels
from fungi_hf.neighbors.shots import draw_few

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from fungi_hf.evaluation.inputs import Combination, FeatureInput, LabelledRows
    from fungi_hf.evaluation.records import EvaluationResult
    from fungi_hf.neighbors.base import Neighbors
    from fungi_hf.neighbors.labels import LabelArray, Labels
    from fungi_hf.types import Int64Array

Sampling = Literal["balanced", "first", "proportional"]


@dataclass(frozen=True, slots=True, kw_only=True)
class KNNProtocol:
    """How to classify and from what.

    Attributes:
        n_neighbors: K; few-shot draws with fewer rows take all of these, which is noted.
        metric: On the concatenated blocks.
        weights: Of the votes, see `neighbors.classifier.count_votes`.
        tie: See `KNNClassifier`.
        n_shots: Rows a class; None takes all training rows.
        sampling: How the shots are drawn, see `draw_shots`.
        n_draws: Few-shot training sets.
        pca: Components fitted on the training rows, of every combination; skipped, with a note,
            unless smaller than both its rows and its width. None: none.
        seed: Of the first draw; the next ones count on.
    """

    name: str = "fungi"
    n_neighbors: int = 20
    metric: Metric = "cosine"
    weights: Weights = "uniform"
    tie: Tie = "smallest"
    n_shots: int | None = None
    sampling: Sampling = "balanced"
    n_draws: int = 5
    pca: int | None = None
    seed: int = 42

    def __post_init__(self) -> None:
        kinds = {"metric": Metric, "weights": Weights, "tie": Tie, "sampling": Sampling}
        check_choices(self, kinds)
        check_fields(self, ("n_neighbors", "n_draws"), check_integer, **AS_INPUT)
        check_fields(self, ("n_shots", "pca"), check_integer, optional=True, **AS_INPUT)
        drawn = self.n_shots is not None and self.sampling == "proportional"
        last = MOST_SEED + 1 - self.n_draws if drawn else None
        check_fields(self, ("seed",), check_integer, 0, last, **AS_INPUT)
        if self.n_shots is not None and self.sampling == "first" and self.n_draws != 1:
            raise ConfigError(f"sampling 'first' has one draw, n_draws is {self.n_draws}")


_PAPER = KNNProtocol(name="paper", metric="euclidean", pca=512, n_draws=1)
KNN_PROTOCOLS: Mapping[str, KNNProtocol] = {
    one.name: one
    for one in (
        KNNProtocol(),
        # Ours, not the published K = 20: with five rows a class, twenty uniform votes would often
        # be all rows of a two-class set, so all classes tie.
        KNNProtocol(name="fungi-5-shot", n_neighbors=5, weights="similarity", n_shots=5),
        _PAPER,
        replace(_PAPER, name="paper-vision-5-shot", n_shots=5, sampling="first"),
        replace(_PAPER, name="paper-text-5-shot", n_shots=5, sampling="proportional"),
    )
}


def evaluate_knn(
    train: FeatureInput,
    train_labels: Labels,
    test: FeatureInput,
    test_labels: Labels,
    *,
    protocol: KNNProtocol | str = "fungi",
    combinations: Sequence[Sequence[str]] | None = None,
) -> list[EvaluationResult]:
    """Classify the test rows by every combination of blocks.

    Train [N, F] and test [Q, F] are features of one layout (one extraction serves all) and
    fingerprint, or arrays. Labels are integers or strings, of at least two training classes; test
    labels unseen in training count as wrong, which is noted. The protocol is a `KNNProtocol` or a
    name that `knn_protocol` knows: `paper` is the published rule (Euclidean, K = 20, PCA to 512,
    ties to the smallest label), its few-shot forms take the first rows (vision) or a proportional
    draw (text). Combinations are block names to combine; None takes every combination.

    Returns:
        One record a combination, smaller ones first; `against_baseline` compares with the
        "embedding" block, or with the first combination where there is none.
    """
    rule = knn_protocol(protocol)
    known, judged, notes = read_sides(train, train_labels, test, test_labels)
    wanted = choose_combinations(known.layout, combinations)
    judge = KNNJudge(rule, known.labels, judged.labels)
    draws: dict[Combination, list[Draw]] = {some: [] for some in wanted}
    for number, rows in enumerate(judge.sets):
        part = known if rows is None else known.subset(rows)
        for some, (found, own) in _nearest(part, judged, wanted, rule).items():
            draws[some].append(judge.vote(number, found, own))
    notes += judge.notes
    return summarise("knn", rule, draws, judged, seeds=judge.seeds, notes=notes)


class KNNJudge:
    """Labels, training sets and votes of a protocol: what neighbours are worth, however found.

    Each draw has a seed and a set of training rows, None for all; the notes say where a few-shot
    draw has fewer rows than neighbours are asked for.
    """

    def __init__(self, rule: KNNProtocol, labels: LabelArray, truth: LabelArray) -> None:
        self._rule, self._truth = rule, truth
        self.seeds = [rule.seed]
        self.sets: list[Int64Array | None] = [None]
        if rule.n_shots is not None:
            self.seeds = [rule.seed + draw for draw in range(rule.n_draws)]
            self.sets = [draw_shots(labels, rule.n_shots, rule.sampling, s) for s in self.seeds]
        elif rule.n_neighbors > len(labels):
            raise InputError(
                f"n_neighbors is {rule.n_neighbors}, but there are {len(labels)} training rows; "
                f"allowed: 1 to {len(labels)}"
            )
        held = [labels if rows is None else labels[rows] for rows in self.sets]
        self._encoded = [encode_labels(some, "train labels") for some in held]
        k = min(map(len, held))
        shrunk = f"n_neighbors {rule.n_neighbors} -> {k}: all rows"
        self.notes = (shrunk,) if k < rule.n_neighbors else ()

    def vote(self, number: int, found: Neighbors, notes: tuple[str, ...] = ()) -> Draw:
        """Let the neighbours [Q, K] vote that were found within the training set of a number."""
        rule, (classes, codes) = self._rule, self._encoded[number]
        near, scores = codes[found.indices], found.scores
        how: Any = {"weights": rule.weights, "metric": rule.metric}
        chosen = classes[vote(near, scores, len(classes), tie=rule.tie, **how)]
        second = None
        if len(classes) == 2:
            votes = count_votes(near, scores, 2, **how)
            second = votes[:, 1] / votes.sum(axis=1)
        return Draw(
            metrics=classification_metrics(self._truth, chosen, classes, second),
            scores=(chosen == self._truth).astype(float),
            notes=notes,
            n_train=len(codes),
        )


def draw_shots(labels: LabelArray, n_shots: int, sampling: Sampling, seed: int) -> Int64Array:
    """Give the rows of a few-shot training set, ascending, from labels [N].

    `balanced` takes n_shots random rows of each class, see `draw_few`; `first` the first of each
    class in file order, without a seed (published for images); `proportional` n_shots x classes
    rows in proportion to the classes' sizes, by StratifiedShuffleSplit (published for text).

    Raises:
        LabelError: If a class is too small.
    """
    classes, codes = encode_labels(labels, "train labels")
    if sampling == "proportional":
        return _proportional(codes, n_shots, len(classes), seed)
    counts = np.bincount(codes)
    small = np.flatnonzero(counts < n_shots)
    if len(small):
        shown = ", ".join(f"{classes[i]!s} ({counts[i]})" for i in small[:10])
        raise LabelError(
            f"{n_shots}-shot needs {n_shots} rows of each class; {len(small)} of {len(classes)} "
            f"classes have fewer: {shown}"
        )
    if sampling == "balanced":
        return draw_few(codes, n_shots, seed)
    first = [np.flatnonzero(codes == code)[:n_shots] for code in range(len(classes))]
    return np.sort(np.concatenate(first))


def _proportional(codes: Int64Array, n_shots: int, n_classes: int, seed: int) -> Int64Array:
    size = n_shots * n_classes
    smallest = int(np.bincount(codes).min())
    if size > len(codes) - n_classes or smallest < 2:
        raise LabelError(
            f"proportional {n_shots}-shot takes {size} of {len(codes)} rows and leaves at least "
            f"one of each of {n_classes} classes, each of which needs 2 (smallest: {smallest})"
        )
    splitter = need("sklearn.model_selection").StratifiedShuffleSplit(
        n_splits=1, train_size=size, random_state=seed
    )
    chosen, _ = next(splitter.split(np.zeros((len(codes), 1)), codes))
    return np.sort(chosen)


def _nearest(
    known: LabelledRows, judged: LabelledRows, wanted: list[Combination], rule: KNNProtocol
) -> dict[Combination, tuple[Neighbors, tuple[str, ...]]]:
    """Give the neighbours by each combination, and a note where its PCA was skipped."""
    k = min(rule.n_neighbors, len(known))
    found: dict[Combination, Neighbors] = {}
    notes: dict[Combination, tuple[str, ...]] = {}
    for some in wanted:
        pair, notes[some] = reduce_or_note(known, judged, some, rule.pca)
        if pair is not None:
            found[some] = ExactIndex(rule.metric).fit(pair[0]).search(pair[1], k)
    left = [some for some in wanted if some not in found]
    if left:
        found |= combination_neighbors(
            known.rows, judged.rows, known.layout, left, k, metric=rule.metric
        )
    return {some: (found[some], notes[some]) for some in wanted}


def knn_protocol(protocol: KNNProtocol | str) -> KNNProtocol:
    """Give one of `KNN_PROTOCOLS` by name; a `KNNProtocol` is given back.

    The 5 shots of a name may be any other number, as in "paper-text-10-shot".
    """
    return protocol_named(protocol, KNN_PROTOCOLS, "kNN")
