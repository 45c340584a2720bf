"""From raw blocks to feature vectors: centre, whiten, normalise, weight, concatenate, reduce."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import torch

from fungi_hf.errors import FeatureError
from fungi_hf.extraction.group import compute
from fungi_hf.extraction.reduction import PrincipalComponents, block_statistics, centred
from fungi_hf.extraction.state import FittedState
from fungi_hf.features import make_layout
from fungi_hf.gradients.factors import unit_rows

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor

    from fungi_hf.config import FungiConfig
    from fungi_hf.extraction.batches import Budget
    from fungi_hf.extraction.inputs import Reading
    from fungi_hf.extraction.plan import Plan
    from fungi_hf.types import Float32Array


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
        self._weights = {spec.name: spec.weight for spec in config.objectives}
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

    def fit(self, blocks: Mapping[str, Tensor]) -> FittedState:
        """Learn block means, whitening and a PCA from raw training blocks, name -> [N, width].

        Means and whitening stay empty where the config does not ask, and so does a PCA that would
        not reduce.
        """
        power, wanted = self._config.whitening, self._config.reduction
        means, whitening = {}, {}
        if self._config.center or power > 0:
            for name in self._weights:
                check_finite(blocks[name], name)
                means[name], matrix = block_statistics(unit_rows(blocks[name]), power)
                if matrix is not None:
                    whitening[name] = matrix
        self.load(FittedState(means=means, whitening=whitening))
        if wanted is not None:
            rows = self._concatenate(blocks)
            if wanted.n_components < min(rows.shape):
                components = PrincipalComponents.fit(rows, wanted.n_components)
                self.load(replace(self.state, components=components))
            else:
                self.load(replace(self.state, skipped=(rows.shape[0], rows.shape[1])))
        return self.state

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
