"""The two heads on features: votes of nearest training rows, and logistic regression.

Invariant: a head is a function of its arrays alone, which are what is saved; its shares [Q, C] are
those of class numbers and sum to one.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Literal, Protocol, Self

import numpy as np

from fungi_hf.errors import StateError
from fungi_hf.evaluation.protocols import converge, need
from fungi_hf.neighbors.classifier import KNNClassifier

if TYPE_CHECKING:
    import numpy.typing as npt

    from fungi_hf.neighbors.classifier import Weights
    from fungi_hf.types import Float32Array, Float64Array, Int64Array

HeadName = Literal["neighbors", "linear"]
MAX_ITERATIONS: Final = 1000
TOLERANCE: Final = 1e-4


class Head(Protocol):
    """What a classifier asks of a head."""

    @property
    def width(self) -> int:
        """F."""

    def shares(self, rows: Float32Array) -> Float64Array:
        """Give each class's probability, [Q, C]."""

    def codes(self, rows: Float32Array) -> Int64Array:
        """Give the class number of each row, [Q]."""

    def arrays(self) -> dict[str, npt.NDArray[Any]]:
        """Give what is saved."""


class NeighborsHead:
    """The k nearest training rows by cosine vote; of equal votes the first class wins."""

    def __init__(
        self,
        gallery: Float32Array,
        codes: Int64Array,
        n_neighbors: int,
        weights: Weights,
    ) -> None:
        """Keep training rows [N, F] and their class numbers [N], each class once at least."""
        self._gallery, self._codes = gallery, codes
        self._knn = KNNClassifier(n_neighbors, weights=weights).fit(gallery, codes)

    @property
    def width(self) -> int:
        """F."""
        return int(self._gallery.shape[1])

    def shares(self, rows: Float32Array) -> Float64Array:
        """Give each class's share of the votes, [Q, C]."""
        return self._knn.predict_proba(rows)

    def codes(self, rows: Float32Array) -> Int64Array:
        """Give the class that the neighbours elect, [Q]."""
        return self._knn.predict(rows).astype(np.int64)

    def arrays(self) -> dict[str, npt.NDArray[Any]]:
        """Give the gallery and its class numbers."""
        return {"gallery": self._gallery, "codes": self._codes}


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class LinearHead:
    """Multinomial logistic regression.

    Formula: softmax(W x + b) over C classes; for two classes the second's probability is
    1 / (1 + exp(-(w x + b))), as scikit-learn has it.

    Attributes:
        coefficients: [C, F] float64; [1, F] for two classes.
        intercept: [C] or [1].
    """

    coefficients: Float64Array
    intercept: Float64Array

    @classmethod
    def fit(
        cls, rows: Float32Array, codes: Int64Array, strength: float
    ) -> tuple[Self, tuple[str, ...]]:
        """Minimise mean cross-entropy + strength / 2 |w|^2, in float64; give notes beside it."""
        model, notes = fit_logistic(rows, codes, strength)
        return cls(coefficients=model.coef_, intercept=model.intercept_), notes

    @property
    def width(self) -> int:
        """F."""
        return int(self.coefficients.shape[1])

    def shares(self, rows: Float32Array) -> Float64Array:
        """Give each class's probability, [Q, C]."""
        special = need("scipy.special")
        scores = self._scores(rows)
        if scores.shape[1] == 1:
            second = special.expit(scores[:, 0])
            return np.stack([1 - second, second], axis=1)
        shares: Float64Array = special.softmax(scores, axis=1)
        return shares

    def codes(self, rows: Float32Array) -> Int64Array:
        """Give the class of the highest score, [Q]."""
        scores = self._scores(rows)
        if scores.shape[1] == 1:
            return (scores[:, 0] > 0).astype(np.int64)
        return scores.argmax(axis=1)

    def arrays(self) -> dict[str, npt.NDArray[Any]]:
        """Give coefficients and intercept."""
        return {"coefficients": self.coefficients, "intercept": self.intercept}

    def _scores(self, rows: Float32Array) -> Float64Array:
        return rows.astype(np.float64) @ self.coefficients.T + self.intercept


def fit_logistic(
    rows: Float32Array, codes: Int64Array, strength: float
) -> tuple[Any, tuple[str, ...]]:
    """Fit scikit-learn's logistic regression, and say if it did not converge."""
    model = need("sklearn.linear_model").LogisticRegression(
        C=1 / (strength * len(rows)), max_iter=MAX_ITERATIONS, tol=TOLERANCE
    )
    _, ended = converge(lambda: model.fit(rows.astype(np.float64), codes))
    note = f"the solver stopped at {MAX_ITERATIONS} iterations before converging"
    return model, () if ended else (note,)


def head_from(
    name: str, arrays: dict[str, npt.NDArray[Any]], n_classes: int, settings: dict[str, Any]
) -> Head:
    """Make a head of what `arrays` gave.

    Raises:
        StateError: If arrays are missing, or do not fit each other or the classes.
    """
    wanted = ("gallery", "codes") if name == "neighbors" else ("coefficients", "intercept")
    if set(arrays) != set(wanted):
        raise StateError(f"a head {name!r} has the arrays {wanted}; got {sorted(arrays)}")
    first, second = (arrays[one] for one in wanted)
    if first.ndim != 2 or second.shape != first.shape[:1] or not np.isfinite(first).all():
        raise StateError(
            f"{wanted[0]} have shape {first.shape} and {wanted[1]} {second.shape}; they must be "
            "[N, F] finite numbers and [N]"
        )
    if name == "linear":
        if len(first) != (1 if n_classes == 2 else n_classes):
            raise StateError(f"coefficients of {len(first)} rows are not of {n_classes} classes")
        return LinearHead(
            coefficients=first.astype(np.float64), intercept=second.astype(np.float64)
        )
    if set(np.unique(second).tolist()) != set(range(n_classes)):
        raise StateError(f"the codes are not the numbers of {n_classes} classes")
    k, weights = settings["n_neighbors"], settings["weights"]
    return NeighborsHead(first.astype(np.float32), second.astype(np.int64), k, weights)
