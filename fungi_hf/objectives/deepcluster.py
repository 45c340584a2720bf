"""DeepCluster: every view predicts the cluster of one view, for several clusterings."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, Final

import torch
from torch.nn.functional import cross_entropy, normalize

from fungi_hf.devices import Mirror
from fungi_hf.errors import InputError, NotFittedError, ShapeError, StateError
from fungi_hf.objectives.base import Head, check_views
from fungi_hf.seeding import numpy_generator

if TYPE_CHECKING:
    from torch import Tensor

_ROWS: Final = 8192  # whose similarities to all centroids are held at once


class DeepClusterObjective:
    """Cluster assignments as targets; the centroids are those of training inputs."""

    def __init__(  # noqa: PLR0913  (each is an option of its own)
        self,
        *,
        width: int,
        seed: int,
        n_views: int = 8,
        prototypes: tuple[int, ...] = (3000, 3000, 3000),
        latent_dim: int = 128,
        temperature: float = 0.1,
        iterations: int = 10,
        name: str = "deepcluster",
    ) -> None:
        """Draw the projection, [latent_dim, width], rows of unit norm; `fit` finds centroids."""
        self.name, self.n_views, self._seed = name, n_views, seed
        self._prototypes, self._iterations = tuple(prototypes), iterations
        self._temperature = temperature
        drawn = Head(width, latent_dim, seed=seed, name=name).weight
        self.weight = normalize(drawn, dim=-1)
        self._mirror, self._mirrors = Mirror(), tuple(Mirror() for _ in prototypes)
        self.centroids: list[Tensor] = []  # of each clustering h, [K_h, L]; views h mod 2 made it

    def latents(self, embeddings: Tensor) -> Tensor:
        """Give unit latents [..., L] of embeddings [..., D], which are not normalised before."""
        return normalize(embeddings @ self._mirror(self.weight, embeddings).T, dim=-1)

    def fit(self, embeddings: Tensor) -> None:
        """Find centroids from the first two views of training inputs [N, V', D]."""
        self.fit_latents(self.latents(embeddings[:, :2].detach().double()))

    def fit_latents(self, latents: Tensor) -> None:
        """Find centroids from what `latents` gave for training inputs, [N, 2, L], in any order.

        Clustering h takes views h mod 2: k-means from K distinct inputs, by the largest dot
        product; a centroid is the plain mean of its members, an empty one stays. Inputs stand in
        the order of their digests where the package calls this.

        Raises:
            ShapeError: If the array has another shape.
            InputError: If there are fewer inputs than clusters.
        """
        if latents.dim() != 3 or latents.shape[1:] != (2, len(self.weight)):
            raise ShapeError(
                f"objective {self.name!r} clusters latents [N, 2, {len(self.weight)}]; got "
                f"{list(latents.shape)}"
            )
        if len(latents) < max(self._prototypes):
            raise InputError(
                f"objective {self.name!r} looks for {max(self._prototypes)} clusters among "
                f"{len(latents)} distinct training inputs; set DeepCluster(prototypes=...) to at "
                "most their number, or give more inputs"
            )
        self.centroids = [
            self._clustered(latents[:, h % 2].double(), h, size)
            for h, size in enumerate(self._prototypes)
        ]

    def _clustered(self, x: Tensor, h: int, size: int) -> Tensor:
        generator = numpy_generator(self._seed, "centroids", self.name, str(h))
        chosen = generator.choice(len(x), size, replace=False)
        centroids = x[torch.from_numpy(chosen).to(x.device)]
        for _ in range(self._iterations):
            members = assigned(x, centroids)
            counts = torch.bincount(members, minlength=size)
            sums = torch.zeros_like(centroids).index_add_(0, members, x)
            means = sums / counts.clamp(min=1)[:, None]
            centroids = torch.where((counts > 0)[:, None], means, centroids)
        return centroids

    def loss(self, embeddings: Tensor) -> Tensor:
        """Give each sample's loss, averaged over clusterings and views.

        Formula: x_v = W e_v of unit norm; y_h = argmax_k <C_h[k], x_(h mod 2)>, no gradient;
        loss = mean over h, v of cross-entropy(C_h x_v / temperature, y_h). Rows of W have unit
        norm, centroids do not.

        Args:
            embeddings: [B, V, D], any floating dtype, not normalised, not modified.

        Returns:
            [B], never reduced over the batch.

        Raises:
            NotFittedError: If there are no centroids.

        Reference: Simoncini et al. 2024, DeepCluster objective. There the targets of training
        inputs come from other crops of them; here from the first two views themselves.
        """
        check_views(embeddings, self.n_views, self.name)
        if not self.centroids:
            raise NotFittedError(
                f"objective {self.name!r} has no centroids; call fit(training inputs) first"
            )
        x = self.latents(embeddings)  # [B, V, L]
        terms = []
        for h, (centroids, mirror) in enumerate(zip(self.centroids, self._mirrors, strict=True)):
            scores = x @ mirror(centroids, x).T  # [B, V, K]
            target = scores[:, h % 2].detach().argmax(-1, keepdim=True).expand(-1, x.shape[1])
            logits = (scores / self._temperature).transpose(1, 2)
            terms.append(cross_entropy(logits, target, reduction="none").mean(-1))
        return torch.stack(terms).mean(0)

    def state(self) -> dict[str, Tensor]:
        """Give the centroids of every clustering."""
        return {f"centroids{h}": found for h, found in enumerate(self.centroids)}

    def load_state(self, state: dict[str, Tensor]) -> None:
        """Take the centroids.

        Raises:
            StateError: If their numbers or widths are not the objective's.
        """
        wanted = {f"centroids{h}": size for h, size in enumerate(self._prototypes)}
        shapes = {name: (size, len(self.weight)) for name, size in wanted.items()}
        found = {name: tuple(tensor.shape) for name, tensor in state.items()}
        if state and found != shapes:
            raise StateError(f"objective {self.name!r} has {shapes}; the stored state has {found}")
        self.centroids = [state[name] for name in wanted if name in state]

    def digest(self) -> str:
        """Digest of the projection."""
        return hashlib.sha256(self.weight.numpy().tobytes()).hexdigest()[:16]


def assigned(x: Tensor, centroids: Tensor) -> Tensor:
    """Give the centroid [N] with the largest dot product; of several, the first."""
    parts = [(rows @ centroids.T).argmax(-1) for rows in x.split(_ROWS)]
    return torch.cat(parts)
