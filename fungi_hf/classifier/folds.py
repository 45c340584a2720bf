"""Folds of training rows, and what a linear head is worth on the rows that it did not see.

The strength of a linear head is chosen here, on training rows alone.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np

from fungi_hf.classifier.heads import LinearHead, fit_logistic
from fungi_hf.evaluation import LINEAR_PROTOCOLS
from fungi_hf.seeding import numpy_generator

if TYPE_CHECKING:
    from fungi_hf.types import Float32Array, Float64Array, Int64Array

N_FOLDS: Final = 5
MOST_ROWS: Final = 2000
"""Training rows up to which every fold is held out once; of more rows one fold is."""
SEED: Final = 42


@dataclass(frozen=True, slots=True, kw_only=True)
class Probe:
    """What the held-out folds say about a linear head.

    Attributes:
        strength: Of the best: most rows right, then the smaller cross-entropy.
        rows: The rows that were held out, ascending.
        right: Which of these the chosen strength has right; [len(rows)].
    """

    strength: float
    rows: Int64Array
    right: np.ndarray[tuple[int], np.dtype[np.bool_]]


def deal_folds(codes: Int64Array, groups: Int64Array, n_folds: int = N_FOLDS) -> Int64Array:
    """Give each row's fold, [N], seeded.

    Rows of one group share a fold, and groups go to the smallest fold, the largest group first;
    where every row is a group of its own, each class is spread evenly.
    """
    generator = numpy_generator(SEED, "classifier", "folds")
    names, members, sizes = np.unique(groups, return_inverse=True, return_counts=True)
    if len(names) == len(codes):
        order = generator.permutation(len(codes))
        order = order[np.argsort(codes[order], kind="stable")]
        folds = np.empty(len(codes), np.int64)
        folds[order] = np.arange(len(codes)) % n_folds
        return folds
    of_group, filled = np.empty(len(names), np.int64), np.zeros(n_folds, np.int64)
    shuffled = generator.permutation(len(names))
    for group in shuffled[np.argsort(-sizes[shuffled], kind="stable")]:
        of_group[group] = filled.argmin()
        filled[of_group[group]] += sizes[group]
    return of_group[members]


def probe(rows: Float32Array, codes: Int64Array, groups: Int64Array) -> Probe | None:
    """Fit on all folds but one and judge this one, for every strength of the protocol `fungi`.

    None where no fold can be held out that leaves two classes to learn from.
    """
    strengths = LINEAR_PROTOCOLS["fungi"].strengths
    folds = deal_folds(codes, groups)
    n_judged = N_FOLDS if len(codes) <= MOST_ROWS else 1
    judged = [fold for fold in range(n_judged) if _can_learn(codes, folds == fold)]
    if not judged:
        return None
    held = np.flatnonzero(np.isin(folds, judged))
    right, entropy = [], []
    n_classes = int(codes.max()) + 1
    for strength in strengths:
        shares = np.empty((len(held), n_classes))
        for fold in judged:
            known = folds != fold
            place = np.flatnonzero(folds[held] == fold)
            shares[place] = _shares(rows[known], codes[known], rows[~known], n_classes, strength)
        right.append(shares.argmax(axis=1) == codes[held])
        true = np.maximum(shares[np.arange(len(held)), codes[held]], np.finfo(np.float64).tiny)
        entropy.append(float(-np.log(true).mean()))
    best = min(range(len(strengths)), key=lambda i: (-int(right[i].sum()), entropy[i]))
    return Probe(strength=strengths[best], rows=held, right=right[best])


def _can_learn(codes: Int64Array, held: np.ndarray[tuple[int], np.dtype[np.bool_]]) -> bool:
    return bool(held.any()) and len(np.unique(codes[~held])) > 1


def _shares(
    rows: Float32Array,
    codes: Int64Array,
    judged: Float32Array,
    n_classes: int,
    strength: float,
) -> Float64Array:
    # A class that the fold took away whole has no share.
    model, _ = fit_logistic(rows, codes, strength)
    head = LinearHead(coefficients=model.coef_, intercept=model.intercept_)
    shares = np.zeros((len(judged), n_classes))
    shares[:, model.classes_] = head.shares(judged)
    return shares
