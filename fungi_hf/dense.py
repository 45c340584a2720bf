"""Features of the patches of one image: a grid of vectors whose columns have names."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from fungi_hf.checks import check_known
from fungi_hf.errors import FeatureError, ShapeError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from fungi_hf.types import Float32Array, Layout

_SLACK = 1e-3  # of a row's norm: float16 keeps three digits


@dataclass(frozen=True, eq=False)
class DenseFeatures:
    """One unit vector per patch of an image.

    Attributes:
        array: [T, F] float32 unit rows, row-major over the grid.
        grid: (rows, columns) of patches, T together.
        layout: Ordered block name -> slice of the columns.
        fingerprint: Identity of config, encoder and fitted state.
        source: The image in one short text, for messages.
    """

    array: Float32Array
    grid: tuple[int, int]
    layout: Layout
    fingerprint: str
    source: str

    def __post_init__(self) -> None:
        rows, columns = self.grid
        if self.array.ndim != 2 or not self.array.size or len(self.array) != rows * columns:
            raise ShapeError(
                f"{self.source}: features have shape {self.array.shape}; a grid of {rows} x "
                f"{columns} patches needs [{rows * columns}, F]"
            )
        norms = np.linalg.norm(self.array, axis=1)
        if not (np.abs(norms - 1) < _SLACK).all():
            raise FeatureError(f"{self.source}: rows must be finite and of length 1")

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
        parts = [self.block(name) for name in names]
        array = np.concatenate(parts, axis=1)
        array /= np.maximum(np.linalg.norm(array, axis=1, keepdims=True), np.float32(1e-12))
        ends = np.cumsum([part.shape[1] for part in parts]).tolist()
        layout = {
            name: slice(end - part.shape[1], end)
            for name, part, end in zip(names, parts, ends, strict=True)
        }
        return DenseFeatures(array, self.grid, layout, self.fingerprint, self.source)
