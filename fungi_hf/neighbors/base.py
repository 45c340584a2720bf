"""What every index answers with and offers, so that exact and approximate search are exchangeable.

Scores are similarities: larger is nearer, whatever the metric.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, Protocol, TypeAlias, cast, get_args, runtime_checkable

import numpy as np
import numpy.typing as npt

from fungi_hf.checks import check_choice, check_integer
from fungi_hf.errors import InputError, InputTypeError, ShapeError
from fungi_hf.types import Features

if TYPE_CHECKING:
    from pathlib import Path
    from typing import Self

    from fungi_hf.types import Float32Array, Float64Array, Int64Array

Metric = Literal["cosine", "dot", "euclidean"]
METRICS: tuple[Metric, ...] = get_args(Metric)
DECIMALS = 9  # of scores that are compared

Vectors: TypeAlias = npt.ArrayLike | Features
Exclusions: TypeAlias = Mapping[int, Sequence[int] | npt.NDArray[np.integer]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Neighbors:
    """The nearest pool rows of each query, nearest first.

    Attributes:
        indices: [N, K] int64, pool rows; -1 where exclusions left fewer than K rows.
        scores: [N, K] float32, larger is nearer: the cosine, the dot product, or minus the
            squared Euclidean distance; -inf where the index is -1.
        metric: Which of the three.
        exact: [N, K] the scores in float64, by which answers are merged; None if they are not
            known.
    """

    indices: Int64Array
    scores: Float32Array
    metric: Metric
    exact: Float64Array | None = None

    @classmethod
    def merge(cls, parts: Sequence[Neighbors], firsts: Sequence[int], k: int) -> Neighbors:
        """Give the k nearest of several pools, each searched for the same queries.

        `firsts` are the numbers of the pools' first rows among all, in rising order. The answer is
        that of one search of all rows, if every part has k neighbours (or all of its rows).

        Raises:
            InputError: If there are no parts, or not a first row for each.
            ShapeError: If the parts are of different queries or metrics.
        """
        if not parts or len(parts) != len(firsts) or list(firsts) != sorted(firsts):
            raise InputError(
                f"merge needs one first row a part, in rising order; got {len(parts)} parts and "
                f"{list(firsts)[:10]}"
            )
        check_count(k, "k", 1)
        kinds = {(len(part.indices), part.metric) for part in parts}
        if len(kinds) > 1:
            raise ShapeError(f"parts are of different queries or metrics: {sorted(kinds)}")
        rows = np.concatenate(
            [
                np.where(part.indices < 0, -1, part.indices + first)
                for part, first in zip(parts, firsts, strict=True)
            ],
            axis=1,
        )
        known = (part.scores if part.exact is None else part.exact for part in parts)
        scores = np.concatenate([np.asarray(one, np.float64) for one in known], axis=1)
        # Columns stand by pool, and within one by score and row: stable sorts keep low rows first.
        order = np.argsort(-np.round(scores, DECIMALS), axis=1, kind="stable")[:, :k]
        exact = np.take_along_axis(scores, order, axis=1)
        found = np.take_along_axis(rows, order, axis=1)
        return cls(indices=found, scores=as_scores(exact), metric=parts[0].metric, exact=exact)

    @property
    def distances(self) -> Float32Array:
        """[N, K] float32, smaller is nearer: 1 - cosine, minus the dot product, or Euclidean."""
        if self.metric == "cosine":
            return np.asarray(1 - self.scores, np.float32)
        if self.metric == "dot":
            return np.asarray(-self.scores, np.float32)
        return np.asarray(np.sqrt(np.maximum(-self.scores, 0)), np.float32)


@runtime_checkable
class Index(Protocol):
    """A set of vectors that can be searched.

    Equal scores (rounded to 9 decimals, in float64) are ordered by row, lowest first.
    """

    metric: Metric

    @property
    def fingerprint(self) -> str | None:
        """Where the stored vectors come from, if they said so."""

    def __len__(self) -> int:
        """Number of stored rows; 0 before `fit`."""

    def fit(self, vectors: Vectors) -> Self:
        """Store [N, F] vectors in place of earlier ones."""

    def add(self, vectors: Vectors) -> Self:
        """Append [N, F] vectors; their rows are numbered on."""

    def search(self, queries: Vectors, k: int, *, exclude: Exclusions | None = None) -> Neighbors:
        """Give the k nearest rows of each query, leaving out `exclude[query row]`."""

    def save(self, folder: str | Path) -> None:
        """Write the index, its vectors and their fingerprint."""


def check_metric(metric: object) -> Metric:
    """Give the metric, or say which there are."""
    return cast("Metric", check_choice("metric", metric, METRICS))


def check_count(value: object, name: str, low: int, high: int | None = None) -> int:
    """Give a whole number within [low, high]; booleans and floats are not whole numbers."""
    return check_integer(name, value, low, high, error=InputError, type_error=InputTypeError)


def check_exclusions(
    exclude: Exclusions | None, n_queries: int, n_pool: int
) -> dict[int, Int64Array]:
    """Give distinct, sorted pool rows for each query row that has any.

    Raises:
        InputTypeError: If it is not a mapping, or rows are not integers.
        InputError: If a query or pool row does not exist.
    """
    if not isinstance(exclude, Mapping | None):
        raise InputTypeError(
            f"exclude is a {type(exclude).__name__}; it maps a query row to the pool rows to skip"
        )
    checked: dict[int, Int64Array] = {}
    for query, rows in (exclude or {}).items():
        if isinstance(query, bool) or not isinstance(query, int | np.integer):
            raise InputTypeError(f"exclude has the key {query!r}; keys are query rows (integers)")
        if not 0 <= query < n_queries:
            raise InputError(f"exclude names query row {query}; there are {n_queries} queries")
        array = np.asarray(rows)
        if array.size and not np.issubdtype(array.dtype, np.integer):
            raise InputTypeError(f"exclude[{query}] holds {array.dtype}; pool rows are integers")
        unique = np.unique(array.astype(np.int64))
        if unique.size and (unique[0] < 0 or unique[-1] >= n_pool):
            wrong = unique[0] if unique[0] < 0 else unique[-1]
            raise InputError(f"exclude[{query}] names pool row {wrong}; there are {n_pool} rows")
        checked[int(query)] = unique
    return checked


def as_scores(scores: Float64Array) -> Float32Array:
    """Give float32 scores; huge dot products saturate instead of warning."""
    with np.errstate(over="ignore"):
        return scores.astype(np.float32)
