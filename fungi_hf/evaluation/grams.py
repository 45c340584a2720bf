"""Nearest neighbours for every combination of blocks from one pass over the training rows.

The dot product of concatenated blocks is the sum of the blocks' dot products, so each block is
multiplied once and combinations only add. Neighbours and ties are those of `ExactIndex` on the
concatenation. Memory does not grow with the training rows.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from fungi_hf.neighbors.base import check_metric
from fungi_hf.neighbors.comparison import Comparison, Pool

if TYPE_CHECKING:
    from collections.abc import Sequence

    from fungi_hf.evaluation.inputs import Combination
    from fungi_hf.neighbors.base import Exclusions, Metric, Neighbors
    from fungi_hf.neighbors.vectors import Rows
    from fungi_hf.types import Layout


def combination_neighbors(
    train: Rows,
    test: Rows,
    layout: Layout,
    combinations: Sequence[Combination],
    k: int,
    metric: Metric = "cosine",
    exclude: Exclusions | None = None,
) -> dict[Combination, Neighbors]:
    """Find the k (1 to N) nearest training rows of each test row, by every combination.

    Training rows [N, F] may be memory-mapped, and share the layout of the test rows [Q, F]. The
    metric is that of the concatenated blocks; `exclude` maps a test row to training rows that it
    may not get.
    """
    pool = Pool(train, check_metric(metric), layout)
    pool.check_range(test, "test")
    found = Comparison(pool, test).nearest_by(combinations, k, exclude)
    return dict(zip(combinations, found, strict=True))
