"""k-nearest-neighbour classification whose every tie has a rule.

Neighbours with equal scores are ordered by row; classes with equal votes by the chosen rule.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal, Self, cast, get_args

import numpy as np

from fungi_hf.checks import check_choice
from fungi_hf.errors import ConfigError, InputError, NotFittedError
from fungi_hf.neighbors.base import Index, check_count, check_exclusions
from fungi_hf.neighbors.exact import ExactIndex, KernelIndex
from fungi_hf.neighbors.labels import check_kinds, encode_labels, read_labels
from fungi_hf.neighbors.topk import cut
from fungi_hf.neighbors.vectors import as_matrix
from fungi_hf.types import KernelFeatures

if TYPE_CHECKING:
    import numpy.typing as npt

    from fungi_hf.neighbors.base import Exclusions, Metric, Neighbors, Vectors
    from fungi_hf.neighbors.labels import LabelArray, Labels
    from fungi_hf.types import Float64Array, Int64Array

Weights = Literal["uniform", "similarity"]
Tie = Literal["smallest", "nearest"]
_VOTE_NUMBERS = 1 << 22


def vote(
    codes: Int64Array,
    scores: npt.NDArray[np.floating],
    n_classes: int,
    *,
    weights: Weights = "uniform",
    metric: Metric = "dot",
    tie: Tie = "smallest",
) -> Int64Array:
    """Give the class that the neighbours elect, [Q]: `count_votes`, then `decide`, in parts."""
    chosen = np.empty(len(codes), np.int64)
    for part in cut(slice(0, len(codes)), max(1, _VOTE_NUMBERS // n_classes)):
        votes = count_votes(codes[part], scores[part], n_classes, weights, metric)
        chosen[part] = decide(votes, codes[part], tie)
    return chosen


def count_votes(
    codes: Int64Array,
    scores: npt.NDArray[np.floating],
    n_classes: int,
    weights: Weights,
    metric: Metric,
) -> Float64Array:
    """Give the votes of each class, [Q, C], by the neighbours' codes (-1: none) and scores [Q, K].

    Formula: uniform counts neighbours; similarity sums max(score, 0) for `cosine` and `dot`, and
    1 / (1 + distance) for `euclidean`. A query whose weights are all 0 gets uniform votes.
    """
    held = codes >= 0
    values = held.astype(np.float64)
    if weights == "similarity":
        exact = np.where(held, scores.astype(np.float64), 0)
        near = 1 / (1 + np.sqrt(np.maximum(-exact, 0)))
        weight = np.where(held, near if metric == "euclidean" else np.maximum(exact, 0), 0)
        values = np.where(weight.any(axis=1, keepdims=True), weight, values)
    cells = codes + np.arange(len(codes))[:, None] * n_classes
    votes = np.bincount(cells[held], values[held], len(codes) * n_classes).astype(np.float64)
    return votes.reshape(len(codes), n_classes)


def decide(votes: Float64Array, codes: Int64Array, tie: Tie) -> Int64Array:
    """Give the class with most of the votes [Q, C], rounded to 9 decimals, [Q].

    Of a tie that is the `smallest`, or the first by neighbours `codes` [Q, K] (-1: none).
    """
    rounded = np.round(votes, 9)
    if tie == "smallest":
        return np.argmax(rounded, axis=1)
    best = rounded == rounded.max(axis=1, keepdims=True)
    leads = np.take_along_axis(best, np.maximum(codes, 0), axis=1) & (codes >= 0)
    first = np.take_along_axis(codes, np.argmax(leads, axis=1)[:, None], axis=1)[:, 0]
    return np.where(leads.any(axis=1), first, np.argmax(rounded, axis=1))


class KNNClassifier:
    """Classify by the labels of the nearest training rows.

    With uniform votes and `tie="smallest"` it predicts what scikit-learn's KNeighborsClassifier
    predicts, where no two training rows are equally far from a query.

    Attributes:
        classes_: [C] sorted labels, after `fit`.

    Example:
        >>> knn = KNNClassifier(n_neighbors=1).fit([[1.0, 0.0], [0.0, 1.0]], ["right", "up"])
        >>> knn.predict([[0.2, 0.9]])
        array(['up'], dtype='<U5')
    """

    classes_: LabelArray

    def __init__(
        self,
        n_neighbors: int = 20,
        *,
        weights: Weights = "uniform",
        metric: Metric | None = None,
        tie: Tie = "smallest",
        index: Index | None = None,
    ) -> None:
        """Choose how to vote.

        Votes are `uniform`, or nearer neighbours count more (`similarity`). Of classes with equal
        votes the `smallest` label wins, or that whose `nearest` training row ranks first. The
        metric is `cosine` unless given by itself or by an index, which is filled by `fit`.

        Raises:
            ConfigError: If the index is none, or its metric is another one.
        """
        self.n_neighbors = check_count(n_neighbors, "n_neighbors", 1)
        self.weights = cast("Weights", check_choice("weights", weights, get_args(Weights)))
        self.tie = cast("Tie", check_choice("tie", tie, get_args(Tie)))
        if index is not None and not isinstance(index, Index):
            raise ConfigError(f"index is a {type(index).__name__}; it must fit, search and save")
        if index is not None and metric is not None and metric != index.metric:
            raise ConfigError(f"metric is {metric!r}, but the index compares by {index.metric!r}")
        self.index: Index = ExactIndex(metric or "cosine") if index is None else index
        self.metric: Metric = self.index.metric
        self._codes: Int64Array | None = None
        self._vectors: Vectors = ()

    def fit(self, X: Vectors, y: Labels) -> Self:
        """Store training rows and their labels; float arrays are kept, not copied.

        X are [N, F] vectors or features, y [N] integers or strings of at least two classes. Fewer
        rows than neighbours are an `InputError`.
        """
        n_rows = len(as_matrix(X, "X"))
        classes, codes = encode_labels(y, "y", n_rows)
        check_count(self.n_neighbors, f"n_neighbors (training rows: {n_rows})", 1, n_rows)
        if isinstance(X, KernelFeatures) and X.factors and isinstance(self.index, ExactIndex):
            self.index = KernelIndex()  # exact factors bring their own similarity
        self.index.fit(X)
        self.classes_, self._codes, self._vectors = classes, codes, X
        return self

    def predict(self, X: Vectors) -> LabelArray:
        """Give the label of each row, [Q]."""
        self._fitted()
        return self._labels(self.index.search(X, self.n_neighbors))

    def predict_proba(self, X: Vectors) -> Float64Array:
        """Give each class's share of the votes, [Q, C] in the order of `classes_`."""
        self._fitted()
        found = self.index.search(X, self.n_neighbors)
        codes, n_classes = self._neighbor_codes(found), len(self.classes_)
        votes = count_votes(codes, found.scores, n_classes, self.weights, self.metric)
        return votes / np.maximum(votes.sum(axis=1, keepdims=True), np.finfo(np.float64).tiny)

    def score(self, X: Vectors, y: Labels) -> float:
        """Give the share of rows whose label is predicted; labels not seen in `fit` are wrong.

        Raises:
            InputError: If there are no rows.
        """
        predicted = self.predict(X)
        if not len(predicted):
            raise InputError("X has 0 rows; accuracy needs at least 1")
        truth = read_labels(y, "y", len(predicted))
        check_kinds(self.classes_, truth, ("training", "y"))
        return float(np.mean(predicted == truth))

    def leave_one_out(self, *, exclude: Exclusions | None = None) -> LabelArray:
        """Predict each training row from the others, [N].

        `exclude` names further rows that a row may not use, e.g. its copies.

        Raises:
            InputError: If fewer than `n_neighbors` other rows exist, or none is left for a row.
        """
        codes, vectors = self._fitted(), self._vectors
        most = len(codes) - 1
        check_count(self.n_neighbors, f"n_neighbors (a row has {most} others)", 1, most)
        further = check_exclusions(exclude, len(codes), len(codes))
        none = np.empty(0, np.int64)
        skipped = {row: np.union1d(further.get(row, none), row) for row in range(len(codes))}
        alone = [row for row, rows in skipped.items() if len(rows) == len(codes)]
        if alone:
            raise InputError(f"exclude leaves no neighbours for row {alone[0]}")
        return self._labels(self.index.search(vectors, self.n_neighbors, exclude=skipped))

    def _labels(self, found: Neighbors) -> LabelArray:
        codes, n_classes = self._neighbor_codes(found), len(self.classes_)
        how: Any = {"weights": self.weights, "metric": self.metric, "tie": self.tie}
        return self.classes_[vote(codes, found.scores, n_classes, **how)]

    def _neighbor_codes(self, found: Neighbors) -> Int64Array:
        return np.where(found.indices < 0, -1, self._fitted()[found.indices])

    def _fitted(self) -> Int64Array:
        if self._codes is None:
            raise NotFittedError("this KNNClassifier has no training rows; call fit(X, y) first")
        return self._codes
