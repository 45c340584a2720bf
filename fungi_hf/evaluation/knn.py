"""k-nearest-neighbour accuracy of every combination of blocks, full and few-shot."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, get_args

import numpy as np

from fungi_hf.errors import ConfigError, InputError, choices
from fungi_hf.evaluation.grams import combination_neighbors
from fungi_hf.evaluation.inputs import (
    check_pair,
    choose_combinations,
    read_labelled,
    unseen_note,
)
from fungi_hf.evaluation.metrics import classification_metrics
from fungi_hf.evaluation.sampling import MOST_SEED, Sampling, draw_shots
from fungi_hf.evaluation.summary import Context, Draw, summarise
from fungi_hf.neighbors import ExactIndex
from fungi_hf.neighbors.base import check_count, check_metric
from fungi_hf.neighbors.classifier import Tie, Weights, count_votes, decide
from fungi_hf.neighbors.labels import encode_labels

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from fungi_hf.evaluation.inputs import (
        Combination,
        FeatureInput,
        LabelledRows,
    )
    from fungi_hf.evaluation.records import EvaluationResult
    from fungi_hf.neighbors.base import Metric, Neighbors
    from fungi_hf.neighbors.labels import LabelArray, Labels

_VOTE_ROWS = 4096
_SHOTS = re.compile(r"-([1-9]\d*)-shot$")


@dataclass(frozen=True, slots=True, kw_only=True)
class KNNProtocol:
    """How to classify and from what.

    Attributes:
        name: For the records.
        n_neighbors: K; few-shot draws with fewer rows take all of these, which is noted.
        metric: On the concatenated blocks.
        weights: Of the votes, see `neighbors.classifier.count_votes`.
        tie: See `KNNClassifier`.
        n_shots: Rows a class; None takes all training rows.
        sampling: How the shots are drawn, see `sampling.draw_shots`.
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
        """Check the choices.

        Raises:
            ConfigError: If one is unknown, or several draws would be the same.
        """
        check_metric(self.metric)
        for name in ("n_neighbors", "n_draws", "n_shots", "pca"):
            if getattr(self, name) is not None:
                check_count(getattr(self, name), name, 1, None)
        drawn = self.n_shots is not None and self.sampling == "proportional"
        check_count(self.seed, "seed", 0, MOST_SEED + 1 - self.n_draws if drawn else None)
        for name, allowed in (("weights", Weights), ("tie", Tie), ("sampling", Sampling)):
            if getattr(self, name) not in get_args(allowed):
                raise ConfigError(
                    f"unknown {name} {choices(getattr(self, name), get_args(allowed))}"
                )
        if self.n_shots is not None and self.sampling == "first" and self.n_draws != 1:
            raise ConfigError(f"sampling 'first' has one draw, n_draws is {self.n_draws}")


