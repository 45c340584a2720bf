"""The choice among scored candidates: smoothed scores, gradients only where they pay."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from fungi_hf.statistics import mcnemar, wilson_interval
from fungi_hf.tuning.report import CandidateScore

if TYPE_CHECKING:
    from collections.abc import Sequence

    from fungi_hf.specs import ObjectiveSpec
    from fungi_hf.tuning.candidates import Candidate
    from fungi_hf.tuning.search import TuningSearch
    from fungi_hf.tuning.votes import BoolArray
    from fungi_hf.types import Float64Array

FIRST_GRADIENT = 8  # the cost from which on candidates hold gradients
_OWN = 0.5  # share of a candidate's own score in its smoothed one


@dataclass(frozen=True, slots=True)
class Outcome:
    """One candidate, the rows it had right, [N], and the share by which it is judged, [N]."""

    candidate: Candidate
    right: BoolArray
    share: Float64Array


def choose(
    outcomes: Sequence[Outcome], specs: Sequence[ObjectiveSpec], search: TuningSearch
) -> int:
    """Choose one candidate.

    The best of many noisy scores is partly luck; what is good is seldom alone. So candidates are
    compared by the mean of their own score and of their neighbours' (`smoothed`). Of those without
    gradients the best is taken. One with gradients of the untouched input, then of views, takes its
    place if it leads by more than one standard error of the paired difference and by more than
    `min_gain`. A PCA of the chosen one follows the same rule. The plain embedding stays where
    nothing has a higher share than it, and where one standard error below the gain lies a loss of
    more than `max_risk`.

    Args:
        outcomes: At least one, judged on the same rows, the plain embedding first.
        specs: The objectives that candidates name.
        search: Its margins and the order of its transforms.

    Returns:
        Its position.
    """
    whole = [i for i, one in enumerate(outcomes) if one.candidate.components is None]
    score = smoothed([outcomes[i] for i in whole], search)
    costs = np.array([outcomes[i].candidate.cost(specs) for i in whole])
    steps = (0, FIRST_GRADIENT, FIRST_GRADIENT + 2)
    chosen = 0
    for low, high in zip(steps, (*steps[1:], np.inf), strict=True):
        places = np.flatnonzero((costs >= low) & (costs < high))
        if not len(places):
            continue
        best = int(places[score[places].argmax()])
        lead = score[best] - score[chosen]
        margin = max(_lead(outcomes[whole[best]], outcomes[whole[chosen]])[1], search.min_gain)
        if low == 0 or lead > margin:
            chosen = best
    position = whole[chosen]
    parent = outcomes[position]
    for i, one in enumerate(outcomes):
        if replace(one.candidate, components=None) == parent.candidate and i not in whole:
            lead, error = _lead(one, outcomes[position])
            if lead > max(error, search.min_gain):
                position = i
    gain, error = _lead(outcomes[position], outcomes[0])
    is_best = all(_lead(one, outcomes[0])[0] <= 0 for one in outcomes)
    return 0 if is_best or gain - error < -search.max_risk else position


def smoothed(outcomes: Sequence[Outcome], search: TuningSearch) -> Float64Array:
    """Give the mean of each candidate's own score and the mean of its neighbours', [candidates].

    Neighbours share the pooling, and either the weights, under the next transform, or the
    transform, with one block's weight changed (to or from nothing, too).
    """
    own = np.array([outcome.share.mean() for outcome in outcomes])
    order = {transform: place for place, transform in enumerate(search.transforms)}
    keys = [(o.candidate.pooling, order[o.candidate.transform]) for o in outcomes]
    weights = [dict(o.candidate.weights) for o in outcomes]
    blocks = sorted({name for some in weights for name in some})
    table = np.array([[some.get(name, 0.0) for name in blocks] for some in weights])
    pooling = np.array([key[0] for key in keys])
    transform = np.array([key[1] for key in keys])
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


def _lead(one: Outcome, other: Outcome) -> tuple[float, float]:
    """Give how far one is ahead, and the standard error over rows."""
    lead = one.share - other.share
    return float(lead.mean()), float(lead.std() / len(lead) ** 0.5)


def scores(outcomes: Sequence[Outcome], specs: Sequence[ObjectiveSpec]) -> list[CandidateScore]:
    """Give every candidate's record, in the order given, the plain embedding first."""
    best = max(outcomes, key=lambda one: one.share.mean())
    plain = outcomes[0].right
    found = []
    for outcome in outcomes:
        ahead, error = _lead(best, outcome)
        candidate, right = outcome.candidate, outcome.right
        low, high = wilson_interval(int(right.sum()), len(right))
        test = mcnemar(plain, right)
        found.append(
            CandidateScore(
                name=candidate.name,
                pooling=candidate.pooling,
                layer=candidate.layer,
                transform=candidate.transform.name,
                components=candidate.components,
                cost=candidate.cost(specs),
                accuracy=float(right.mean()),
                low=low,
                high=high,
                against_embedding=test.difference,
                p=test.p,
                share=float(outcome.share.mean()),
                behind_best=ahead,
                error=error,
            )
        )
    return found
