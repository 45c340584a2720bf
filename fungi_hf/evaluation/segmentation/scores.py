"""How well label maps agree with the truth: counts per image, intersection over union, intervals.

All images share one confusion matrix: a mean of each image's own IoU would weigh a class by the
images that it happens to be in.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from fungi_hf.evaluation.protocols import need
from fungi_hf.seeding import numpy_generator

if TYPE_CHECKING:
    from collections.abc import Iterator

    from fungi_hf.evaluation.segmentation.examples import LabelMap
    from fungi_hf.types import Float64Array, Int64Array

_NUMBERS = 1 << 22  # of resampled counts at a time: 32 MB
_BOOTSTRAP, _EXCHANGES = 2000, 10_000


def confusion(truth: LabelMap, predicted: Int64Array, n_classes: int) -> Int64Array:
    """Count pixels by true class (rows) and predicted class, [C, C]; ignored ones are left out."""
    known = truth >= 0
    pairs = truth[known].astype(np.int64) * n_classes + predicted[known]
    return np.bincount(pairs, minlength=n_classes**2).reshape(n_classes, n_classes)


def counts_of(matrix: Int64Array) -> Int64Array:
    """Give the pixels of each class that are hit, predicted and true, [3, C]."""
    return np.stack([matrix.diagonal(), matrix.sum(axis=0), matrix.sum(axis=1)])


def iou(counts: np.ndarray) -> Float64Array:
    """Give intersection over union, [..., C], of counts [..., 3, C]; NaN where no pixel is true.

    Formula: hit / (predicted + true - hit).
    """
    hit, predicted, true = (counts[..., place, :].astype(np.float64) for place in range(3))
    union = np.where(true > 0, predicted + true - hit, np.nan)
    return np.asarray(hit / union)


def miou(counts: np.ndarray) -> Float64Array:
    """Give the mean IoU over the classes that are true somewhere, [...], of counts [..., 3, C]."""
    found = iou(counts)
    known = ~np.isnan(found)
    return np.asarray(np.where(known, found, 0).sum(axis=-1) / np.maximum(known.sum(axis=-1), 1))


def matched_miou(matrix: Int64Array) -> float:
    """Give the mean IoU after predicted classes are matched to true ones, one to one.

    The matching has the largest sum of IoUs (Hungarian method). It suits clusters without names;
    maps that already have names gain from it by chance.
    """
    hits = matrix.astype(np.float64)
    true = hits.sum(axis=1, keepdims=True)
    union = np.maximum(true + hits.sum(axis=0) - hits, 1)
    table = (hits / union)[true[:, 0] > 0]
    rows, columns = need("scipy.optimize").linear_sum_assignment(table, maximize=True)
    return float(table[rows, columns].mean())


def metrics_of(matrix: Int64Array) -> dict[str, float]:
    """Give `miou`, `miou_matched` and `pixel_accuracy` of one confusion matrix."""
    return {
        "miou": float(miou(counts_of(matrix))),
        "miou_matched": matched_miou(matrix),
        "pixel_accuracy": float(matrix.trace() / matrix.sum()),
    }


def interval(counts: Int64Array) -> tuple[float, float]:
    """Give the 95 % percentile interval of the mIoU over resampled images.

    Counts are [draws, N, 3, C]; an image's draws are resampled together, and their mIoUs averaged.
    """
    return _ends(np.concatenate([_mean_miou(counts, some) for some in _resamples(counts)]))


def difference(first: Int64Array, second: Int64Array) -> dict[str, float]:
    """Give `difference` of the mIoU, second less first, its `low` and `high` (95 %), and `p`.

    Counts are [draws, N, 3, C] of the same images. The interval resamples images. p is two-sided,
    by 10,000 random exchanges of the two results of an image.
    """
    pairs = [_mean_miou(second, some) - _mean_miou(first, some) for some in _resamples(first)]
    low, high = _ends(np.concatenate(pairs))
    ones: Float64Array = np.ones((1, first.shape[1]))
    found = float((_mean_miou(second, ones) - _mean_miou(first, ones))[0])
    generator = numpy_generator(42, "segmentation", "exchanges")
    both, apart = first + second, second - first
    reached = 0
    for n in _batches(_EXCHANGES, first):
        signs = 1 - 2 * generator.integers(0, 2, (n, first.shape[1])).astype(np.float64)
        moved = zip(_sums(both, ones), _sums(apart, signs), strict=True)
        change = [miou(all_of + part) - miou(all_of - part) for all_of, part in moved]
        reached += int((np.abs(np.mean(change, axis=0)) >= abs(found) - 1e-12).sum())
    return {"difference": found, "low": low, "high": high, "p": (reached + 1) / (_EXCHANGES + 1)}


def _resamples(counts: Int64Array) -> Iterator[Float64Array]:
    """Give how often each image is drawn, [some, N] at a time, the same for equal N."""
    n, generator = counts.shape[1], numpy_generator(42, "segmentation", "bootstrap")
    for size in _batches(_BOOTSTRAP, counts):
        yield generator.multinomial(n, np.full(n, 1 / n), size).astype(np.float64)


def _mean_miou(counts: Int64Array, weights: Float64Array) -> Float64Array:
    """Give the mIoU of weighted sums over images, averaged over draws, [some]."""
    return np.asarray(np.mean([miou(one) for one in _sums(counts, weights)], axis=0))


def _sums(counts: Int64Array, weights: Float64Array) -> Iterator[Float64Array]:
    """Give each draw's sums over images, [some, 3, C], weighted by [some, N]."""
    for draw in counts:
        yield (weights @ draw.reshape(len(draw), -1)).reshape(len(weights), *draw.shape[1:])


def _batches(n: int, counts: Int64Array) -> list[int]:
    step = max(1, _NUMBERS // (counts.shape[1] + counts[0, 0].size))
    return [min(step, n - start) for start in range(0, n, step)]


def _ends(values: Float64Array) -> tuple[float, float]:
    low, high = np.quantile(values, (0.025, 0.975))
    return float(low), float(high)