KNN_PROTOCOLS: Mapping[str, KNNProtocol] = {
    "fungi": KNNProtocol(),
    # Ours, not the published K = 20: with five rows a class, twenty uniform votes would often be
    # all rows of a two-class set, so all classes tie.
    "fungi-5-shot": KNNProtocol(
        name="fungi-5-shot", n_neighbors=5, weights="similarity", n_shots=5
    ),
    "paper": KNNProtocol(name="paper", metric="euclidean", pca=512, n_draws=1),
    "paper-vision-5-shot": KNNProtocol(
        name="paper-vision-5-shot",
        metric="euclidean",
        pca=512,
        n_shots=5,
        sampling="first",
        n_draws=1,
    ),
    "paper-text-5-shot": KNNProtocol(
        name="paper-text-5-shot",
        metric="euclidean",
        pca=512,
        n_shots=5,
        sampling="proportional",
        n_draws=1,
    ),
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

    Args:
        train: [N, F] features with a layout (one extraction serves all), or an array.
        train_labels: N integers or strings, at least two classes.
        test: [Q, F] features of the same layout and fingerprint.
        test_labels: Q labels; those unseen in training count as wrong, which is noted.
        protocol: A `KNNProtocol`, or a name that `knn_protocol` knows: `paper` is the published
            rule (Euclidean, K = 20, PCA to 512, ties to the smallest label), its few-shot forms
            take the first rows (vision) or a proportional draw (text).
        combinations: Block names to combine; None takes every combination.

    Returns:
        One record a combination, smaller ones first; `against_baseline` compares with the
        "embedding" block, or with the first combination where there is none.
    """
    rule = knn_protocol(protocol)
    known, judged = (
        read_labelled(train, train_labels, "train"),
        read_labelled(test, test_labels, "test"),
    )
    check_pair(known, judged)
    encode_labels(known.labels, "train labels")
    notes = unseen_note(known.labels, judged.labels)
    wanted = choose_combinations(known.layout, combinations)
    check_neighbors(rule, len(known))
    draws: dict[Combination, list[Draw]] = {some: [] for some in wanted}
    seeds = [rule.seed + i for i in range(1 if rule.n_shots is None else rule.n_draws)]
    for seed in seeds:
        part = known
        if rule.n_shots is not None:
            part = known.subset(draw_shots(known.labels, rule.n_shots, rule.sampling, seed))
        for some, draw in _one_draw(part, judged, wanted, rule).items():
            draws[some].append(draw)
    context = Context(
        task="knn",
        protocol=rule.name,
        settings=rule,
        seeds=seeds,
        notes=notes,
    )
    return summarise(context, draws, judged)


def _one_draw(
    known: LabelledRows, judged: LabelledRows, wanted: list[Combination], rule: KNNProtocol
) -> dict[Combination, Draw]:
    classes, codes = encode_labels(known.labels, "train labels")
    k = min(rule.n_neighbors, len(known))
    notes = () if k == rule.n_neighbors else (f"n_neighbors {rule.n_neighbors} -> {k}: all rows",)
    reduced: dict[Combination, Neighbors] = {}
    skipped: dict[Combination, tuple[str, ...]] = {}
    if rule.pca is not None:
        from fungi_hf.extraction.reduction import project

        for some in wanted:
            width = len(known.columns(some))
            if rule.pca < len(known) and rule.pca < width:
                low, high = project(known.take(some), judged.take(some), rule.pca)
                reduced[some] = ExactIndex(rule.metric).fit(low).search(high, k)
            else:
                skipped[some] = (f"PCA to {rule.pca} skipped: {len(known)} rows, width {width}",)
    left = [some for some in wanted if some not in reduced]
    found = dict(reduced)
    if left:
        found |= combination_neighbors(
            known.rows, judged.rows, known.layout, left, k, metric=rule.metric
        )
    return {
        some: _votes(found[some], codes, classes, judged, rule).with_notes(
            notes + skipped.get(some, ()), len(known)
        )
        for some in wanted
    }


def _votes(
    found: Neighbors,
    codes: np.ndarray[tuple[int], np.dtype[np.int64]],
    classes: LabelArray,
    judged: LabelledRows,
    rule: KNNProtocol,
) -> Draw:
    shares = np.empty((len(judged), len(classes)))
    chosen = np.empty(len(judged), np.int64)
    for start in range(0, len(judged), _VOTE_ROWS):
        part = slice(start, start + _VOTE_ROWS)
        near = codes[found.indices[part]]
        votes = count_votes(near, found.scores[part], len(classes), rule.weights, rule.metric)
        shares[part] = votes / votes.sum(axis=1, keepdims=True)
        chosen[part] = decide(votes, near, rule.tie)
    predicted = classes[chosen]
    values = classification_metrics(judged.labels, predicted, shares, classes)
    return Draw(metrics=values, scores=(predicted == judged.labels).astype(float))


def check_neighbors(rule: KNNProtocol, n_rows: int) -> None:
    """Refuse to take more neighbours than all training rows; few-shot draws take what they have.

    Raises:
        InputError: If there are fewer training rows than neighbours.
    """
    if rule.n_shots is None and rule.n_neighbors > n_rows:
        raise InputError(
            f"n_neighbors is {rule.n_neighbors}, but there are {n_rows} training rows; "
            f"allowed: 1 to {n_rows}"
        )


def knn_protocol(protocol: KNNProtocol | str) -> KNNProtocol:
    """Give a protocol by name.

    Args:
        protocol: A key of `KNN_PROTOCOLS`, whose 5 shots may be any other number, as in
            "paper-text-10-shot"; a `KNNProtocol` is given back.

    Returns:
        The protocol, named as asked.

    Raises:
        ConfigError: If there is no such protocol.
    """
    if isinstance(protocol, KNNProtocol):
        return protocol
    shots = _SHOTS.search(protocol) if isinstance(protocol, str) else None
    known = _SHOTS.sub("-5-shot", protocol) if shots else protocol
    if not isinstance(known, str) or known not in KNN_PROTOCOLS:
        raise ConfigError(f"unknown kNN protocol {choices(protocol, KNN_PROTOCOLS)}")
    if not shots:
        return KNN_PROTOCOLS[known]
    return replace(KNN_PROTOCOLS[known], name=str(protocol), n_shots=int(shots[1]))
