"""Does a choice hold on rows that did not choose? Repeated halves: one chooses, one judges.

The best of hundreds of scores is partly luck, and a test of the winner alone, on the rows that
made it the winner, says nothing about that. So the whole choice is made again on half of the rows
and its gain is read from the other half, many times.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import erfc
from typing import TYPE_CHECKING, Final

import numpy as np

from fungi_hf.seeding import numpy_generator

if TYPE_CHECKING:
    from collections.abc import Callable

    from fungi_hf.types import Float64Array, Int64Array

REPEATS: Final = 10


@dataclass(frozen=True, slots=True, kw_only=True)
class Evidence:
    """What the choice gains over the plain embedding on rows that did not choose.

    Attributes:
        gain: Mean over rows and repeats of the chosen candidate's share less the embedding's.
        error: Its standard error over rows, over groups where there are any.
        p: One-sided chance of such a gain if there were none (normal).
        n_candidates: How many each half chose from.
        repeats: Pairs of halves.
    """

    gain: float
    error: float
    p: float
    n_candidates: int
    repeats: int = REPEATS


def held_out_gain(
    shares: Float64Array,
    groups: Int64Array,
    choose: Callable[[Float64Array], int],
    seed: int,
) -> Evidence:
    """Choose on one half of the rows, judge on the other, both ways and repeatedly.

    Args:
        shares: [candidates, N] what each candidate has right of each row; the first is the plain
            embedding.
        groups: [N]; the rows of a group stay in one half.
        choose: Gives the position of a candidate from the shares of some rows.
        seed: Of the halves.
    """
    numbers, places = np.unique(groups, return_inverse=True)
    gains = np.zeros(shares.shape[1])
    for repeat in range(REPEATS):
        generator = numpy_generator(seed, "tuning", "halves", str(repeat))
        order = generator.permutation(len(numbers))
        is_first = np.zeros(len(numbers), np.bool_)
        is_first[order[: (len(numbers) + 1) // 2]] = True
        for half in (is_first[places], ~is_first[places]):
            if half.any() and not half.all():
                chosen = choose(shares[:, half])
                gains[~half] += shares[chosen, ~half] - shares[0, ~half]
    gains /= REPEATS
    gain, n = float(gains.mean()), len(gains)
    summed = np.bincount(places, weights=gains - gain)
    error = float(np.sqrt((summed**2).sum()) / n)
    p = 0.5 * erfc(gain / error / 2**0.5) if error > 0 else float(gain <= 0)
    return Evidence(gain=gain, error=error, p=p, n_candidates=len(shares))
