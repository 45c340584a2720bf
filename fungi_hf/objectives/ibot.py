"""iBOT: masked tokens, and the embedding of the masked input, predict those of the plain input."""

from __future__ import annotations

from typing import TYPE_CHECKING

from fungi_hf.objectives.base import check_views
from fungi_hf.objectives.dino import Teacher

if TYPE_CHECKING:
    from torch import Tensor


class IBOTObjective:
    """Masked self-distillation between two fixed heads; the view axis holds embedding and tokens.

    The published FUNGI code has no iBOT; this definition is the package's own.
    """

    reads_tokens = True

    needs_float64 = False

    def __init__(
        self,
        *,
        width: int,
        seed: int,
        n_views: int = 66,
        latent_dim: int = 2048,
        temperature: float = 0.1,
        teacher_temperature: float = 0.07,
        name: str = "ibot",
    ) -> None:
        """Draw the heads of student and teacher, which embedding and tokens share."""
        self.name, self.n_views = name, n_views
        self.heads = Teacher(
            *(width, latent_dim),
            seed=seed,
            name=name,
            temperature=temperature,
            teacher_temperature=teacher_temperature,
        )

    def fit(self, embeddings: Tensor) -> None:
        """Do nothing."""

    def loss(self, embeddings: Tensor) -> Tensor:
        """Give each sample's loss: the embedding's cross-entropy plus the tokens' mean one.

        Formula: with s, t as in DINO, of the masked and of the plain input,
        loss = - <t_0, s_0> - (1/S) sum_j <t_j, s_j>.

        Args:
            embeddings: [B, 2 (1 + S), D]: embedding and S tokens of the masked input, embedding
                and the same S tokens of the plain input; not normalised, not modified.

        Returns:
            [B], never reduced over the batch.

        Reference: Zhou et al. 2022 (iBOT), without centring, moving average and learned mask.
        """
        check_views(embeddings, self.n_views, self.name)
        half = self.n_views // 2
        targets = self.heads.targets(embeddings[:, half:])
        terms = -(targets * self.heads.predictions(embeddings[:, :half])).sum(-1)  # [B, 1 + S]
        return terms[:, 0] + terms[:, 1:].mean(-1)

    def state(self) -> dict[str, Tensor]:
        """Give nothing: nothing is learned."""
        return {}

    def load_state(self, state: dict[str, Tensor]) -> None:
        """Do nothing."""

    def digest(self) -> str:
        """Digest of both heads."""
        return self.heads.digest()
