"""How a memory bank is gathered: image by image, within a bound, in any order."""

from __future__ import annotations

import bisect
import hashlib
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from fungi_hf.errors import InputError, ShapeError
from fungi_hf.evaluation.segmentation.examples import rare_first
from fungi_hf.neighbors.vectors import check_fingerprint
from fungi_hf.seeding import derive

if TYPE_CHECKING:
    import numpy.typing as npt

    from fungi_hf.evaluation.segmentation.examples import Example
    from fungi_hf.evaluation.segmentation.protocol import SegmentationProtocol
    from fungi_hf.types import Float32Array, Layout

    Keys = npt.NDArray[np.float32] | npt.NDArray[np.float16]

_SLACK = 1.25  # times the bound: what is held before rows are cut back


class _Held(NamedTuple):
    """What the bank keeps of an image, best patches first; the order is that of the digests."""

    order: tuple[int, bytes]
    keys: Keys
    values: Float32Array


class BankBuilder:
    """Gathers the rows of one bank.

    With a bound of M rows every image gives ceil(M / images) patches, rare classes first, or what
    it has; the last of these are left out until M remain. As the number of images grows, each
    gives fewer, so that fewer than 2 M rows are held at any time and the images need not be counted
    before. With `n_images` only so many images are kept, those with the smallest seeded digests.
    Images without a label teach nothing and are not counted.
    """

    def __init__(self, rule: SegmentationProtocol, *, n_images: int | None = None) -> None:
        self.rule = rule
        bounds = [one for one in (n_images, rule.bank_rows) if one is not None]
        self.most_images = min(bounds, default=None)
        self.layout: Layout | None = None
        self.fingerprint = ""
        self.held: list[_Held] = []
        self.n_rows = self.n_seen = self.n_labelled = 0
        self._cut_to: int | None = None

    def add(self, example: Example) -> None:
        """Take in an image; nothing of it but the rows of the bank is kept.

        Raises:
            ShapeError: If its blocks are others than before.
        """
        features = example.features
        self.n_seen += 1
        if self.layout is None:
            self.layout, self.fingerprint = dict(features.layout), features.fingerprint
        if features.layout != self.layout:
            raise ShapeError(
                f"{features.source} has the blocks {features.layout}, earlier images "
                f"{self.layout}; extract all with one config"
            )
        check_fingerprint(self.fingerprint, features.fingerprint, features.source)
        order = self._order(example)
        rows = rare_first(example.histograms, self.rule.seed, example.content)
        if not len(rows):
            return
        self.n_labelled += 1
        if len(self.held) == self.most_images:
            if order > self.held[-1].order:
                return
            self.n_rows -= len(self.held.pop().keys)
        rows = rows[: self._most_per_image(len(self.held) + 1)]
        # Copies, in any case: a view would keep the image's features alive.
        keys = features.array[rows].astype(self.rule.key_dtype, copy=False)
        one = _Held(order, keys, example.histograms[rows])
        bisect.insort(self.held, one, key=lambda held: held.order)
        self.n_rows += len(rows)
        if self.rule.bank_rows is not None and self.n_rows > _SLACK * self.rule.bank_rows:
            self._cut()

    def finish(self) -> tuple[Keys, Float32Array]:
        """Give keys [M, F] and values [M, C]; the builder is empty afterwards.

        Raises:
            InputError: If there is no image, or none has a label.
        """
        if not self.n_seen:
            raise InputError("train has 0 images; a memory bank needs at least 1")
        if not self.held:
            raise InputError("no training image has a labelled pixel; a bank needs at least one")
        self._cut()
        counts = np.array([len(one.keys) for one in self.held])
        excess = max(0, self.n_rows - (self.rule.bank_rows or self.n_rows))
        # ceil(M / images) is at most one patch too many of an image.
        counts[np.flatnonzero(counts == counts.max())[::-1][:excess]] -= 1
        kept = stop = int(counts.sum())
        first = self.held[0]
        keys = np.empty((kept, first.keys.shape[1]), self.rule.key_dtype)
        values = np.empty((kept, first.values.shape[1]), np.float32)
        while self.held:
            n, one = int(counts[len(self.held) - 1]), self.held.pop()
            keys[stop - n : stop], values[stop - n : stop] = one.keys[:n], one.values[:n]
            stop -= n
        self.n_rows = 0
        return keys, values

    def _order(self, example: Example) -> tuple[int, bytes]:
        drawn = derive(self.rule.seed, "segmentation", "images", example.content)
        array = np.ascontiguousarray(example.features.array)
        return drawn, hashlib.sha256(array.data).digest()

    def _most_per_image(self, n_images: int) -> int | None:
        return None if self.rule.bank_rows is None else -(-self.rule.bank_rows // n_images)

    def _cut(self) -> None:
        most = self._most_per_image(len(self.held))
        if most is None or most == self._cut_to:
            return
        self._cut_to = most
        for place, one in enumerate(self.held):
            if len(one.keys) > most:
                rows = one.keys[:most].copy(), one.values[:most].copy()
                self.held[place] = _Held(one.order, *rows)
        self.n_rows = sum(len(one.keys) for one in self.held)
