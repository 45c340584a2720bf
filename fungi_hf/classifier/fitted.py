"""A fitted classifier without scikit-learn's manners: an extractor, a head and their record.

Invariant: features of any other extractor, or of the same one with a changed model, are refused.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from fungi_hf.classifier import evidence
from fungi_hf.classifier.evidence import THIS, Voting
from fungi_hf.classifier.folders import Record
from fungi_hf.classifier.folds import probe
from fungi_hf.classifier.heads import LinearHead, NeighborsHead
from fungi_hf.errors import FingerprintMismatchError
from fungi_hf.neighbors import ExactIndex

if TYPE_CHECKING:
    from collections.abc import Sequence

    from fungi_hf.classifier.evidence import Measured, TrainingRows
    from fungi_hf.classifier.features import PlainEmbedding
    from fungi_hf.classifier.folds import Probe
    from fungi_hf.classifier.heads import Head, HeadName
    from fungi_hf.classifier.labels import ClassArray
    from fungi_hf.extractor import FungiExtractor
    from fungi_hf.features import FungiFeatures
    from fungi_hf.types import Float32Array, Float64Array, Int64Array

STRENGTH: Final = 1e-4  # where no row can be held out to choose by: the middle of the protocol's
_EQUAL: Final = 1 - 1e-6  # cosine of embeddings; another batch rounds by 1e-7


@dataclass(kw_only=True, eq=False)
class Fitted:
    """What `fit` makes, or a folder gives back.

    Attributes:
        record: Facts; its results are those of `results`.
        training: What figures are made of; None for a loaded classifier.
        plain: Gives plain embeddings; None for a loaded classifier.
        chosen: What choosing the strength of a linear head saw.
        measured: None until something asked for figures.
    """

    extractor: FungiExtractor
    head: Head
    record: Record
    training: TrainingRows | None = None
    plain: PlainEmbedding | None = None
    chosen: Probe | None = None
    measured: tuple[Measured, ...] | None = None

    def codes(self, features: FungiFeatures) -> Int64Array:
        """Give the class number of each row, [n]."""
        return self.head.codes(self._rows(features))

    def shares(self, features: FungiFeatures) -> Float64Array:
        """Give each class's probability, [n, C]."""
        return self.head.shares(self._rows(features))

    def results(self) -> tuple[Measured, ...]:
        """Give what was measured, on the training rows first."""
        if self.measured is None:
            self.measured = ()
            if self.training is not None:
                self.measured = evidence.measure_training(
                    self.training, self._voting, self.record.head, self.chosen
                )
        return self.measured

    def described(self) -> Record:
        """Give the record with its results."""
        return replace(self.record, results=self.results())

    def evaluate(
        self, items: Sequence[Any], features: FungiFeatures, truth: Int64Array, name: str
    ) -> tuple[Measured, ...]:
        """Judge held-out items by their features; the figures take the place of older ones."""
        before = self.results()
        how = f"fitted on {self.record.n_rows} training rows"
        right = self.codes(features) == truth
        found: tuple[Measured, ...]
        if self.training is None or self.plain is None:
            found = (evidence.measured(THIS, name, how, right),)
        else:
            rows = self.plain.rows(features, items)
            known = _n_equal(rows, self.training.embedding)
            how += f"; {known} rows equal a training row" if known else ""
            found = (evidence.measured(THIS, name, how, right),)
            found += evidence.measure_held_out(self.training, rows, truth, self._voting, name)
        self.measured = (*(one for one in before if one.rows != name), *found)
        return found

    def _rows(self, features: FungiFeatures) -> Float32Array:
        if features.fingerprint != self.record.fingerprint:
            raise FingerprintMismatchError(
                f"the features have fingerprint {features.fingerprint}, the classifier was fitted "
                f"on {self.record.fingerprint}: the model, config or fitted state is another one; "
                "fit again, or load the classifier with its own model"
            )
        return features.array

    @property
    def _voting(self) -> Voting:
        weights: Any = self.record.weights
        return Voting(n_neighbors=self.record.voters, weights=weights)


def fit_head(
    head: HeadName, training: TrainingRows, voting: Voting
) -> tuple[Head, Probe | None, tuple[str, ...]]:
    """Fit a head on training rows; give it, what its strength was chosen by, and notes."""
    rows, codes = training.features, training.codes
    if head == "neighbors":
        k, weights = voting.n_neighbors, voting.weights
        return NeighborsHead(rows, codes, k, weights), None, ()
    chosen = probe(rows, codes, training.groups)
    strength = STRENGTH if chosen is None else chosen.strength
    linear, notes = LinearHead.fit(rows, codes, strength)
    if chosen is None:
        notes += (f"no row could be held out, so the strength is {STRENGTH:g} by default",)
    return linear, chosen, notes


def record_of(
    head: HeadName,
    voting: Voting,
    classes: ClassArray,
    training: TrainingRows,
    fingerprint: str,
    **facts: Any,
) -> Record:
    """Give the record of a fit; the facts are its further fields."""
    counts = np.bincount(training.codes)
    alone = int((counts == 1).sum())
    if alone:
        note = f"{alone} classes have one row, which no other training row can classify rightly"
        facts["notes"] = (note, *facts["notes"])
    return Record(
        head=head,
        weights=voting.weights,
        voters=voting.n_neighbors,
        fingerprint=fingerprint,
        classes=classes,
        counts=tuple(counts.tolist()),
        results=(),
        **facts,
    )


def _n_equal(rows: Float32Array, known: Float32Array) -> int:
    nearest = ExactIndex("cosine").fit(known).search(rows, 1)
    return int((nearest.scores[:, 0] > _EQUAL).sum())
