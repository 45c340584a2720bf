"""What `fit` learns about blocks and whole features: whitening and principal components."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from fungi_hf.errors import FeatureError
from fungi_hf.extraction.moments import Moments
from fungi_hf.gradients.factors import unit_rows

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor

    from fungi_hf.types import Float32Array


@dataclass(frozen=True, slots=True, eq=False)
class PrincipalComponents:
    """A centred, unwhitened PCA fitted by exact decomposition.

    Attributes:
        mean: [F] float64.
        components: [C, F] float64, unit rows; each one's largest entry is positive.
    """

    mean: Tensor
    components: Tensor

    @classmethod
    def fit(cls, rows: Tensor, n_components: int) -> PrincipalComponents:
        """Find the C leading components of rows [N, F], scikit-learn's PCA up to signs.

        Raises:
            FeatureError: If C is not smaller than N and F.
        """
        return cls.of(Moments.of(rows, products=True), n_components)

    @classmethod
    def of(cls, moments: Moments, n_components: int) -> PrincipalComponents:
        """Find them from moments; where N < F, which hold the rows then, by the rows themselves.

        Raises:
            FeatureError: If C is not smaller than N and F.
        """
        n, width = moments.n, moments.width
        if not 0 < n_components < min(n, width):
            raise FeatureError(
                f"PCA to {n_components} components needs more rows and columns; got {n} x {width}"
            )
        rows, mean = moments.rows, moments.mean()
        if rows is None:
            _, vectors = torch.linalg.eigh(covariance_of(moments))
            components = vectors.flip(-1)[:, :n_components].T
        else:
            centred = rows.double() - mean
            components = torch.linalg.svd(centred, full_matrices=False).Vh[:n_components]
        largest = components.gather(1, components.abs().argmax(1, keepdim=True))
        return cls(mean, (components * largest.sign()).contiguous())

    def transform(self, rows: Tensor) -> Tensor:
        """Give [N, C] in the rows' dtype."""
        return ((rows.double() - self.mean) @ self.components.T).to(rows.dtype)


def centred(rows: Tensor, mean: Tensor, whitening: Tensor | None) -> Tensor:
    """Give unit rows less their mean, whitened, of unit length again; a row of zeros stays."""
    moved = rows.double() - mean
    if whitening is not None:
        moved = moved @ whitening
    return unit_rows(moved.float()) * (rows != 0).any(-1, keepdim=True)


def centred_alone(blocks: Mapping[str, Tensor], power: float) -> dict[str, Tensor]:
    """Centre and whiten blocks of unit rows by what their own rows teach."""
    return {name: centred(rows, *block_statistics(rows, power)) for name, rows in blocks.items()}


def block_statistics(rows: Tensor, power: float) -> tuple[Tensor, Tensor | None]:
    """Give the mean [D] of unit rows and the whitening matrix [D, D], None where power is 0."""
    moments = Moments.of(rows, products=power > 0)
    return moments.mean(), whitening_from(moments, power) if power > 0 else None


def covariance_of(moments: Moments) -> Tensor:
    """Give the covariance [D, D] float64, divided by the number of rows."""
    sums = moments.sums()
    mean = sums.y / sums.n
    return sums.yy / sums.n - torch.outer(mean, mean)


def whitening_from(moments: Moments, power: float) -> Tensor:
    """Give the matrix that evens out the variances of rows less their mean.

    Formula: W = S^(-power / 2), S = (1 - r) C + r tr(C) / D I, C the covariance, with Ledoit
    and Wolf's r, which goes to 1 as rows get fewer than columns: W then changes nothing. W is
    scaled to a largest eigenvalue of 1; symmetric, [D, D] float64; the identity where the rows do
    not vary, or where power is 0; 1 gives equal variances. With m = s / n, s = sum y, q = y . y,

        sum |y - m|^4 = sum q^2 + 4 m . (sum y y^T) m + n |m|^4 - 4 m . sum q y
                        + 2 |m|^2 sum q - 4 |m|^2 m . s

    Reference: Ledoit and Wolf 2004, A well-conditioned estimator for large-dimensional
    covariance matrices.
    """
    sums, width = moments.sums(), moments.width
    n, mean = sums.n, sums.y / sums.n
    covariance = covariance_of(moments)
    level = covariance.trace() / width
    # Rows that are equal leave the rounding errors of their mean.
    if width * level <= 1e-24 * moments.mean().square().sum():
        return torch.eye(width, dtype=covariance.dtype)
    squares = (covariance**2).sum()
    spread = squares - width * level**2
    size = mean @ mean
    quartic = sums.qq + 4 * (mean @ (sums.yy @ mean)) + n * size**2
    quartic += 2 * size * sums.q - 4 * (mean @ sums.qy) - 4 * size * (mean @ sums.y)
    noise = quartic / n**2 - squares / n
    shrinkage = float((noise / spread).clamp(0, 1)) if spread > 0 else 1.0
    variances, directions = torch.linalg.eigh(covariance)
    variances = (1 - shrinkage) * variances.clamp(min=0) + shrinkage * level
    # A direction without variance holds rounding errors only; it must not be blown up.
    scales = variances.clamp(min=float(variances.max()) * 1e-7) ** (-power / 2)
    return (directions * (scales / scales.max())) @ directions.T


def project(
    train: Float32Array, other: Float32Array, n_components: int
) -> tuple[Float32Array, Float32Array]:
    """Give both on the C leading components of the training rows, [N, C] and [Q, C]."""
    components = PrincipalComponents.fit(torch.from_numpy(train), n_components)
    low, high = (components.transform(torch.from_numpy(rows)).numpy() for rows in (train, other))
    return low, high
