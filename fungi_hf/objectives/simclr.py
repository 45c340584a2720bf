"""SimCLR: InfoNCE between the views of one input, against a fixed bank of negatives."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch.nn.functional import normalize

from fungi_hf.devices import Mirror
from fungi_hf.errors import NotFittedError, ShapeError, StateError
from fungi_hf.objectives.base import Head, check_views

if TYPE_CHECKING:
    from torch import Tensor


class SimCLRObjective:
    """InfoNCE of V views; the negatives are stored latents of training inputs."""

    needs_float64 = False

    def __init__(
        self,
        *,
        width: int,
        seed: int,
        n_views: int = 12,
        temperature: float = 0.07,
        logsumexp_temperature: float | None = None,
        latent_dim: int = 256,
        name: str = "simclr",
    ) -> None:
        """Draw the head, [latent_dim, width]; the bank comes from `fit`."""
        self.name, self.n_views = name, n_views
        self.temperature = temperature
        self.logsumexp_temperature = logsumexp_temperature or temperature
        self.head = Head(width, latent_dim, seed=seed, name=name)
        self.negatives: Tensor | None = None  # [M, L], unit rows
        self._mirror = Mirror()

    def fit(self, embeddings: Tensor) -> None:
        """Fill the negative bank, M = N V' rows, from views of training inputs [N, V', D].

        Raises:
            ShapeError: If the array is not three-dimensional or empty.
        """
        if embeddings.dim() != 3 or embeddings.shape[0] * embeddings.shape[1] == 0:
            raise ShapeError(
                f"negatives must be [N, V, D], not empty; got {list(embeddings.shape)}"
            )
        latents = self.head(embeddings.detach().flatten(0, 1).double())  # [N V', L]
        self.negatives = normalize(latents, dim=-1)

    def loss(self, embeddings: Tensor) -> Tensor:
        """Give each sample's InfoNCE loss, averaged over its views.

        Formula: z_v = H e_v + b; s_vu, c_vj cosines of z_v with z_u and with negative j;
        loss = mean_v of `info_nce`.

        Args:
            embeddings: [B, V, D], any floating dtype, not normalised, not modified.

        Returns:
            [B], never reduced over the batch.

        Raises:
            NotFittedError: If there is no negative bank.

        Reference: Simoncini et al. 2024, SimCLR objective. t2 = temperature is the published
        vision code; t2 = 1 the published text, audio and segmentation code.
        """
        check_views(embeddings, self.n_views, self.name)
        if self.negatives is None:
            raise NotFittedError(
                f"objective {self.name!r} has no negatives; call fit(training inputs) first"
            )
        z = normalize(self.head(embeddings), dim=-1)  # [B, V, L]
        negatives = self._mirror(self.negatives, z)
        return info_nce(z, negatives, self.temperature, self.logsumexp_temperature).mean(-1)

    def state(self) -> dict[str, Tensor]:
        """Give the negative bank."""
        return {} if self.negatives is None else {"negatives": self.negatives}

    def load_state(self, state: dict[str, Tensor]) -> None:
        """Take the negative bank.

        Raises:
            StateError: If its width is not the head's.
        """
        negatives = state.get("negatives")
        if negatives is not None and negatives.shape[-1] != self.head.weight.shape[0]:
            raise StateError(
                f"objective {self.name!r} has latents of width {self.head.weight.shape[0]}; the "
                f"stored negatives have {negatives.shape[-1]}"
            )
        self.negatives = negatives

    def digest(self) -> str:
        """Digest of the head."""
        return self.head.digest()


def info_nce(
    z: Tensor, negatives: Tensor, temperature: float, logsumexp_temperature: float
) -> Tensor:
    """Give the loss of every view [B, V] against the others of its sample and M negatives.

    Formula: - sum_{u != v} s_vu / ((V - 1) temperature)
    + log( sum_{u != v} exp(s_vu / t2) + sum_j exp(c_vj / t2) ), t2 = logsumexp_temperature, for the
    cosines s of views z [B, V, L] and c of views with negatives [M, L], all unit rows, V > 1.
    """
    n_views, scaled = z.shape[1], z / logsumexp_temperature
    scores = scaled @ z.transpose(1, 2)  # [B, V, V]
    share = logsumexp_temperature / ((n_views - 1) * temperature)
    attraction = (scores.sum(-1) - scores.diagonal(dim1=1, dim2=2)) * share
    itself = torch.eye(n_views, dtype=torch.bool, device=z.device)
    views = scores.masked_fill(itself, -torch.inf).logsumexp(-1)  # [B, V]
    return torch.logaddexp(views, (scaled @ negatives.T).logsumexp(-1)) - attraction
