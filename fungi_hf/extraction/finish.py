"""From raw blocks to feature vectors: centre, whiten, normalise, weight, concatenate, reduce."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import torch

from fungi_hf.errors import FeatureError, LabelError
from fungi_hf.extraction.classes import ClassSums, discriminant_from
from fungi_hf.extraction.group import compute
from fungi_hf.extraction.moments import Moments
from fungi_hf.extraction.reduction import PrincipalComponents, centred, whitening_from
from fungi_hf.extraction.state import FittedState
from fungi_hf.features import make_layout
from fungi_hf.gradients.factors import unit_rows

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from torch import Tensor

    from fungi_hf.config import FungiConfig
    from fungi_hf.extraction.batches import Budget
    from fungi_hf.extraction.inputs import Reading
    from fungi_hf.extraction.plan import Plan
    from fungi_hf.types import Float32Array, Int64Array


class Finisher:
    """The last steps of a feature, row by row; it learns block means, whitening and a PCA.

    Attributes:
        state: What was learned, or taken back by `load`.
        layout: Block name -> slice of the columns; one block "reduced" after a PCA.
        width: F.
        notes: Why a PCA was skipped, if it was.
    """

    def __init__(
        self,
        config: FungiConfig,
        widths: Mapping[str, int],
        factors: Mapping[str, tuple[int, int]],
    ) -> None:
        """Keep raw blocks of positive weight; `factors` names exact ones, already of unit norm."""
        self._config, self._factors = config, factors
        self._weights = {block: spec.weight for block, spec in config.blocks.items()}
        if config.embedding_weight > 0:
            self._weights = {config.base_block: config.embedding_weight, **self._weights}
        self._widths = {name: widths[name] for name in self._weights}
        self.load(FittedState())

    def load(self, state: FittedState) -> None:
        """Take fitted state back."""
        self.state, widths = state, self._widths
        if state.components is not None:
            widths = {"reduced": len(state.components.components)}
        self.layout, self.width = make_layout(widths), sum(widths.values())
        self.notes: tuple[str, ...] = ()
        if state.skipped is not None and self._config.reduction is not None:
            self.notes = (
                f"PCA to {self._config.reduction.n_components} components was skipped: the "
                f"training features are {state.skipped[0]} x {state.skipped[1]}",
            )

    def fit(self, blocks: Mapping[str, Tensor], codes: Int64Array | None = None) -> FittedState:
        """Learn block means, whitening and a PCA from raw training blocks, name -> [N, width].

        Means and whitening stay empty where the config does not ask, and so does a PCA that would
        not reduce. `codes` [N] are class numbers, where the config learns from labels.
        """
        self.load(FittedState())
        if self._config.center or self._config.whitening > 0:
            classes = self.class_sums(codes)
            self.learn_blocks(self.block_moments([blocks], classes), classes)
        if self._config.reduction is not None:
            self.learn_features(self.feature_moments([blocks]))
        return self.state

    def class_sums(self, codes: Int64Array | None) -> dict[str, ClassSums]:
        """Give empty sums of every block, none without class numbers [N]."""
        if codes is None:
            return {}
        return {name: ClassSums.empty(codes, self._widths[name]) for name in self._weights}

    def block_moments(
        self, chunks: Iterable[Mapping[str, Tensor]], classes: Mapping[str, ClassSums] | None = None
    ) -> dict[str, Moments]:
        """Give the moments of the unit rows of every block; sums of classes are added to."""
        products = self._config.whitening > 0
        found = {name: Moments(self._widths[name], products=products) for name in self._weights}
        first = 0
        for blocks in chunks:
            for name, moments in found.items():
                check_finite(blocks[name], name, first)
                rows = unit_rows(blocks[name])
                moments.add(rows)
                if classes:
                    classes[name].add(rows)
            first += len(blocks[name])
        return found

    def learn_blocks(
        self, moments: Mapping[str, Moments], classes: Mapping[str, ClassSums] | None = None
    ) -> None:
        """Take means and whitening; a PCA is forgotten.

        Raises:
            LabelError: If the config learns from labels and there are no sums of classes.
        """
        power = self._config.whitening
        means = {name: some.mean() for name, some in moments.items()}
        stretch = self._config.discriminant
        if stretch and not classes:
            raise LabelError(f"discriminant={stretch:g} learns from labels; got none")
        whitening = {
            name: discriminant_from(some, classes[name], power, stretch)
            if classes
            else whitening_from(some, power)
            for name, some in moments.items()
            if power
        }
        kept = FittedState(objectives=self.state.objectives, encoder=self.state.encoder)
        self.load(replace(kept, means=means, whitening=whitening))

    def feature_moments(self, chunks: Iterable[Mapping[str, Tensor]]) -> Moments:
        """Give the moments of the rows that a PCA reduces; none must have been learned."""
        found, first = Moments(sum(self._widths.values()), products=True), 0
        for blocks in chunks:
            rows = self._concatenate(blocks, first)
            found.add(rows)
            first += len(rows)
        return found

    def learn_features(self, moments: Moments) -> None:
        """Take a PCA, or note that it would not reduce."""
        wanted, shape = self._config.reduction, (moments.n, moments.width)
        if wanted is not None and wanted.n_components < min(shape):
            components = PrincipalComponents.of(moments, wanted.n_components)
            self.load(replace(self.state, components=components, skipped=None))
        else:
            self.load(replace(self.state, components=None, skipped=shape))

    def finish(self, blocks: Mapping[str, Tensor], first: int = 0) -> Float32Array:
        """Give feature vectors [N, F] float32; `first` is the number of the first row in errors."""
        rows = self._concatenate(blocks, first)
        if self.state.components is not None:
            rows = self.state.components.transform(rows)
            if self._config.reduction is not None and self._config.reduction.normalize:
                rows = unit_rows(rows)
        return rows.numpy()

    def _concatenate(self, blocks: Mapping[str, Tensor], first: int = 0) -> Tensor:
        parts = []
        for name, weight in self._weights.items():
            rows = blocks[name]
            check_finite(rows, name, first)
            if name in self._factors:
                parts.append(rows * weight**0.5)
                continue
            rows = unit_rows(rows)
            if name in self.state.means:
                rows = centred(rows, self.state.means[name], self.state.whitening.get(name))
            parts.append(rows * weight)
        return torch.cat(parts, dim=1)


def extract(
    reading: Reading, plan: Plan, finisher: Finisher, budget: Budget, *, progress: bool
) -> tuple[Float32Array, list[str]]:
    """Give the features of all that is read, [N, F], and say what exact factors dropped."""
    array = np.empty((0, finisher.width), dtype=np.float32)
    lost: dict[str, float] = {}
    for blocks in compute(reading, plan, budget, progress=progress, lost=lost):
        kept = reading.finite(blocks) if reading.skips else blocks
        rows = finisher.finish(kept, reading.first + len(array))
        # Grown in place: joining a list of parts would hold the output twice.
        array.resize((len(array) + len(rows), array.shape[1]), refcheck=False)
        array[len(array) - len(rows) :] = rows
    return array, [
        f"block {name!r} dropped up to {share:.2g} of a gradient's squared norm; "
        "a larger sketch_rank keeps more"
        for name, share in lost.items()
        if share > 1e-6
    ]


def finish_all(finisher: Finisher, chunks: list[dict[str, Tensor]]) -> Float32Array:
    """Give the features of raw blocks that come in chunks; the list is emptied on the way."""
    n_rows = [len(next(iter(blocks.values()))) for blocks in chunks]
    array, first = np.empty((sum(n_rows), finisher.width), dtype=np.float32), 0
    for n in n_rows:
        array[first : first + n] = finisher.finish(chunks.pop(0), first)
        first += n
    return array


def check_finite(rows: Tensor, name: str, first: int = 0) -> None:
    """Refuse NaN and infinity in a block [N, width], whose first row has the number `first`.

    Raises:
        FeatureError: With the block and the first bad inputs.
    """
    bad = (~torch.isfinite(rows).all(-1)).nonzero()[:, 0]
    if len(bad):
        shown = [first + int(i) for i in bad[:10]]
        raise FeatureError(
            f"block {name!r} has NaN or Inf for {len(bad)} inputs, first at {shown}; "
            "check the model's weights and dtype"
        )
