"""From raw blocks to feature vectors: centre, whiten, normalise, weight, concatenate, reduce."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from fungi_hf.extraction.reduction import PrincipalComponents, whitening_matrix
from fungi_hf.extraction.state import FittedState
from fungi_hf.features import check_finite, unit_rows
from fungi_hf.tables import make_layout

if TYPE_CHECKING:
    from torch import Tensor

    from fungi_hf.config import FungiConfig
    from fungi_hf.types import Float32Array, Layout


class Finisher:
    """The last steps of a feature, row by row; it learns block means, whitening and a PCA."""

    def __init__(
        self, config: FungiConfig, widths: dict[str, int], factors: dict[str, tuple[int, int]]
    ) -> None:
        """Keep the blocks with a positive weight, the embedding first.

        Args:
            config: Weights, centring, whitening, reduction.
            widths: Raw block name -> width.
            factors: Blocks of exact factors, which are already of unit norm.
        """
        self._config = config
        weights = {spec.name: spec.weight for spec in config.objectives}
        if config.embedding_weight > 0:
            weights = {"embedding": config.embedding_weight, **weights}
        self._weights, self._factors = weights, factors
        self._widths = {name: widths[name] for name in weights}
        self._means: dict[str, Tensor] = {}
        self._whitening: dict[str, Tensor] = {}
        self._components: PrincipalComponents | None = None
        self.skipped: tuple[int, int] | None = None

    @property
    def has_reduction(self) -> bool:
        """Whether a PCA was fitted, or found unnecessary, by `fit`."""
        return self._components is not None or self.skipped is not None

    @property
    def layout(self) -> Layout:
        """Block name -> slice; one block "reduced" after a PCA."""
        if self._components is not None:
            return make_layout({"reduced": len(self._components.components)})
        return make_layout(self._widths)

    @property
    def width(self) -> int:
        """F."""
        return max(columns.stop for columns in self.layout.values())

    @property
    def notes(self) -> tuple[str, ...]:
        """Why a PCA was skipped, if it was."""
        if self.skipped is None or self._config.reduction is None:
            return ()
        return (
            f"PCA to {self._config.reduction.n_components} components was skipped: the training "
            f"features are {self.skipped[0]} x {self.skipped[1]}",
        )

    def load(self, state: FittedState) -> None:
        """Take fitted state back."""
        self._means, self._whitening = state.means, state.whitening
        self._components, self.skipped = state.components, state.skipped

    def fit(self, blocks: dict[str, Tensor]) -> FittedState:
        """Learn block means, whitening and the PCA from raw training blocks.

        Args:
            blocks: Name -> [N, width].

        Returns:
            Means and whitening (empty where the config does not ask) and the PCA (None where it
            would not reduce).
        """
        self.load(FittedState())
        power = self._config.whitening
        if self._config.center or power > 0:
            for name in self._widths:
                rows = self._directions(name, blocks[name]).double()
                self._means[name] = rows.mean(0)
                if power > 0:
                    self._whitening[name] = whitening_matrix(rows - self._means[name], power)
        wanted = self._config.reduction
        if wanted is not None:
            rows = self._concatenate(blocks)
            if wanted.n_components < min(rows.shape):
                self._components = PrincipalComponents.fit(rows, wanted.n_components)
            else:
                self.skipped = (rows.shape[0], rows.shape[1])
        return FittedState(
            means=self._means,
            whitening=self._whitening,
            components=self._components,
            skipped=self.skipped,
        )

    def finish(self, blocks: dict[str, Tensor], first: int = 0) -> Float32Array:
        """Give feature vectors [N, F] float32; `first` is the number of the first row in errors."""
        rows = self._concatenate(blocks, first)
        if self._components is not None:
            rows = self._components.transform(rows)
            if self._config.reduction is not None and self._config.reduction.normalize:
                rows = unit_rows(rows)
        array: Float32Array = rows.numpy()
        return array

    def _directions(self, name: str, block: Tensor, first: int = 0) -> Tensor:
        check_finite(block, name, first)
        return block if name in self._factors else unit_rows(block)

    def _concatenate(self, blocks: dict[str, Tensor], first: int = 0) -> Tensor:
        parts = []
        for name, weight in self._weights.items():
            rows = self._directions(name, blocks[name], first)
            if name in self._means:
                live = (blocks[name] != 0).any(-1, keepdim=True)
                moved = rows.double() - self._means[name]
                if name in self._whitening:
                    moved = moved @ self._whitening[name]
                rows = unit_rows(moved.float()) * live
            if name in self._factors:
                parts.append(rows * weight**0.5)
            else:
                parts.append(rows * weight)
        return torch.cat(parts, dim=1)
