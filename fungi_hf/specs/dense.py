"""The options of objectives of all tokens of an input, which give a gradient for every token."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from fungi_hf.checks import check_fields, check_flag, check_integer, check_number
from fungi_hf.specs.base import ObjectiveSpec, check_factors


@dataclass(frozen=True, kw_only=True)
class DenseInfoNCE(
    ObjectiveSpec, kind="dense_infonce", home="fungi_hf.objectives.dense:DenseInfoNCEObjective"
):
    """InfoNCE of an input's tokens, positives of each other, against tokens of training inputs.

    `extractor.dense` gives its blocks, one gradient a token.

    Attributes:
        latent_dim: L, the width of the random head.
        temperature: Divides the cosines of positives.
        logsumexp_temperature: Divides the cosines inside the logsumexp; None is `temperature`, 1
            is as published (untempered).
        n_support: Tokens of training inputs that `fit` draws, by content and place.
        neighbours: Drawn tokens that are nearest to each token (by cosine) and may be its
            input's negatives.
        keep: Chance of each to be one.
        published: Make negatives as the published code does: of unit rows, where positives are of
            raw ones, and with the coordinates of a token's neighbours interleaved.
    """

    passed: ClassVar[tuple[str, ...]] = (
        *("latent_dim", "temperature", "logsumexp_temperature", "neighbours", "keep", "published"),
    )
    words: ClassVar[str] = (
        "InfoNCE of all tokens (head of {latent_dim}) against {neighbours} neighbours of each "
        "among {n_support} training tokens, at {where}"
    )
    takes_views: ClassVar[bool] = False
    per_token: ClassVar[bool] = True
    latent_dim: int = 96
    temperature: float = 0.07
    logsumexp_temperature: float | None = None
    n_support: int = 2000
    neighbours: int = 2
    keep: float = 0.5
    published: bool = False

    def check(self) -> None:
        """Check ranges.

        Raises:
            ConfigError: If a field is out of range.
        """
        check_fields(self, ("latent_dim", "n_support"), check_integer)
        check_fields(self, ["neighbours"], check_integer, 1, self.n_support)
        check_fields(self, ["keep"], check_number, 0, 1, inclusive="high")
        check_fields(self, ["published"], check_flag)
        check_factors(self, "temperature")
        check_factors(self, "logsumexp_temperature", optional=True)

    @property
    def n_training_tokens(self) -> int:
        """As the user said."""
        return self.n_support

    @property
    def needs_fit(self) -> bool:
        """Always."""
        return True
