"""The choice among scored candidates: smoothed scores, gradients only where they pay."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from fungi_hf.tuning.candidates import FIRST_GRADIENT, lead

if TYPE_CHECKING:
    from collections.abc import Sequence

    from fungi_hf.tuning.candidates import Outcome
    from fungi_hf.tuning.search import TuningSearch
    from fungi_hf.types import Float64Array, Int64Array

_OWN = 0.5  # share of a candidate's own score in its smoothed one


def leader(outcomes: Sequence[Outcome], ranks: Int64Array, search: TuningSearch) -> int:
    """Give the position of the best candidate without a PCA.

    The best of many noisy scores is partly luck; what is good is seldom alone. So candidates are
    compared by the mean of their own score and of their neighbours' (`smoothed`). Of those without
    gradients the best is taken. One with gradients of the untouched input, then of views, takes its
    place if it leads by more than one standard error of the paired difference and by more than
    `min_gain`. The plain embedding comes first; `ranks` are the candidates' costs.
    """
    whole = [i for i, one in enumerate(outcomes) if one.candidate.components is None]
    score = smoothed([outcomes[i] for i in whole], search)
    steps = (0, FIRST_GRADIENT, FIRST_GRADIENT + 2)
    chosen = 0
    for low, high in zip(steps, (*steps[1:], np.inf), strict=True):
        places = np.flatnonzero((ranks[whole] >= low) & (ranks[whole] < high))
        if not len(places):
            continue
        best = int(places[score[places].argmax()])
        error = lead(outcomes[whole[best]].share, outcomes[whole[chosen]].share)[1]
        if low == 0 or score[best] - score[chosen] > max(error, search.min_gain):
            chosen = best
    return whole[chosen]


def choose(outcomes: Sequence[Outcome], first: int, search: TuningSearch) -> int:
    """Give the position of the chosen candidate: the leader, a PCA of it, or the plain embedding.

    A PCA takes the leader's place if it leads by more than one standard error and by more than
    `min_gain`. The plain embedding stays where nothing has a higher share than it, and where one
    standard error below the gain lies a loss of more than `max_risk`.

    Args:
        outcomes: The plain embedding first.
        first: Position of the leader.
        search: Its margins.
    """
    position, parent = first, outcomes[first].candidate
    for i, one in enumerate(outcomes):
        reduced = one.candidate.components is not None
        if reduced and replace(one.candidate, components=None) == parent:
            ahead, error = map(float, lead(one.share, outcomes[position].share))
            if ahead > max(error, search.min_gain):
                position = i
    gains, errors = lead(np.stack([one.share for one in outcomes]), outcomes[0].share)
    is_risky = gains[position] - errors[position] < -search.max_risk
    return 0 if is_risky or gains.max() <= 0 else position


def smoothed(outcomes: Sequence[Outcome], search: TuningSearch) -> Float64Array:
    """Give the mean of each candidate's own score and the mean of its neighbours', [candidates].

    Neighbours share the pooling, and either the weights, under the next transform, or the
    transform, with one block's weight changed (to or from nothing, too).
    """
    own = np.array([outcome.share.mean() for outcome in outcomes])
    order = {transform: place for place, transform in enumerate(search.transforms)}
    weights = [dict(o.candidate.weights) for o in outcomes]
    blocks = sorted({name for some in weights for name in some})
    table = np.array([[some.get(name, 0.0) for name in blocks] for some in weights])
    pooling = np.array([o.candidate.pooling for o in outcomes])
    transform = np.array([order[o.candidate.transform] for o in outcomes])
    result = own.copy()
    for i in range(len(outcomes)):
        changed = (table != table[i]).sum(1)
        step = np.abs(transform - transform[i])
        near = (pooling == pooling[i]) & (
            ((changed == 0) & (step == 1)) | ((changed == 1) & (step == 0))
        )
        if near.any():
            result[i] = _OWN * own[i] + (1 - _OWN) * own[near].mean()
    return result
