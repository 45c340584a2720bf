"""The memory bank: patches of labelled images, and the vote of the nearest for new patches."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from fungi_hf.dense import DenseFeatures
from fungi_hf.errors import InputError, InputTypeError, ShapeError
from fungi_hf.evaluation.inputs import choose_combinations
from fungi_hf.evaluation.protocols import protocol_named
from fungi_hf.evaluation.segmentation import files
from fungi_hf.evaluation.segmentation.builder import BankBuilder
from fungi_hf.evaluation.segmentation.examples import check_classes, check_dense, read_example
from fungi_hf.evaluation.segmentation.protocol import SEGMENTATION_PROTOCOLS
from fungi_hf.evaluation.segmentation.upsampling import label_map, upsample
from fungi_hf.neighbors.comparison import Comparison, Pool
from fungi_hf.neighbors.faiss import FaissIndex
from fungi_hf.neighbors.options import FaissOptions
from fungi_hf.neighbors.vectors import check_fingerprint, read_rows

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from fungi_hf.evaluation.inputs import Combination
    from fungi_hf.evaluation.segmentation.builder import Keys
    from fungi_hf.evaluation.segmentation.protocol import SegmentationProtocol
    from fungi_hf.neighbors.base import Neighbors
    from fungi_hf.types import Float32Array, Int64Array, Layout

EXACT_ROWS = 1_000_000  # more are searched by faiss's cells
_PROBES = 64  # of 1000 cells at 10^6 rows: the published share of leaves
_NUMBERS = 1 << 22  # of the neighbours' values at a time: 16 MB


@dataclass(frozen=True, eq=False)
class MemoryBank:
    """Keys with values: what patches look like, and which classes they hold.

    Attributes:
        keys: [M, F] unit rows, float32 or float16, perhaps on disk.
        values: [M, C] float32, the shares of the classes among a patch's labelled pixels.
        layout: Ordered block name -> slice of the keys' columns.
        fingerprint: Where the features come from.
        protocol: How it was drawn and how it votes.
        n_images: Images that it was drawn from.
    """

    keys: Keys
    values: Float32Array
    layout: Layout
    fingerprint: str
    protocol: SegmentationProtocol
    n_images: int

    @classmethod
    def build(
        cls,
        train: Iterable[Any],
        *,
        n_classes: int,
        protocol: SegmentationProtocol | str = "fungi",
    ) -> MemoryBank:
        """Draw a bank from labelled images, one at a time, whatever their order.

        Args:
            train: (DenseFeatures, mask [H, W] of integers) of each image. The patches share out
                the whole mask, which may be of any size.
            n_classes: Labels are 0 to n_classes - 1, or ignored by the protocol.
            protocol: A `SegmentationProtocol`, or the name of one of `SEGMENTATION_PROTOCOLS`.

        Raises:
            InputError: If there is no image, labels are no classes, or no pixel has one.
        """
        rule = named(protocol)
        n_classes = check_classes(n_classes, rule)
        builder = BankBuilder(rule)
        for given in images(train, "train"):
            builder.add(read_example(given, n_classes, rule))
        return cls.of(builder)

    @classmethod
    def of(cls, builder: BankBuilder) -> MemoryBank:
        """Give the bank that a builder gathered."""
        n_images, layout = len(builder.held), builder.layout or {}
        keys, values = builder.finish()
        return cls(keys, values, layout, builder.fingerprint, builder.rule, n_images)

    def __len__(self) -> int:
        """Give M."""
        return len(self.keys)

    @property
    def n_classes(self) -> int:
        """C."""
        return int(self.values.shape[1])

    def probabilities(
        self,
        features: DenseFeatures,
        *,
        size: tuple[int, int] | None = None,
        blocks: Sequence[str] | None = None,
    ) -> Float32Array:
        """Give the share of each class, [rows, columns, C] of the grid or [H, W, C] of a size.

        Shares are the weighted mean of the values of a patch's K nearest keys, by some blocks or
        all; they sum to 1.
        """
        votes = self._votes_of(features, blocks)
        return votes if size is None else upsample(votes, _checked(size), self.protocol.upsampling)

    def label_map(
        self,
        features: DenseFeatures,
        *,
        size: tuple[int, int],
        blocks: Sequence[str] | None = None,
    ) -> Int64Array:
        """Give the class of each pixel, [H, W]; the lowest of equal shares.

        Votes are enlarged to (H, W) first, as the protocol says.
        """
        votes = self._votes_of(features, blocks)
        return label_map(votes, _checked(size), self.protocol.upsampling)

    def votes(
        self, features: DenseFeatures, combinations: Sequence[Combination]
    ) -> list[Float32Array]:
        """Give [rows, columns, C] shares by each combination of blocks, from one search.

        Raises:
            InputTypeError: If they are no dense features.
            ShapeError: If their blocks are others than the bank's, or their grid has not two sides.
            FingerprintMismatchError: If they come from elsewhere.
            InputError: If the bank has fewer rows than neighbours that vote.
        """
        check_dense(features)
        if features.layout != self.layout:
            raise ShapeError(
                f"{features.source} has the blocks {features.layout}, the bank {self.layout}; "
                "extract both with one config"
            )
        check_fingerprint(self.fingerprint, features.fingerprint, features.source)
        k = self.protocol.n_neighbors
        if k > len(self):
            raise InputError(
                f"n_neighbors is {k}, but the bank has {len(self)} rows; take more training "
                "images, or fewer neighbours"
            )
        found = self._search(features, combinations, k)
        return [self._vote(one).reshape(*features.grid, self.n_classes) for one in found]

    def save(self, folder: str | Path) -> None:
        """Write `bank.json` and `bank.safetensors` to a folder; a bank in it is replaced."""
        arrays = {"keys": self.keys, "values": self.values}
        files.write(
            folder,
            arrays,
            self.layout,
            self.protocol,
            fingerprint=self.fingerprint,
            n_images=self.n_images,
        )

    @classmethod
    def load(
        cls, folder: str | Path, *, mmap: bool = False, fingerprint: str | None = None
    ) -> MemoryBank:
        """Read a saved bank, which votes as it did; `mmap` leaves it on disk.

        A bank of another origin than the `fingerprint` that the caller expects is refused.
        """
        stored, arrays = files.read(folder, mmap=mmap, fingerprint=fingerprint)
        layout, rule = files.layout_of(stored), files.protocol_of(stored["protocol"])
        where = layout, stored["fingerprint"], rule, stored["n_images"]
        return cls(arrays["keys"], arrays["values"], *where)

    @cached_property
    def _pool(self) -> Pool:
        rows = read_rows(self.keys, "the bank's keys", self.fingerprint)
        return Pool(rows, "cosine", self.layout)

    @cached_property
    def _indices(self) -> dict[Combination, FaissIndex]:
        return {}

    def _search(
        self, features: DenseFeatures, combinations: Sequence[Combination], k: int
    ) -> list[Neighbors]:
        if len(self) <= EXACT_ROWS:
            rows = self._pool.read(features)
            return Comparison(self._pool, rows).nearest_by(combinations, k)
        return [self._approximate(features, some, k) for some in combinations]

    def _approximate(self, features: DenseFeatures, some: Combination, k: int) -> Neighbors:
        columns = np.concatenate([np.r_[self.layout[name]] for name in some])
        if some not in self._indices:
            keys = self.keys if some == tuple(self.layout) else self.keys[:, columns]
            options = FaissOptions(n_probes=_PROBES)
            self._indices[some] = FaissIndex("ivf", "cosine", options).fit(keys)
        return self._indices[some].search(features.array[:, columns], k)

    def _vote(self, found: Neighbors) -> Float32Array:
        scores = found.scores.astype(np.float64)
        weights = np.exp((scores - scores[:, :1]) / self.protocol.temperature)
        weights /= weights.sum(axis=1, keepdims=True)
        votes = np.empty((len(scores), self.n_classes), np.float32)
        step = max(1, _NUMBERS // (scores.shape[1] * self.n_classes))
        for start in range(0, len(votes), step):
            part = slice(start, start + step)
            votes[part] = np.matmul(weights[part, None], self.values[found.indices[part]])[:, 0]
        return votes

    def _votes_of(self, features: DenseFeatures, blocks: Sequence[str] | None) -> Float32Array:
        wanted = [tuple(self.layout) if blocks is None else blocks]
        return self.votes(features, choose_combinations(self.layout, wanted))[0]


def named(protocol: SegmentationProtocol | str) -> SegmentationProtocol:
    """Give the protocol of a name."""
    return protocol_named(protocol, SEGMENTATION_PROTOCOLS, "segmentation")


def images(given: Any, name: str) -> Iterable[Any]:
    """Refuse what is no iterable of images.

    Raises:
        InputTypeError: If it is none.
    """
    if isinstance(given, DenseFeatures | str) or not isinstance(given, Iterable):
        raise InputTypeError(
            f"{name} is a {type(given).__name__}; give an iterable of (DenseFeatures, mask [H, W])"
        )
    return given


def _checked(size: Any) -> tuple[int, int]:
    sides = np.asarray(size)
    if sides.shape != (2,) or sides.dtype.kind not in "iu" or sides.min() < 1:
        raise InputError(f"size is {size!r}; give (height, width) in pixels")
    return int(sides[0]), int(sides[1])
