"""KL: how far the latent softmax of the untouched input is from uniform."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch

from fungi_hf.objectives.base import Head, check_views

if TYPE_CHECKING:
    from torch import Tensor


class KLObjective:
    """Divergence of the uniform distribution from one input's latent softmax."""

    n_views = 1

    def __init__(
        self,
        *,
        width: int,
        seed: int,
        temperature: float = 15.0,
        latent_dim: int = 768,
        name: str = "kl",
    ) -> None:
        """Draw the head, [latent_dim, width]."""
        self.name, self.temperature = name, temperature
        self.head = Head(width, latent_dim, seed=seed, name=name)

    def fit(self, embeddings: Tensor) -> None:
        """Learn nothing."""

    def loss(self, embeddings: Tensor) -> Tensor:
        """Give the divergence between the uniform distribution and each latent softmax.

        Formula: loss_b = KL(u || p_b), u = 1/L, p_b = softmax((H e_b/|e_b| + b) / temperature),
        summed over the L entries. The gradient's direction is that of half the variance of the
        logits to six digits, since p is close to uniform; it cancels to three digits in float32,
        so pass float64.

        Args:
            embeddings: [B, 1, D], any floating dtype, need not be normalised, not modified.

        Returns:
            [B] in nats, never reduced. The gradient of sample b depends on row b alone.

        Reference: Simoncini et al. 2024, KL objective. The published code averages over L (a
        constant factor, gone after normalisation), and its comment names the other direction.
        """
        check_views(embeddings, 1, self.name)
        directions = torch.nn.functional.normalize(embeddings[:, 0], dim=-1)  # [B, D]
        logits = self.head(directions) / self.temperature  # [B, L]
        return logits.logsumexp(-1) - logits.mean(-1) - math.log(logits.shape[-1])

    def state(self) -> dict[str, Tensor]:
        """Give nothing."""
        return {}

    def load_state(self, state: dict[str, Tensor]) -> None:
        """Take nothing."""

    def digest(self) -> str:
        """Digest of the head."""
        return self.head.digest()
