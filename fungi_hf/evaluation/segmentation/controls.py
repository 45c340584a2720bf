"""What a segmentation is worth beside: features and maps made of masks and pixels alone.

No encoder is needed. A feature has to beat position and colour to be worth anything, cannot beat
the bound of true patch histograms by much, and random ones show whether masks leak into keys.
"""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, Final

import numpy as np

from fungi_hf.errors import InputError
from fungi_hf.evaluation.segmentation.examples import patch_histograms
from fungi_hf.evaluation.segmentation.upsampling import label_map
from fungi_hf.seeding import numpy_generator

if TYPE_CHECKING:
    from collections.abc import Callable

    from fungi_hf.evaluation.segmentation.examples import Example, LabelMap, Pixels
    from fungi_hf.evaluation.segmentation.protocol import SegmentationProtocol
    from fungi_hf.types import Float32Array, Int64Array

_WIDTH = 64  # of planted and random features
_SEED = 42


def coordinate_features(grid: tuple[int, int]) -> Float32Array:
    """Give [T, 4] unit rows that know the place of a patch and nothing else.

    The cosine of two falls with the distance along either side of the image.
    """
    rows, columns = ((np.arange(n) + 0.5) / n for n in grid)
    return _on_circles(np.stack([np.repeat(rows, grid[1]), np.tile(columns, grid[0])], axis=1))


def colour_features(pixels: Pixels, grid: tuple[int, int]) -> Float32Array:
    """Give [T, 12] unit rows of the mean and deviation of each colour of a patch.

    Patches are the cells that each pixel's centre lies in.

    Raises:
        InputError: If the picture has fewer pixels than the grid has patches.
    """
    sides = zip(pixels.shape, grid, strict=False)
    cells = [(2 * np.arange(n) + 1) * m // (2 * n) for n, m in sides]
    places = (cells[0][:, None] * grid[1] + cells[1]).ravel()
    n_cells = grid[0] * grid[1]
    sizes = np.bincount(places, minlength=n_cells)
    if not sizes.all():
        raise InputError(
            f"a picture of {pixels.shape[0]} x {pixels.shape[1]} pixels has fewer pixels than a "
            f"grid of {grid[0]} x {grid[1]} patches; give the colours of a larger one"
        )
    flat = pixels.reshape(-1, 3).astype(np.float64).T / 255
    means = np.stack([np.bincount(places, one, n_cells) for one in flat], axis=1) / sizes[:, None]
    squares = np.stack([np.bincount(places, one**2, n_cells) for one in flat], axis=1)
    spread = np.sqrt(np.maximum(squares / sizes[:, None] - means**2, 0))
    return _on_circles(np.concatenate([means, 2 * spread], axis=1))


def random_features(example: Example) -> Float32Array:
    """Give [T, 64] random unit rows, keyed by the image's own features.

    They show the vote of nothing; more than that means that masks leak into keys.
    """
    digest = hashlib.sha256(np.ascontiguousarray(example.features.array).data).digest()
    generator = numpy_generator(_SEED, "segmentation", "random", digest)
    return _unit(generator.standard_normal((len(example.features), _WIDTH)))


def planted_features(example: Example) -> Float32Array:
    """Give [T, 64] unit rows: a fixed random map of each patch's true histogram.

    They come close to the bound, or grid, order of tokens or upsampling are wrong. Patches without
    a label get the map of an even histogram.
    """
    shares = example.histograms.astype(np.float64)
    shares[~shares.any(axis=1)] = 1 / example.n_classes
    generator = numpy_generator(_SEED, "segmentation", "planted")
    return _unit(shares @ generator.standard_normal((example.n_classes, _WIDTH)))


def transposed_features(example: Example) -> Float32Array:
    """Give planted features read off column by column: the mistake that planted ones must show."""
    rows, columns = example.grid
    planted = planted_features(example).reshape(rows, columns, -1)
    return np.ascontiguousarray(planted.transpose(1, 0, 2)).reshape(rows * columns, -1)


class MapControls:
    """Maps that need no features: the majority, the place, and the true patches.

    The first two are learned from all training images, whatever the banks are drawn from.

    Attributes:
        pixels: [C] labelled pixels of each class.
        prior: [rows, columns, C] sums of the shares of the classes in each cell of the grid of the
            first training image; other sizes are brought to it.
        n_images: Training images with a label.
    """

    names = ("majority", "position prior", "true histograms")

    def __init__(self, grid: tuple[int, int], n_classes: int, rule: SegmentationProtocol) -> None:
        self.rule = rule
        self.pixels = np.zeros(n_classes, np.int64)
        self.prior = np.zeros((*grid, n_classes))
        self.n_images = 0

    def add(self, example: Example) -> None:
        """Take in a training image."""
        labels, (rows, columns, n_classes) = example.labels, self.prior.shape
        self.pixels += np.bincount(labels[labels >= 0], minlength=n_classes)
        shares = patch_histograms(labels, (rows, columns), n_classes)
        self.prior += shares.reshape(self.prior.shape)
        self.n_images += bool(shares.any())

    def maps(self, example: Example) -> list[Int64Array]:
        """Give the map of each control for a test image, [H, W] each, in the order of `names`."""
        labels = example.labels
        size = (labels.shape[0], labels.shape[1])
        return [
            np.full(size, self.pixels.argmax(), np.int64),
            label_map(self.prior.astype(np.float32), size, self.rule.upsampling),
            bound(labels, example.grid, example.n_classes, self.rule),
        ]

    @property
    def sources(self) -> dict[str, tuple[int, str]]:
        """Name -> how many training images it knows, and a note that says so."""
        known = (self.n_images, f"learned from the masks of all {self.n_images} training images")
        own = (0, "made of the true mask of each test image: what patches of this size can reach")
        return dict(zip(self.names, (known, known, own), strict=True))


def bound(
    labels: LabelMap, grid: tuple[int, int], n_classes: int, rule: SegmentationProtocol
) -> Int64Array:
    """Give the map of an image's own true patch histograms, [H, W]: what such patches can reach."""
    shares = patch_histograms(labels, grid, n_classes).reshape(*grid, n_classes)
    return label_map(shares, (labels.shape[0], labels.shape[1]), rule.upsampling)


def _colours(example: Example) -> Float32Array:
    if example.pixels is None:
        raise InputError(f"{example.features.source} came without pixels, so it has no colours")
    return colour_features(example.pixels, example.grid)


def _coloured_places(example: Example) -> Float32Array:
    places = coordinate_features(example.grid)
    return _unit(np.concatenate([_colours(example), places], axis=1))


def _on_circles(values: np.ndarray) -> Float32Array:
    """Give each value in [0, 1] as a point of a quarter circle, so that rows have one length."""
    angles = np.clip(values, 0, 1) * (np.pi / 2)
    return _unit(np.concatenate([np.cos(angles), np.sin(angles)], axis=1))


def _unit(rows: np.ndarray) -> Float32Array:
    return np.asarray(rows / np.linalg.norm(rows, axis=1, keepdims=True), np.float32)


FEATURE_CONTROLS: Final[dict[str, Callable[[Example], Float32Array]]] = {
    "coordinates": lambda one: coordinate_features(one.grid),
    "colour": _colours,
    "colour and coordinates": _coloured_places,
    "random": random_features,
    "planted": planted_features,
    "planted, transposed": transposed_features,
}
"""Name -> features of an image in place of its own; those with "colour" need its pixels."""


def control_names(example: Example) -> list[str]:
    """Give the names of the controls that can be made of an image."""
    return [name for name in FEATURE_CONTROLS if example.pixels is not None or "colour" not in name]
