"""Small images for segmentation: masks, features of their patches, pixels."""

from __future__ import annotations

import numpy as np

from fungi_hf.dense import DenseFeatures
from fungi_hf.evaluation.segmentation.controls import planted_features
from fungi_hf.evaluation.segmentation.examples import Example


def unit(rows):
    return np.asarray(rows / np.linalg.norm(rows, axis=1, keepdims=True), np.float32)


def dense(array, grid, *, widths=None, fingerprint="one", source="a.png"):
    widths = widths or {"tokens": array.shape[1]}
    ends = np.cumsum(list(widths.values())).tolist()
    layout = {
        name: slice(end - width, end)
        for (name, width), end in zip(widths.items(), ends, strict=True)
    }
    return DenseFeatures(unit(array), grid, layout, fingerprint, source)


def noise(rng, grid, width=8, **options):
    return dense(rng.standard_normal((grid[0] * grid[1], width)), grid, **options)


def blocky(rng, grid, cell=4, n_classes=5):
    """A mask whose patches hold one class each."""
    return np.kron(rng.integers(0, n_classes, grid), np.ones((cell, cell), int))


def detailed(rng, grid, cell=8, n_classes=5):
    """A mask of straight regions and small discs, whose borders cross patches."""
    rows, columns = np.mgrid[: grid[0] * cell, : grid[1] * cell]
    mask = (rows + columns // 3 > rows.shape[0] * rng.uniform(0.4, 0.9)).astype(int)
    for label in range(2, n_classes):
        for _ in range(3):
            at = rng.uniform(0, rows.shape[0]), rng.uniform(0, rows.shape[1])
            radius = rng.uniform(0.8, 2.5) * cell
            mask[(rows - at[0]) ** 2 + (columns - at[1]) ** 2 < radius**2] = label
    return mask


def planted(rng, masks, grid, n_classes=5, spread=0.0, **options):
    """Features that know the histogram of each patch, beside noise; one pair for each mask."""
    found = []
    for place, mask in enumerate(masks):
        bare = noise(rng, grid)
        rows = planted_features(Example(bare, mask.astype(np.int32), n_classes))
        rows = rows + spread * rng.standard_normal(rows.shape) / 8
        found.append((dense(rows, grid, source=f"{place}.png", **options), mask))
    return found


def coloured(rng, pairs, n_classes=5):
    """Pixels whose colour says a little about the class."""
    palette = np.random.default_rng(3).integers(40, 216, (n_classes, 3))
    given = []
    for features, mask in pairs:
        pixels = palette[np.maximum(mask, 0) % n_classes] + rng.integers(-40, 40, (*mask.shape, 3))
        given.append((features, mask, pixels.astype(np.uint8)))
    return given
