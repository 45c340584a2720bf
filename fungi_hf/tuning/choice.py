"""Which candidate is chosen, given what each has right of some rows."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Final

import numpy as np

from fungi_hf.tuning.candidates import FIRST_GRADIENT, lead

if TYPE_CHECKING:
    from collections.abc import Sequence

    from fungi_hf.tuning.candidates import Candidate, Outcome
    from fungi_hf.tuning.evidence import Evidence
    from fungi_hf.tuning.search import TuningSearch
    from fungi_hf.types import Float64Array, Int64Array

_OWN: Final = 0.5  # share of a candidate's own score in its smoothed one


class Rule:
    """Finds the best of candidates without a PCA from their shares of any rows.

    The best of many noisy scores is partly luck; what is good is seldom alone. So candidates are
    compared by the mean of their own score and of their neighbours' (`smoothed`). Of those without
    gradients the best is taken. One with gradients of the untouched input, then of views, takes its
    place if it leads by more than one standard error of the paired difference and by more than
    `min_gain`. The plain embedding comes first.
    """

    def __init__(
        self, candidates: Sequence[Candidate], ranks: Int64Array, search: TuningSearch
    ) -> None:
        """Find every candidate's neighbours once; `ranks` are the candidates' costs."""
        self._near = _neighbours(candidates, search)
        self._ranks, self._min_gain = ranks, search.min_gain

    def smoothed(self, shares: Float64Array) -> Float64Array:
        """Give the mean of each candidate's own score and the mean of its neighbours', [C].

        Neighbours share the pooling, and either the weights, under the next transform, or the
        transform, with one block's weight changed (to or from nothing, too).
        """
        own: Float64Array = shares.mean(1)
        counts = self._near.sum(1)
        near = self._near @ own / np.maximum(counts, 1)
        return np.where(counts > 0, _OWN * own + (1 - _OWN) * near, own)

    def __call__(self, shares: Float64Array) -> int:
        """Give the position of the best candidate from shares [C, rows]."""
        score = self.smoothed(shares)
        steps = (0, FIRST_GRADIENT, FIRST_GRADIENT + 2)
        chosen = 0
        for low, high in zip(steps, (*steps[1:], np.inf), strict=True):
            places = np.flatnonzero((self._ranks >= low) & (self._ranks < high))
            if not len(places):
                continue
            best = int(places[score[places].argmax()])
            error = lead(shares[best], shares[chosen])[1]
            if low == 0 or score[best] - score[chosen] > max(error, self._min_gain):
                chosen = best
        return chosen


def _neighbours(candidates: Sequence[Candidate], search: TuningSearch) -> Float64Array:
    """Give which candidates are one step apart, [C, C] of 0 and 1."""
    order = {transform: place for place, transform in enumerate(search.transforms)}
    weights = [dict(one.weights) for one in candidates]
    blocks = sorted({name for some in weights for name in some})
    table = np.array([[some.get(name, 0.0) for name in blocks] for some in weights])
    pooling = np.array([one.pooling for one in candidates])
    transform = np.array([order[one.transform] for one in candidates])
    near = np.zeros((len(candidates), len(candidates)))
    for i in range(len(candidates)):
        steps = (table != table[i]).sum(1) + np.abs(transform - transform[i])  # one of either
        near[i] = (pooling == pooling[i]) & (steps == 1)
    return near


def choose(
    outcomes: Sequence[Outcome], first: int, search: TuningSearch, evidence: Evidence
) -> int:
    """Give the position of the chosen candidate: the leader, a PCA of it, or the plain embedding.

    A PCA takes the leader's place if it leads by more than one standard error and by more than
    `min_gain`. The plain embedding, the first outcome, stays where nothing has a higher share than
    it, and where the evidence for leaving it is weaker than the search asks for. `first` is the
    position of the leader.
    """
    position, parent = first, outcomes[first].candidate
    for i, one in enumerate(outcomes):
        reduced = one.candidate.components is not None
        if reduced and dataclasses.replace(one.candidate, components=None) == parent:
            ahead, error = map(float, lead(one.share, outcomes[position].share))
            if ahead > max(error, search.min_gain):
                position = i
    gains = lead(np.stack([one.share for one in outcomes]), outcomes[0].share)[0]
    is_unsure = evidence.gain <= 0 or evidence.p > search.evidence
    return 0 if is_unsure or gains.max() <= 0 else position
