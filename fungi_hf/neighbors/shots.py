"""The one few-shot draw: evaluation, tuning and recipes take equal rows for equal seeds."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from fungi_hf.seeding import numpy_generator

if TYPE_CHECKING:
    from fungi_hf.types import Int64Array


def draw_few(codes: Int64Array, n_shots: int, seed: int) -> Int64Array:
    """Draw n_shots rows of every class, ascending; a class with fewer rows gives all of them.

    `codes` [N] are class numbers from 0, each with a row; a table numbers the seeds of its draws.
    """
    # The seed is a name here: seeds 0 to 4 are the draws of the recorded tables.
    generator = numpy_generator(0, "few-shot", str(seed))
    classes = (np.flatnonzero(codes == code) for code in range(codes.max() + 1))
    taken = [generator.choice(rows, min(n_shots, len(rows)), replace=False) for rows in classes]
    return np.sort(np.concatenate(taken))
