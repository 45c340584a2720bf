"""The choice among scored candidates: the cheapest that is level with the best."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from fungi_hf.evaluation.statistics import mcnemar, wilson_interval
from fungi_hf.tuning import CandidateScore

if TYPE_CHECKING:
    from collections.abc import Sequence

    from fungi_hf.evaluation.tuning.scoring import BoolArray
    from fungi_hf.evaluation.tuning.search import Candidate
    from fungi_hf.specs import ObjectiveSpec
    from fungi_hf.types import Float64Array


@dataclass(frozen=True, slots=True)
class Outcome:
    """One candidate and the rows it had right, [N]."""

    candidate: Candidate
    right: BoolArray


def choose(
    outcomes: Sequence[Outcome], specs: Sequence[ObjectiveSpec], min_gain: float
) -> tuple[int, int]:
    """Choose by the one-standard-error rule.

    The best of many noisy scores is partly luck, and each row that two candidates share is
    shared luck: a candidate counts as level with the best if it is behind by at most one standard
    error of the paired difference, or by at most `min_gain`. The cheapest level candidates stay,
    and of these the most accurate; the first of equals.

    Args:
        outcomes: At least one, judged on the same rows.
        specs: The objectives that candidates name.
        min_gain: A share of the rows.

    Returns:
        Positions of the chosen one and of the best one.
    """
    accuracies = np.array([outcome.right.mean() for outcome in outcomes])
    best = int(accuracies.argmax())
    behind, errors = behind_best(outcomes, best)
    level = np.flatnonzero(behind <= np.maximum(errors, min_gain) + 1e-12)
    costs = np.array([outcomes[int(place)].candidate.cost(specs) for place in level])
    cheapest = level[costs == costs.min()]
    return int(cheapest[accuracies[cheapest].argmax()]), best


def behind_best(outcomes: Sequence[Outcome], best: int) -> tuple[Float64Array, Float64Array]:
    """Give each candidate's distance to the best one and the standard error of that distance."""
    top = outcomes[best].right.astype(np.int8)
    behind = np.empty(len(outcomes))
    errors = np.empty(len(outcomes))
    for place, outcome in enumerate(outcomes):
        lead = top - outcome.right.astype(np.int8)
        behind[place] = lead.mean()
        errors[place] = lead.std() / len(lead) ** 0.5
    return behind, errors


def scores(
    outcomes: Sequence[Outcome], specs: Sequence[ObjectiveSpec], best: int, baseline: int
) -> list[CandidateScore]:
    """Give every candidate's record, in the order given."""
    behind, errors = behind_best(outcomes, best)
    plain = outcomes[baseline].right
    found = []
    for outcome, distance, error in zip(outcomes, behind, errors, strict=True):
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
                behind_best=float(distance),
                error=float(error),
            )
        )
    return found
