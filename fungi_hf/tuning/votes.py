"""Leave-one-out votes of many weighted combinations from one Gram block per block and chunk."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeAlias

import numpy as np
import numpy.typing as npt

from fungi_hf.neighbors.classifier import vote

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from fungi_hf.types import Float32Array, Int64Array

BoolArray: TypeAlias = npt.NDArray[np.bool_]
_GRAM_NUMBERS = 1 << 22  # 16 MB of float32 a block


def leave_one_out(
    blocks: Mapping[str, Float32Array],
    combinations: Sequence[Sequence[tuple[str, float]]],
    codes: Int64Array,
    groups: Int64Array,
    n_neighbors: int,
    voters: Int64Array | None = None,
) -> BoolArray:
    """Say which rows their nearest neighbours of other groups classify rightly, [combinations, N].

    Formula: similarity = sum of weight_b <x_b, y_b>; uniform votes of the k nearest, ties to the
    smallest class. A row without a neighbour of another group is wrong.

    Args:
        blocks: Name -> [N, width] rows of unit length.
        combinations: (block, weight) pairs each.
        codes: [N] class numbers.
        groups: [N] group numbers; rows of one group never vote for each other.
        n_neighbors: k; all there are where they are fewer.
        voters: Rows that vote; None for all.
    """
    n_rows, n_classes = len(codes), int(codes.max()) + 1
    voters = np.arange(n_rows) if voters is None else voters
    k, n_voters = min(n_neighbors, len(voters)), len(voters)
    voting = {name: blocks[name][voters] for name in {n for some in combinations for n, _ in some}}
    right = np.empty((len(combinations), n_rows), np.bool_)
    step = max(1, _GRAM_NUMBERS // n_rows)
    for start in range(0, n_rows, step):
        part = slice(start, min(start + step, n_rows))
        same = groups[part, None] == groups[None, voters]
        grams = {name: blocks[name][part] @ rows.T for name, rows in voting.items()}
        near = np.empty((len(combinations), len(same), k), np.int64)
        scores = np.empty(near.shape, np.float32)
        for number, some in enumerate(combinations):
            total = np.zeros(same.shape, np.float32)
            for name, weight in some:
                total += np.float32(weight) * grams[name]
            total[same] = -np.inf
            near[number] = np.argpartition(total, n_voters - k, axis=1)[:, n_voters - k :]
            scores[number] = np.take_along_axis(total, near[number], 1)
        elected = vote(
            np.where(scores > -np.inf, codes[voters][near], -1).reshape(-1, k),
            scores.reshape(-1, k),
            n_classes,
        ).reshape(near.shape[:2])
        right[:, part] = (elected == codes[part]) & (scores > -np.inf).any(2)
    return right
