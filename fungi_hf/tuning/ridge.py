"""Leave-one-out ridge classifiers of many weighted combinations, from the blocks' Gram matrices."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from fungi_hf.tuning.votes import BoolArray
    from fungi_hf.types import Float32Array, Float64Array, Int64Array

STRENGTHS: Final = (1e-4, 1e-3, 1e-2, 1e-1, 1.0)
"""Of the ridge, in units of the mean squared length of a row; the best of them counts."""


def ridge_leave_out(
    blocks: Mapping[str, Float32Array],
    combinations: Sequence[Sequence[tuple[str, float]]],
    codes: Int64Array,
    groups: Int64Array,
) -> BoolArray:
    """Say which rows a linear classifier of the other groups has right, [combinations, N].

    Formula: K = sum of weight_b X_b X_b' + a constant (the intercept), C = (K + s I)^-1,
    alpha = C Y with Y of +-1; the prediction of group g without its rows is
    Y_g - C_gg^-1 alpha_g. The strength s is the one of `STRENGTHS` with most rows right, the
    stronger of equal ones. Of a single group none is right: nothing is left to fit on.

    Args:
        blocks: Name -> [N, width] rows.
        combinations: (block, weight) pairs each.
        codes: [N] class numbers.
        groups: [N] group numbers; rows of one group are left out together.
    """
    if len(np.unique(groups)) < 2:  # predictions would be rounding errors around 0
        return np.zeros((len(combinations), len(codes)), np.bool_)
    names = {name for some in combinations for name, _ in some}
    grams = {name: _gram(blocks[name]) for name in names}
    targets = np.where(codes[:, None] == np.arange(int(codes.max()) + 1), 1.0, -1.0)
    found = np.empty((len(combinations), len(codes)), np.bool_)
    for number, some in enumerate(combinations):
        kernel = np.zeros((len(codes), len(codes)))
        for name, weight in some:
            kernel += weight * grams[name]
        found[number] = _best(kernel, targets, codes, groups)
    return found


def _gram(rows: Float32Array) -> Float64Array:
    wide = rows.astype(np.float64)
    return wide @ wide.T


def _best(
    kernel: Float64Array, targets: Float64Array, codes: Int64Array, groups: Int64Array
) -> BoolArray:
    scale = float(np.trace(kernel)) / len(kernel)
    values, vectors = np.linalg.eigh(kernel + scale)
    projected = vectors.T @ targets
    best = np.zeros(len(codes), np.bool_)
    for strength in STRENGTHS[::-1]:
        inverse = 1 / (np.maximum(values, 0) + strength * scale)
        right = _left_out(vectors, inverse, projected, targets, groups).argmax(1) == codes
        if right.sum() > best.sum():
            best = right
    return best


def _left_out(
    vectors: Float64Array,
    inverse: Float64Array,
    projected: Float64Array,
    targets: Float64Array,
    groups: Int64Array,
) -> Float64Array:
    alpha = (vectors * inverse) @ projected  # [N, classes]
    diagonal = (vectors**2) @ inverse
    predicted: Float64Array = targets - alpha / diagonal[:, None]
    numbers, counts = np.unique(groups, return_counts=True)
    for number in numbers[counts > 1]:
        rows = np.flatnonzero(groups == number)
        own = (vectors[rows] * inverse) @ vectors[rows].T
        predicted[rows] = targets[rows] - np.linalg.solve(own, alpha[rows])
    return predicted
