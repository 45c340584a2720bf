"""From shares of classes on a grid of patches to pixels."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Iterator

    from fungi_hf.evaluation.segmentation.protocol import Upsampling
    from fungi_hf.types import Float32Array, Int64Array

_NUMBERS = 1 << 22  # of a band of rows: 16 MB


def upsample(shares: Float32Array, size: tuple[int, int], kind: Upsampling) -> Float32Array:
    """Enlarge [h, w, C] to [H, W, C].

    Bilinear as in torch with `align_corners=False`: the centre of a patch has its own shares.
    """
    return np.concatenate(list(_bands(shares, size, kind)))


def label_map(shares: Float32Array, size: tuple[int, int], kind: Upsampling) -> Int64Array:
    """Give the class of the largest share of each pixel, [H, W], the lowest of equal ones.

    Of [H, W, C] only a band of rows is in memory at a time.
    """
    return np.concatenate([band.argmax(axis=2) for band in _bands(shares, size, kind)])


def _bands(shares: Float32Array, size: tuple[int, int], kind: Upsampling) -> Iterator[Float32Array]:
    (above, below, down), (left, right, along) = (
        _places(to, n, kind) for to, n in zip(size, shares.shape[:2], strict=True)
    )
    step = max(1, _NUMBERS // (size[1] * shares.shape[2]))
    for start in range(0, size[0], step):
        part = slice(start, start + step)
        share = down[part, None, None]
        rows = shares[above[part]] * (1 - share) + shares[below[part]] * share
        share = along[:, None]
        band = rows[:, left] * (1 - share) + rows[:, right] * share
        yield band.astype(np.float32, copy=False)


def _places(size: int, n: int, kind: Upsampling) -> tuple[Int64Array, Int64Array, Float32Array]:
    """Give, for each pixel, the cells before and after it, and the share of the second."""
    if kind == "nearest":
        cells = (2 * np.arange(size) + 1) * n // (2 * size)
        return cells, cells, np.zeros(size, np.float32)
    at = np.clip((np.arange(size) + 0.5) * n / size - 0.5, 0, n - 1)
    before = at.astype(np.int64)
    return before, np.minimum(before + 1, n - 1), (at - before).astype(np.float32)
