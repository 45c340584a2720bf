"""PCA of arrays, fitted on training rows alone."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from fungi_hf.types import Float32Array


def project(
    train: Float32Array, other: Float32Array, n_components: int
) -> tuple[Float32Array, Float32Array]:
    """Give both on the leading principal components of the training rows, centred, unwhitened.

    Args:
        train: [N, F].
        other: [Q, F].
        n_components: C, smaller than N and F.

    Returns:
        [N, C] and [Q, C].
    """
    import torch

    from fungi_hf.extraction.reduction import PrincipalComponents

    components = PrincipalComponents.fit(torch.from_numpy(train), n_components)
    low: Float32Array = components.transform(torch.from_numpy(train)).numpy()
    high: Float32Array = components.transform(torch.from_numpy(other)).numpy()
    return low, high
