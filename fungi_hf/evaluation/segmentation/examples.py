"""One labelled image at the border: checked labels, and the histograms of its patches."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
import numpy.typing as npt

from fungi_hf.checks import check_integer
from fungi_hf.dense import DenseFeatures
from fungi_hf.errors import FeatureError, InputError, InputTypeError, ShapeError
from fungi_hf.seeding import numpy_generator

if TYPE_CHECKING:
    from fungi_hf.evaluation.segmentation.protocol import SegmentationProtocol
    from fungi_hf.types import Float32Array, Int64Array

LabelMap: TypeAlias = npt.NDArray[np.int32]  # [H, W] classes
Pixels: TypeAlias = npt.NDArray[np.uint8]  # [H, W, 3]
IGNORED = -1
MOST_CLASSES = 65_535


@dataclass(frozen=True, eq=False)
class Example:
    """One image with its labels.

    Attributes:
        features: Of its patches.
        labels: [H, W] classes, `IGNORED` for none; the features cover all of it.
        n_classes: Classes are 0 to n_classes - 1.
        void_class: What ignored pixels count as in `histograms`; None leaves them out.
        pixels: [H, W, 3] of the picture, where they came along.
    """

    features: DenseFeatures
    labels: LabelMap
    n_classes: int
    void_class: int | None = None
    pixels: Pixels | None = None

    @property
    def grid(self) -> tuple[int, int]:
        """(rows, columns) of patches."""
        rows, columns = self.features.grid
        return rows, columns

    @cached_property
    def histograms(self) -> Float32Array:
        """[T, C] shares of the classes among each patch's labelled pixels; 0 where there are none.

        These are the values of the bank.
        """
        labels = self.labels
        if self.void_class is not None:
            labels = np.where(labels == IGNORED, np.int32(self.void_class), labels)
        return patch_histograms(labels, self.grid, self.n_classes)

    @property
    def size(self) -> tuple[int, int]:
        """(H, W)."""
        return self.labels.shape[0], self.labels.shape[1]

    @cached_property
    def mask(self) -> bytes:
        """Digest of the labels."""
        return _digest(self.labels)

    @cached_property
    def content(self) -> bytes:
        """Digest of the labels, and of the pixels where they came along: what draws are keyed by.

        Features are left out: their last bits may differ between machines and batches, and two
        encoders are compared by the same draw. Images with equal masks and no pixels are alike.
        """
        return self.mask if self.pixels is None else _digest(self.labels, self.pixels)

    def with_features(self, array: Float32Array, name: str) -> Example:
        """Give the same labels with other features of one block on the same grid."""
        layout = {name: slice(0, array.shape[1])}
        features = DenseFeatures(array, self.grid, layout, name, self.features.source)
        other = replace(self, features=features).drawn_as(self.content)
        other.__dict__["histograms"] = self.histograms
        return other

    def drawn_as(self, content: bytes) -> Example:
        """Give the same image with what its draws are keyed by."""
        other = replace(self)
        other.__dict__["content"] = content
        return other


def _digest(*arrays: np.ndarray) -> bytes:
    digest = hashlib.sha256()
    for one in arrays:
        digest.update(f"{one.shape}".encode())
        digest.update(np.ascontiguousarray(one).data)
    return digest.digest()


def check_classes(n_classes: int, rule: SegmentationProtocol) -> int:
    """Check the number of classes, and that the void class is one."""
    n = check_integer("n_classes", n_classes, 2, MOST_CLASSES, error=InputError)
    if rule.void_class is not None:
        check_integer("void_class", rule.void_class, 0, n - 1)
    return n


def read_example(given: Any, n_classes: int, rule: SegmentationProtocol) -> Example:
    """Check (features, mask [H, W] of integers) or (features, mask, pixels [H, W, 3]).

    Raises:
        InputTypeError: If it is no such pair, or labels are no integers.
        ShapeError: If the mask or the pixels have another shape.
        InputError: If a label is neither a class nor ignored.
    """
    if not isinstance(given, tuple | list) or len(given) not in (2, 3):
        raise InputTypeError(
            f"an image came as a {type(given).__name__}; give (DenseFeatures, mask [H, W]), and "
            "pixels [H, W, 3] as a third where colours are wanted"
        )
    features, mask = check_dense(given[0]), given[1]
    labels = clean_labels(mask, n_classes, rule.ignore, features.source)
    pixels = None if len(given) == 2 or given[2] is None else np.asarray(given[2])
    if pixels is not None and (pixels.ndim != 3 or pixels.shape[2] != 3):
        raise ShapeError(f"{features.source}: pixels have shape {pixels.shape}; give [H, W, 3]")
    if pixels is not None and pixels.dtype != np.uint8:
        raise InputTypeError(f"{features.source}: pixels hold {pixels.dtype}; give uint8, 0 to 255")
    return Example(features, labels, n_classes, rule.void_class, pixels)


def check_dense(features: Any) -> DenseFeatures:
    """Refuse what is no feature map of an image.

    Raises:
        InputTypeError: If they are no `DenseFeatures`.
        ShapeError: If the grid has not two sides.
        FeatureError: If a value is not finite.
    """
    if not isinstance(features, DenseFeatures):
        raise InputTypeError(f"features are a {type(features).__name__}; give DenseFeatures")
    if len(features.grid) != 2:
        raise ShapeError(
            f"{features.source} has a grid of {tuple(features.grid)}; masks have rows and columns, "
            "so give features of images"
        )
    if not np.isfinite(features.array).all():
        raise FeatureError(f"{features.source}: features hold NaN or infinity")
    return features


def clean_labels(mask: Any, n_classes: int, ignore: tuple[int, ...], source: str) -> LabelMap:
    """Give a mask as int32 with `IGNORED` for ignored labels.

    Raises:
        InputTypeError: If it holds no integers.
        ShapeError: If it is no map.
        InputError: If a label is neither a class nor ignored.
    """
    array = np.asarray(mask)
    if array.dtype.kind not in "iu":
        raise InputTypeError(f"{source}: the mask holds {array.dtype}; labels are integers")
    if array.ndim != 2 or not array.size:
        raise ShapeError(f"{source}: the mask has shape {array.shape}; it must be [H, W]")
    skipped = np.isin(array, ignore)
    wrong = ~skipped & ((array < 0) | (array >= n_classes))
    if wrong.any():
        found = list(zip(*np.unique(array[wrong], return_counts=True), strict=True))
        shown = ", ".join(f"{label} ({n} pixels)" for label, n in found[:10])
        raise InputError(
            f"{source}: labels that are no class: {shown}{' ...' if len(found) > 10 else ''}; "
            f"classes are 0 to {n_classes - 1}, ignored {list(ignore) or 'none'}; name others in "
            "the protocol's `ignore`, or give more classes"
        )
    labels = array.astype(np.int32)
    labels[skipped] = IGNORED
    return labels


def patch_histograms(labels: LabelMap, grid: tuple[int, int], n_classes: int) -> Float32Array:
    """Give the share of each class among the labelled pixels of each patch, [T, C].

    Patches are equal blocks of pixels; where the grid does not divide the map, the map is first
    enlarged, by nearest neighbour, to the next size that it divides. Rows without a labelled pixel
    are 0.
    """
    sides = [-(-n // cells) for n, cells in zip(labels.shape, grid, strict=True)]
    whole = resize_labels(labels, (sides[0] * grid[0], sides[1] * grid[1]))
    cells = np.arange(whole.shape[0])[:, None] // sides[0] * grid[1]
    places = (cells + np.arange(whole.shape[1]) // sides[1]) * n_classes + whole
    n_cells = grid[0] * grid[1]
    counts = np.bincount(places[whole >= 0], minlength=n_cells * n_classes)
    counts = counts.reshape(n_cells, n_classes)
    totals = np.maximum(counts.sum(axis=1, keepdims=True), 1)
    return np.asarray(counts / totals, np.float32)


def resize_labels(labels: LabelMap, size: tuple[int, int]) -> LabelMap:
    """Resize a map by nearest neighbour of pixel centres: no label is invented."""
    if labels.shape == size:
        return labels
    rows, columns = (
        ((2 * np.arange(to) + 1) * n // (2 * to)) for n, to in zip(labels.shape, size, strict=True)
    )
    return np.asarray(labels[rows[:, None], columns])


def rare_first(histograms: Float32Array, seed: int, content: bytes) -> Int64Array:
    """Give the patches with a label, those of rare classes sooner.

    Score, lowest first: U(0, 1) times the sum, over the classes in the patch, of the number of the
    image's patches that hold the class (Hummingbird's rule). U is keyed by seed and content.
    """
    holds = histograms > 0
    weights = holds @ holds.sum(axis=0)
    draws = numpy_generator(seed, "segmentation", "bank", content).random(len(holds))
    rows = np.flatnonzero(weights)
    return np.asarray(rows[np.argsort((draws * weights)[rows], kind="stable")])
