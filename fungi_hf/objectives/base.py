"""The objective's contract and the registry; an objective knows no model and no modality."""

from __future__ import annotations

import hashlib
import math
from typing import TYPE_CHECKING, Protocol, runtime_checkable

import torch

from fungi_hf.errors import ConfigError, ShapeError
from fungi_hf.seeding import torch_generator, uniform
from fungi_hf.specs import OBJECTIVE_SPECS, REGISTERED_OBJECTIVES

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor


@runtime_checkable
class Objective(Protocol):
    """A loss of one sample's embeddings.

    Requirements: samples must not interact (no batch statistics, no in-batch negatives), nothing
    is reduced over the batch, no state changes between calls, all randomness comes from the seed
    given at construction. `fungi_hf.testing.check_objective` proves the first.

    Attributes:
        n_views: V, the views it wants; 1 means the untouched input.
    """

    n_views: int

    def fit(self, embeddings: Tensor) -> None:
        """Learn from training samples' views [N, V', D]; most objectives learn nothing."""

    def loss(self, embeddings: Tensor) -> Tensor:
        """Give one loss per sample [B] from embeddings [B, V, D]."""

    def state(self) -> dict[str, Tensor]:
        """Give what `fit` learned, as tensors to be stored."""

    def load_state(self, state: dict[str, Tensor]) -> None:
        """Take back what `state` gave."""

    def digest(self) -> str:
        """Give a digest of the random numbers drawn at construction."""


class Head:
    """A fixed random linear map with PyTorch's default initialisation, seeded by name.

    Formula: z = H e + b, entries uniform in +-1/sqrt(D).
    """

    def __init__(self, width: int, latent_dim: int, *, seed: int, name: str) -> None:
        """Draw H [L, D] and b [L] in float32 from a private generator, kept in float64."""
        bound = 1 / math.sqrt(width)
        generator = torch_generator(seed, "head", name)
        draw = uniform(generator, latent_dim, width + 1).mul_(2).sub_(1).mul_(bound)
        self.weight = draw[:, :-1].double().contiguous()
        self.bias = draw[:, -1].double().contiguous()

    def __call__(self, embeddings: Tensor) -> Tensor:
        """Give latents [..., L] from embeddings [..., D], in their dtype."""
        weight, bias = self.weight.to(embeddings), self.bias.to(embeddings)
        return torch.nn.functional.linear(embeddings, weight, bias)

    def digest(self) -> str:
        """Digest of both tensors."""
        digest = hashlib.sha256()
        for tensor in (self.weight, self.bias):
            digest.update(tensor.cpu().numpy().tobytes())
        return digest.hexdigest()[:16]


def register_objective(name: str, factory: Callable[..., Objective]) -> None:
    """Make a third-party objective usable by name in `FungiConfig(objectives=(name,))`.

    Args:
        name: Its name; also the block's default name.
        factory: The class: called with `width=D, seed=...` and the options of `Custom`.

    Raises:
        ConfigError: If the name is taken by another factory, or not an identifier.
    """
    if not isinstance(name, str) or not name.isidentifier():
        raise ConfigError(f"an objective's name must be an identifier; got {name!r}")
    taken = REGISTERED_OBJECTIVES.get(name)
    if name in OBJECTIVE_SPECS or name == "embedding" or taken not in (None, factory):
        raise ConfigError(f"the objective name {name!r} is taken; choose another")
    if not callable(factory):
        raise ConfigError(f"the factory of objective {name!r} must be callable; got {factory!r}")
    REGISTERED_OBJECTIVES[name] = factory


def check_views(embeddings: Tensor, n_views: int, name: str) -> None:
    """Refuse anything but [B, n_views, D].

    Raises:
        ShapeError: Naming the objective and both shapes.
    """
    if embeddings.dim() != 3 or embeddings.shape[1] != n_views:
        raise ShapeError(
            f"objective {name!r} needs embeddings [B, {n_views}, D]; got {list(embeddings.shape)}"
        )
