"""The one few-shot draw: evaluation, tuning and recipes take equal rows for equal seeds."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from fungi_hf.seeding import numpy_generator

if TYPE_CHECKING:
    from fungi_hf.types import Int64Array


def draw_few(codes: Int64Array, n_shots: int, seed: int) -> Int64Array:
    """Draw rows of every class, ascending; a class with fewer rows gives all of them.

    Args:
        codes: [N] class numbers from 0, each with at least one row.
        n_shots: Rows a class.
        seed: Of the draw; the draws of one table are numbered on from a first seed.
    """
    # The seed is a name here: seeds 0 to 4 are the draws of the recorded tables.
    generator = numpy_generator(0, "few-shot", str(seed))
    taken = []
    for code, size in enumerate(np.bincount(codes)):
        rows = np.flatnonzero(codes == code)
        taken.append(generator.choice(rows, min(n_shots, size), replace=False))
    return np.sort(np.concatenate(taken))
