"""What `fit` learns about whole features: block means and principal components."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from fungi_hf.errors import FeatureError

if TYPE_CHECKING:
    from torch import Tensor


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
        """Find the leading components.

        Args:
            rows: [N, F] training features.
            n_components: C, smaller than N and F.

        Returns:
            The fitted reduction; equal to scikit-learn's PCA up to signs.

        Raises:
            FeatureError: If C is not smaller than N and F.
        """
        n, width = rows.shape
        if not 0 < n_components < min(n, width):
            raise FeatureError(
                f"PCA to {n_components} components needs more rows and columns; got {n} x {width}"
            )
        data = rows.double()
        mean = data.mean(0)
        centred = data - mean
        if n > width:
            _, vectors = torch.linalg.eigh(centred.T @ centred)
            components = vectors.flip(-1)[:, :n_components].T
        else:
            components = torch.linalg.svd(centred, full_matrices=False).Vh[:n_components]
        largest = components.gather(1, components.abs().argmax(1, keepdim=True))
        return cls(mean, (components * largest.sign()).contiguous())

    def transform(self, rows: Tensor) -> Tensor:
        """Give [N, C] in the rows' dtype."""
        return ((rows.double() - self.mean) @ self.components.T).to(rows.dtype)
