"""What a classifier is worth, and on which rows that was measured.

Invariant: every figure names its rows and its protocol; baselines are judged on equal terms. The
baselines are the encoder's plain embedding, with nearest neighbours and with a linear probe.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from fungi_hf.classifier.folds import MOST_ROWS, N_FOLDS, probe
from fungi_hf.classifier.heads import LinearHead, NeighborsHead
from fungi_hf.errors import StateError
from fungi_hf.neighbors import ExactIndex
from fungi_hf.neighbors.classifier import vote
from fungi_hf.statistics import wilson_interval
from fungi_hf.tuning.sample import draw_rows

if TYPE_CHECKING:
    from collections.abc import Iterable

    import numpy.typing as npt

    from fungi_hf.classifier.folds import Probe
    from fungi_hf.neighbors.classifier import Weights
    from fungi_hf.types import Float32Array, Int64Array

THIS: Final = "this classifier"
NEAREST: Final = "embedding, nearest neighbours"
LINEAR: Final = "embedding, linear probe"
TRAINING: Final = "training rows"
_MOST_QUERIES: Final = 4000
_SEED: Final = 42


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """How many rows one classifier has right.

    Attributes:
        who: "this classifier", or a baseline.
        rows: Which rows: "training rows", or the name of rows that no fit has seen.
        protocol: How they were classified.
        n_rows: Rows that were judged.
        n_right: Of these, right ones.
    """

    who: str
    rows: str
    protocol: str
    n_rows: int
    n_right: int

    def __post_init__(self) -> None:
        if not 0 <= self.n_right <= self.n_rows or self.n_rows < 1:
            raise StateError(f"{self.n_right} right of {self.n_rows} rows is impossible")

    @property
    def accuracy(self) -> float:
        """Share of right rows."""
        return self.n_right / self.n_rows

    @property
    def interval(self) -> tuple[float, float]:
        """The 95 % interval of the accuracy (Wilson); rows alone, not the choice, are drawn."""
        return wilson_interval(self.n_right, self.n_rows)

    def to_dict(self) -> dict[str, Any]:
        """Give plain data."""
        return dataclasses.asdict(self)

    @classmethod
    def from_dict(cls, data: Any) -> Measured:
        """Read plain data.

        Raises:
            StateError: If a field is missing, unknown or of the wrong type.
        """
        kinds = {field.name: field.type for field in dataclasses.fields(cls)}
        is_known = isinstance(data, dict) and set(data) == set(kinds)
        if not is_known or any(type(data[n]).__name__ != kind for n, kind in kinds.items()):
            raise StateError(f"a result must have the fields {sorted(kinds)}; got {data!r:.200}")
        return cls(**data)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class TrainingRows:
    """What figures are made of; kept until a classifier is let go, and never saved.

    Attributes:
        features: [N, F].
        embedding: [N, D], of unit length, of the encoder alone.
        codes: [N] class numbers.
        groups: [N] group numbers; rows of one group never judge each other.
    """

    features: Float32Array
    embedding: Float32Array
    codes: Int64Array
    groups: Int64Array

    def has_groups(self) -> bool:
        """Whether any two rows are of one group."""
        return len(np.unique(self.groups)) < len(self.groups)


@dataclass(frozen=True, slots=True, kw_only=True)
class Voting:
    """How neighbours vote."""

    n_neighbors: int
    weights: Weights

    def words(self, k: int, of: str) -> str:
        """Say who votes and how: k of what kind of rows."""
        how = ", weighted by similarity" if self.weights == "similarity" else ""
        return f"{k} nearest {of}{how}"


def measure_training(
    training: TrainingRows, voting: Voting, head: str, chosen: Probe | None
) -> tuple[Measured, ...]:
    """Judge the classifier and its baselines on the training rows.

    `chosen` is what choosing the strength of a linear head saw. Nothing is given of what needs
    more rows than there are.
    """
    codes, groups = training.codes, training.groups
    probed = probe(training.embedding, codes, groups)
    found = [
        _probed(THIS, chosen, training) if head == "linear" else None,
        None if head == "linear" else _left_out(THIS, training.features, training, voting),
        _left_out(NEAREST, training.embedding, training, voting),
        _probed(LINEAR, probed, training),
    ]
    return tuple(one for one in found if one is not None)


def measure_held_out(
    training: TrainingRows, embedding: Float32Array, truth: Int64Array, voting: Voting, name: str
) -> tuple[Measured, ...]:
    """Judge the baselines on rows that they were not fitted on: embeddings [Q, D], classes [Q]."""
    known, codes = training.embedding, training.codes
    near = NeighborsHead(known, codes, voting.n_neighbors, voting.weights)
    how = voting.words(voting.n_neighbors, f"of {len(codes)} training rows")
    found = [measured(NEAREST, name, how, near.codes(embedding) == truth)]
    probed = probe(known, codes, training.groups)
    if probed is not None:
        linear, _ = LinearHead.fit(known, codes, probed.strength)
        how = f"logistic regression on {len(codes)} training rows"
        found.append(measured(LINEAR, name, how, linear.codes(embedding) == truth))
    return tuple(found)


def measured(
    who: str, rows: str, protocol: str, right: npt.NDArray[np.bool_] | Iterable[bool]
) -> Measured:
    """Count right rows."""
    outcomes = np.asarray(right)
    n_right = int(outcomes.sum())
    return Measured(who=who, rows=rows, protocol=protocol, n_rows=len(outcomes), n_right=n_right)


def leave_one_out(
    rows: Float32Array, codes: Int64Array, groups: Int64Array, voting: Voting, judged: Int64Array
) -> npt.NDArray[np.bool_]:
    """Say which of the judged rows their nearest rows of other groups classify rightly."""
    k = min(voting.n_neighbors, len(codes) - 1)
    order = np.argsort(groups, kind="stable")
    names, firsts = np.unique(groups[order], return_index=True)
    members = dict(zip(names.tolist(), np.split(order, firsts[1:]), strict=True))
    exclude = {place: members[int(groups[row])] for place, row in enumerate(judged.tolist())}
    found = ExactIndex("cosine").fit(rows).search(rows[judged], k, exclude=exclude)
    near = np.where(found.indices < 0, -1, codes[found.indices])
    elected = vote(near, found.scores, int(codes.max()) + 1, weights=voting.weights)
    right: npt.NDArray[np.bool_] = (elected == codes[judged]) & (near >= 0).any(axis=1)
    return right


def _left_out(who: str, rows: Float32Array, training: TrainingRows, voting: Voting) -> Measured:
    codes = training.codes
    judged = draw_rows(codes, _MOST_QUERIES, _SEED)
    right = leave_one_out(rows, codes, training.groups, voting, judged)
    others = "rows of other groups" if training.has_groups() else "rows"
    drawn = f", {len(judged)} rows drawn" if len(judged) < len(codes) else ""
    k = min(voting.n_neighbors, len(codes) - 1)
    return measured(who, TRAINING, f"leave-one-out, {voting.words(k, others)}{drawn}", right)


def _probed(who: str, found: Probe | None, training: TrainingRows) -> Measured | None:
    if found is None:
        return None
    kept = " of whole groups" if training.has_groups() else ""
    how = "each of" if len(training.codes) <= MOST_ROWS else "one of"
    protocol = f"logistic regression, {how} {N_FOLDS} folds{kept} held out"
    return measured(who, TRAINING, f"{protocol}; strength chosen on the same folds", found.right)
