"""KL: how far the latent softmax of the untouched input is from uniform."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from fungi_hf.objectives.base import Head, check_views

if TYPE_CHECKING:
    from torch import Tensor


class _Divergence(torch.autograd.Function):
    """KL(u || softmax z) of rows [B, L] and its gradient p - u, without cancellation.

    With c = z - mean z and x = exp(c) - 1: the value is log(1 + mean x), and
    p - u = (x - mean x) / (L (1 + mean x)).
    """

    generate_vmap_rule = True

    @staticmethod
    def forward(logits: Tensor) -> tuple[Tensor, Tensor]:
        x = torch.expm1(logits - logits.mean(-1, keepdim=True))
        mean = x.mean(-1, keepdim=True)
        return mean[..., 0].log1p(), (x - mean) / (x.shape[-1] * (1 + mean))

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor], output: tuple[Tensor, Tensor]) -> None:
        del inputs
        ctx.mark_non_differentiable(output[1])
        ctx.save_for_backward(output[1])

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> Tensor:
        (difference,) = ctx.saved_tensors
        return gradients[0][..., None] * difference


class KLObjective:
    """Divergence of the uniform distribution from one input's latent softmax."""

    n_views, needs_float64 = 1, False

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
        logits to six digits, since p is close to uniform; p - u is written out for the backward
        pass, where a difference would lose four digits in float32.

        Args:
            embeddings: [B, 1, D], any floating dtype, need not be normalised, not modified.

        Returns:
            [B] in nats, never reduced. The gradient of sample b depends on row b alone.

        Reference: Simoncini et al. 2024, KL objective. The published code averages over L (a
        constant factor, gone after normalisation), and its comment names the other direction.
        """
        check_views(embeddings, 1, self.name)
        directions = torch.nn.functional.normalize(embeddings[:, 0], dim=-1)  # [B, D]
        value: Tensor = _Divergence.apply(self.head(directions) / self.temperature)[0]
        return value

    def state(self) -> dict[str, Tensor]:
        """Give nothing."""
        return {}

    def load_state(self, state: dict[str, Tensor]) -> None:
        """Take nothing."""

    def digest(self) -> str:
        """Digest of the head."""
        return self.head.digest()
