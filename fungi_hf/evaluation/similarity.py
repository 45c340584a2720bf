"""Linear CKA: how alike the geometries of two blocks are, whatever their widths and rotations."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from fungi_hf.errors import InputError, ShapeError
from fungi_hf.evaluation.inputs import read_blocks
from fungi_hf.neighbors.vectors import blocks, mean_of, read_rows

if TYPE_CHECKING:
    from fungi_hf.evaluation.inputs import FeatureInput
    from fungi_hf.neighbors.base import Vectors
    from fungi_hf.neighbors.vectors import Rows
    from fungi_hf.types import Float64Array


def linear_cka(first: Vectors, second: Vectors) -> float:
    """Give linear CKA of two sets of vectors, [N, F] and [N, F'], of the same inputs, in [0, 1].

    Formula: |Y'X|_F^2 / (|X'X|_F |Y'Y|_F), X and Y centred by column; 0 if one is constant.

    Raises:
        ShapeError: If the numbers of rows differ.
    """
    one, other = read_rows(first, "first"), read_rows(second, "second")
    if len(one) != len(other):
        raise ShapeError(f"first has {len(one)} rows, second has {len(other)}; same inputs needed")
    cut = one.width
    joined = np.concatenate([one.array, other.array], axis=1, dtype=np.float64)
    products = _products(read_rows(joined, "both"))
    return _cka(products, [slice(0, cut), slice(cut, None)])[0, 1]


def block_cka(features: FeatureInput) -> tuple[list[str], Float64Array]:
    """Give the names of all blocks and linear CKA between them, [blocks, blocks] in [0, 1].

    Raises:
        InputError: If there are fewer than two rows.
    """
    found = read_blocks(features, "features")
    if len(found) < 2:
        raise InputError(f"features have {len(found)} rows; CKA needs at least 2")
    return list(found.layout), _cka(_products(found.rows), list(found.layout.values()))


def _products(rows: Rows) -> Float64Array:
    """Give the centred X'X, [F, F]."""
    mean = mean_of(rows)
    total = np.zeros((rows.width, rows.width))
    for part in blocks(len(rows), rows.width):
        centred = rows.array[part] - mean
        total += centred.T @ centred
    return total


def _cka(products: Float64Array, parts: list[slice]) -> Float64Array:
    table = np.array([[np.sum(products[one, two] ** 2) for two in parts] for one in parts])
    table = (table + table.T) / 2  # equal but for rounding
    scale = np.sqrt(np.outer(table.diagonal(), table.diagonal()))
    # A constant block leaves only rounding: far below the others' share.
    held = scale > 1e-24 * max(float(table.max()), 1e-300)
    return np.where(held, table / np.where(held, scale, 1), 0)
