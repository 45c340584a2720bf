"""Whitening within classes, with the directions between their means stretched."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from fungi_hf.errors import ConfigError, LabelError, ShapeError
from fungi_hf.extraction.reduction import covariance_of

if TYPE_CHECKING:
    from torch import Tensor

    from fungi_hf.config import FungiConfig
    from fungi_hf.extraction.moments import Moments
    from fungi_hf.types import Int64Array


def refuse_parts(config: FungiConfig) -> None:
    """Refuse what has no labels.

    Raises:
        ConfigError: If the config learns from labels.
    """
    if config.discriminant:
        raise ConfigError(
            f"discriminant={config.discriminant:g} learns from labels and is not fitted in parts: "
            "call fit(inputs, labels) on a sample"
        )


@dataclass(eq=False)
class ClassSums:
    """Sums of rows [N, width], class by class, as they come.

    Attributes:
        codes: [N] class numbers of all rows.
        sums: [C, width] float64.
        n: Rows so far.
    """

    codes: Int64Array
    sums: Tensor
    n: int = 0

    @classmethod
    def empty(cls, codes: Int64Array, width: int) -> ClassSums:
        """Begin."""
        return cls(codes, torch.zeros(int(codes.max()) + 1, width, dtype=torch.float64))

    def add(self, rows: Tensor) -> None:
        """Take the next rows.

        Raises:
            ShapeError: If there are more rows than labels.
        """
        some = torch.from_numpy(self.codes[self.n : self.n + len(rows)])
        if len(some) < len(rows):
            raise ShapeError(f"there are {len(self.codes)} labels and more inputs; give one each")
        self.sums.index_add_(0, some, rows.double())
        self.n += len(rows)

    def means(self) -> tuple[Tensor, Tensor]:
        """Give the number of rows [C] and the mean [C, width] of every class.

        Raises:
            ShapeError: If there were fewer rows than labels.
        """
        if self.n < len(self.codes):
            raise ShapeError(
                f"there are {len(self.codes)} labels for {self.n} inputs; give one each"
            )
        counts = torch.from_numpy(self.codes).bincount().double()
        return counts, self.sums / counts[:, None]


def discriminant_from(moments: Moments, classes: ClassSums, power: float, stretch: float) -> Tensor:
    """Give the matrix that whitens rows less their mean within classes and stretches what differs.

    Formula: W = S^(-power / 2) (I + (stretch - 1) P), S the covariance within classes, shrunk to a
    multiple of the identity by the oracle approximation, P the projection on the differences of
    the class means after S^(-power / 2), which is scaled to a largest eigenvalue of 1. [D, D]
    float64; the identity where rows do not vary within classes.

    Reference: Hatch, Kajarekar and Stolcke 2006, Within-class covariance normalization; Rao 1948
    for the discriminants; Chen, Wiesel, Eldar and Hero 2010 for the shrinkage.

    Raises:
        LabelError: If no class has two rows.
    """
    counts, means = classes.means()
    n, width = moments.n, moments.width
    if n == len(counts):
        raise LabelError("every class has one row, so that nothing varies within one")
    apart = means - moments.mean()
    covariance = covariance_of(moments) - (apart.T * (counts / n)) @ apart
    level = covariance.trace() / width
    if width * level <= 1e-24 * moments.mean().square().sum():
        return torch.eye(width, dtype=covariance.dtype)
    free = n - len(counts)
    squares = covariance.square().mean()
    spread = (free + 1) * (squares - level**2 / width)
    shrinkage = float(((squares + level**2) / spread).clamp(0, 1)) if spread > 0 else 1.0
    variances, directions = torch.linalg.eigh(covariance)
    variances = (1 - shrinkage) * variances.clamp(min=0) + shrinkage * level
    scales = variances.clamp(min=float(variances.max()) * 1e-7) ** (-power / 2)
    within = (directions * (scales / scales.max())) @ directions.T
    moved = (counts / n).sqrt()[:, None] * (apart @ within)
    _, sizes, axes = torch.linalg.svd(moved, full_matrices=False)
    axes = axes[sizes > 1e-7 * sizes.max()]
    return within + (stretch - 1) * (within @ axes.T) @ axes
