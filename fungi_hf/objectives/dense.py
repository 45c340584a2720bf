"""InfoNCE of the tokens of one input: a loss of all tokens, for a gradient of each."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

import torch
from torch.nn.functional import normalize

from fungi_hf.devices import Mirror
from fungi_hf.errors import NotFittedError, ShapeError, StateError
from fungi_hf.objectives.base import Head
from fungi_hf.objectives.simclr import info_nce
from fungi_hf.seeding import numpy_generator

if TYPE_CHECKING:
    from torch import Tensor


class TokenObjective(Protocol):
    """A loss of one input's tokens, whose specs say `per_token`.

    Requirements: those of `fungi_hf.objectives.base.Objective`; randomness beside the head is
    keyed by the content.
    """

    n_views: int

    def fit(self, embeddings: Tensor) -> None:
        """Learn from tokens of training inputs, [N, D]."""

    def loss(self, embeddings: Tensor, content: bytes) -> Tensor:
        """Give the loss of one input, a scalar, from its embedding and tokens [1 + R, D]."""


class DenseInfoNCEObjective:
    """InfoNCE between tokens, against the nearest of some tokens of training inputs."""

    needs_float64 = False

    n_views = 1

    def __init__(  # noqa: PLR0913  (each is an option of its own)
        self,
        *,
        width: int,
        seed: int,
        latent_dim: int = 96,
        temperature: float = 0.07,
        logsumexp_temperature: float | None = None,
        neighbours: int = 2,
        keep: float = 0.5,
        published: bool = False,
        name: str = "dense_infonce",
    ) -> None:
        """Draw the head, [latent_dim, width]; the support comes from `fit`."""
        self.name, self._seed, self.published = name, seed, published
        self.temperature = temperature
        self.logsumexp_temperature = logsumexp_temperature or temperature
        self.neighbours, self.keep = neighbours, keep
        self.head = Head(width, latent_dim, seed=seed, name=name)
        self.support: Tensor | None = None  # [S, D] float32
        self._mirror = Mirror()

    def fit(self, embeddings: Tensor) -> None:
        """Keep the support, tokens of training inputs [S, D].

        Raises:
            ShapeError: If there are none, or they are no table.
        """
        if embeddings.dim() != 2 or not len(embeddings):
            raise ShapeError(f"the support must be [S, D], not empty; got {list(embeddings.shape)}")
        self.support = embeddings.detach().float()

    def negatives(self, embeddings: Tensor, content: bytes) -> Tensor:
        """Draw support rows [J, D] for one input's rows [V, D]: neighbours of each, some kept.

        As published, a row's K neighbours [K, D] are read as [D, K] and turned, which mixes their
        coordinates, and are unit rows.

        Raises:
            NotFittedError: If there is no support.
        """
        if self.support is None:
            raise NotFittedError(
                f"objective {self.name!r} has no support; call fit(training inputs) first"
            )
        rows = embeddings.detach().float()
        support = self._mirror(self.support, rows)
        units = normalize(support, dim=-1)
        k = min(self.neighbours, len(support))
        nearest = (normalize(rows, dim=-1) @ units.T).topk(k, dim=-1).indices  # [V, K]
        chosen = normalize(support.to(embeddings), dim=-1) if self.published else support
        found = chosen[nearest].to(embeddings)  # [V, K, D]
        if self.published:
            found = found.reshape(len(rows), -1, k).transpose(1, 2)
        draws = numpy_generator(self._seed, "negatives", self.name, content)
        kept = torch.from_numpy(draws.random((len(rows), k)) < self.keep)
        return found[kept.to(found.device)]

    def loss(self, embeddings: Tensor, content: bytes) -> Tensor:
        """Give one input's loss, the mean of `info_nce` over its rows [V, D], V > 1.

        Reference: Simoncini et al. 2024, dense features for in-context scene understanding.
        """
        return self.loss_against(embeddings, self.negatives(embeddings, content))

    def loss_against(self, embeddings: Tensor, negatives: Tensor) -> Tensor:
        """Give the loss of rows [V, D] against negatives [J, D], both before the head."""
        z, other = (normalize(self.head(rows), dim=-1) for rows in (embeddings, negatives))
        return info_nce(z[None], other, self.temperature, self.logsumexp_temperature)[0].mean()

    def state(self) -> dict[str, Tensor]:
        """Give the support."""
        return {} if self.support is None else {"support": self.support}

    def load_state(self, state: dict[str, Tensor]) -> None:
        """Take the support.

        Raises:
            StateError: If its width is not the head's.
        """
        support = state.get("support")
        width = self.head.weight.shape[1]
        if support is not None and (support.dim() != 2 or support.shape[1] != width):
            raise StateError(
                f"objective {self.name!r} reads tokens of width {width}; the stored support is "
                f"{list(support.shape)}"
            )
        self.support = support

    def digest(self) -> str:
        """Digest of the head."""
        return self.head.digest()
