"""DINO: every view predicts, by one random head, what another sees in the global views."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

from torch.nn.functional import normalize

from fungi_hf.objectives.base import Head, check_views

if TYPE_CHECKING:
    from torch import Tensor


class Teacher:
    """Two random heads over unit embeddings: student's log-probabilities, teacher's targets."""

    def __init__(
        self,
        width: int,
        latent_dim: int,
        *,
        seed: int,
        name: str,
        temperature: float,
        teacher_temperature: float,
        shared: bool = False,
    ) -> None:
        """Draw both heads, [latent_dim, width] each, or one for both."""
        self._student = Head(width, latent_dim, seed=seed, name=f"{name}/student")
        self._teacher = self._student
        if not shared:
            self._teacher = Head(width, latent_dim, seed=seed, name=f"{name}/teacher")
        self._temperature, self._teacher_temperature = temperature, teacher_temperature

    def predictions(self, embeddings: Tensor) -> Tensor:
        """Give the student's log-probabilities [..., L]."""
        logits: Tensor = self._student(normalize(embeddings, dim=-1))
        return (logits / self._temperature).log_softmax(-1)

    def targets(self, embeddings: Tensor) -> Tensor:
        """Give the teacher's probabilities [..., L], outside any graph."""
        logits: Tensor = self._teacher(normalize(embeddings.detach(), dim=-1))
        return (logits / self._teacher_temperature).softmax(-1)

    def digest(self) -> str:
        """Digest of both heads."""
        both = self._student.digest() + self._teacher.digest()
        return hashlib.sha256(both.encode()).hexdigest()[:16]


class DINOObjective:
    """Self-distillation of V views between two fixed heads; it learns nothing."""

    needs_float64 = False

    def __init__(  # noqa: PLR0913  (each is an option of its own)
        self,
        *,
        width: int,
        seed: int,
        n_views: int = 12,
        n_global: int = 2,
        latent_dim: int = 2048,
        temperature: float = 0.1,
        teacher_temperature: float = 0.07,
        shared_heads: bool = False,
        name: str = "dino",
    ) -> None:
        """Draw the heads of student and teacher."""
        self.name, self.n_views, self._n_global = name, n_views, n_global
        self.heads = Teacher(
            *(width, latent_dim),
            seed=seed,
            name=name,
            temperature=temperature,
            teacher_temperature=teacher_temperature,
            shared=shared_heads,
        )

    def fit(self, embeddings: Tensor) -> None:
        """Do nothing."""

    def loss(self, embeddings: Tensor) -> Tensor:
        """Give each sample's loss, summed over pairs of views, a view with itself included.

        Formula: t_g = softmax(H_t e_g / teacher_temperature), detached, of the global views g;
        s_v = log softmax(H_s e_v / temperature) of all views v; loss = - sum_g sum_v <t_g, s_v>,
        with e of unit norm and biases in both heads H.

        Args:
            embeddings: [B, V, D], the global views first, not normalised, not modified.

        Returns:
            [B], never reduced over the batch.

        Reference: Simoncini et al. 2024, DINO objective; the published code has no centring and
        no moving average, and the student's encoder for a teacher.
        """
        check_views(embeddings, self.n_views, self.name)
        targets = self.heads.targets(embeddings[:, : self._n_global]).sum(1)  # [B, L]
        predictions = self.heads.predictions(embeddings).sum(1)  # [B, L]
        return -(targets * predictions).sum(-1)

    def state(self) -> dict[str, Tensor]:
        """Give nothing: nothing is learned."""
        return {}

    def load_state(self, state: dict[str, Tensor]) -> None:
        """Do nothing."""

    def digest(self) -> str:
        """Digest of both heads."""
        return self.heads.digest()
