"""Features of the parts of one input: of patches, words or frames, with named columns."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from fungi_hf.checks import check_known
from fungi_hf.errors import FeatureError, ShapeError
from fungi_hf.features import FungiFeatures

if TYPE_CHECKING:
    from collections.abc import Sequence

    from fungi_hf.types import Float32Array, Float64Array, Layout

_SLACK = 1e-3  # of a row's norm: float16 keeps three digits


@dataclass(frozen=True, eq=False)
class DenseFeatures:
    """One unit vector for every part of an input.

    Attributes:
        array: [T, F] float32. Rows have length 1, or 0 where every block is 0; with `factors`
            that holds for `rows().similarity`.
        grid: (rows, columns) of an image's patches, row-major; (T,) of words or frames. Their
            product is T, which is 0 for a text without words.
        layout: Ordered block name -> slice of the columns: "tokens", then the objectives.
        fingerprint: Identity of config, encoder and fitted state.
        source: The input in one short text, for messages.
        spans: [T, 2] where each part begins and ends, in characters of a text or seconds of a
            sound; None for images.
        factors: For blocks kept as exact factors: name -> (m, n1).
        index: Place of the input among all.
    """

    array: Float32Array
    grid: tuple[int, ...]
    layout: Layout
    fingerprint: str
    source: str
    spans: Float64Array | None = None
    factors: dict[str, tuple[int, int]] = field(default_factory=dict)
    index: int = 0

    def __post_init__(self) -> None:
        n = int(np.prod(self.grid))
        if self.array.ndim != 2 or len(self.array) != n:
            raise ShapeError(
                f"{self.source}: features have shape {self.array.shape}; a grid of "
                f"{' x '.join(map(str, self.grid))} parts needs [{n}, F]"
            )
        if self.spans is not None and self.spans.shape != (n, 2):
            raise ShapeError(f"{self.source}: spans have shape {self.spans.shape}; give [{n}, 2]")
        norms = np.linalg.norm(self.array, axis=1)
        is_unit = (np.abs(norms - 1) < _SLACK) | (norms == 0)
        if not (np.isfinite(norms) if self.factors else is_unit).all():
            raise FeatureError(f"{self.source}: rows must be finite and of length 1 (or 0)")

    def __len__(self) -> int:
        """Give T."""
        return len(self.array)

    def block(self, name: str) -> Float32Array:
        """Give the columns of a block, [T, f], as they stand in the unit rows.

        Raises:
            FeatureError: If there is no such block.
        """
        check_known("the layout", [name], self.layout, noun="block", error=FeatureError)
        return self.array[:, self.layout[name]]

    def take(self, names: Sequence[str]) -> DenseFeatures:
        """Give the features of some blocks, in the order named, with unit rows again.

        Raises:
            FeatureError: If there is no such block, or none is named.
        """
        if not names:
            raise FeatureError(f"no block was named; there are {', '.join(self.layout)}")
        parts = {name: self.block(name) for name in names}
        kept = {name: shape for name, shape in self.factors.items() if name in parts}
        array, layout = unit_concatenation(parts, kept)
        return DenseFeatures(
            *(array, self.grid, layout, self.fingerprint, self.source),
            spans=self.spans,
            factors=kept,
            index=self.index,
        )

    def rows(self) -> FungiFeatures:
        """Give the parts as features of their own, e.g. for an index."""
        return FungiFeatures(self.array, self.fingerprint, dict(self.layout), dict(self.factors))


def unit_concatenation(
    parts: dict[str, Float32Array], factors: dict[str, tuple[int, int]]
) -> tuple[Float32Array, Layout]:
    """Give blocks [T, f] side by side in rows of length 1, a row of zeros as it is, and where.

    A block of r exact factors counts by the norm of its gradient, sum_ij (d_i . d_j)(a_i . a_j);
    both sides of a factor are divided by the root.
    """
    squares = [
        _gradient_squares(block, *factors[name]) if name in factors else np.square(block).sum(1)
        for name, block in parts.items()
    ]
    norms = np.sqrt(np.sum(squares, axis=0))[:, None]
    norms[norms == 0] = 1
    scaled = [
        block / (np.sqrt(norms) if name in factors else norms) for name, block in parts.items()
    ]
    ends = np.cumsum([block.shape[1] for block in parts.values()]).tolist()
    layout = {
        name: slice(end - block.shape[1], end)
        for (name, block), end in zip(parts.items(), ends, strict=True)
    }
    return np.concatenate(scaled, axis=1).astype(np.float32, copy=False), layout


def _gradient_squares(block: Float32Array, m: int, n1: int) -> Float32Array:
    rank = block.shape[1] // (m + n1)
    d = block[:, : rank * m].reshape(len(block), rank, m)
    a = block[:, rank * m :].reshape(len(block), rank, n1)
    grams = [np.matmul(side, side.transpose(0, 2, 1)) for side in (d, a)]
    return np.asarray((grams[0] * grams[1]).sum((1, 2)))
