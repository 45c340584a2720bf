"""The objective's contract, the registry, and the way from a spec to the object that has a loss.

An objective knows no model and no modality.
"""

from __future__ import annotations

import hashlib
import math
from typing import TYPE_CHECKING, Any, Protocol, cast, runtime_checkable

import torch

from fungi_hf.devices import Mirror
from fungi_hf.errors import ConfigError, ObjectiveError, ShapeError
from fungi_hf.seeding import torch_generator, uniform
from fungi_hf.specs import OBJECTIVE_SPECS, REGISTERED_OBJECTIVES

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor

    from fungi_hf.specs import ObjectiveSpec


@runtime_checkable
class Objective(Protocol):
    """A loss of one sample's embeddings.

    Requirements: samples must not interact (no batch statistics, no in-batch negatives), nothing
    is reduced over the batch, no state changes between calls, all randomness comes from the seed
    given at construction. `fungi_hf.testing.check_objective` proves the first.

    Attributes:
        n_views: V, the views it wants; 1 means the untouched input.
        needs_float64: Whether the gradient of its loss needs float64 also where that is slow; an
            objective without this attribute gets float64.
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
        self._mirrors = Mirror(), Mirror()

    def __call__(self, embeddings: Tensor) -> Tensor:
        """Give latents [..., L] from embeddings [..., D], in their dtype."""
        pairs = zip(self._mirrors, (self.weight, self.bias), strict=True)
        weight, bias = (mirror(part, embeddings) for mirror, part in pairs)
        return torch.nn.functional.linear(embeddings, weight, bias)

    def digest(self) -> str:
        """Digest of both tensors."""
        drawn = b"".join(tensor.numpy().tobytes() for tensor in (self.weight, self.bias))
        return hashlib.sha256(drawn).hexdigest()[:16]


def register_objective(name: str, factory: Callable[..., Objective]) -> None:
    """Make a third-party objective usable by name in `FungiConfig(objectives=(name,))`.

    The name is also the block's default name; the factory, the objective's class, is called with
    `width=D, seed=...` and the options of `Custom`.

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


def make_objective(spec: ObjectiveSpec, *, width: int, seed: int) -> Objective:
    """Build the torch side of a spec that has a gradient.

    `width` is D, `seed` the root seed; the head's stream is keyed by the spec's name.

    Raises:
        ObjectiveError: If the objective's class refuses its options or breaks the contract.
    """
    options = spec.arguments()
    try:
        objective: Any = spec.factory()(width=width, seed=seed, **options)
    except TypeError as error:
        raise ObjectiveError(
            f"objective {spec.stream!r} refused width, seed, options {options!r}: {error}"
        ) from None
    missing = [name for name in ("n_views", "loss") if not hasattr(objective, name)]
    if missing:
        raise ObjectiveError(f"objective {spec.stream!r} lacks {' and '.join(missing)}")
    if objective.n_views != spec.n_views:
        raise ObjectiveError(
            f"objective {spec.stream!r} wants {objective.n_views} views, its spec says "
            f"{spec.n_views}; set {type(spec).__name__}(n_views={objective.n_views})"
        )
    return cast("Objective", objective)


def check_views(embeddings: Tensor, n_views: int, name: str) -> None:
    """Refuse anything but [B, n_views, D].

    Raises:
        ShapeError: Naming the objective and both shapes.
    """
    if embeddings.dim() != 3 or embeddings.shape[1] != n_views:
        raise ShapeError(
            f"objective {name!r} needs embeddings [B, {n_views}, D]; got {list(embeddings.shape)}"
        )
