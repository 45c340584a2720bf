"""How features are reduced."""

from __future__ import annotations

from dataclasses import dataclass

from fungi_hf.checks import check_fields, check_flag, check_integer


@dataclass(frozen=True, kw_only=True)
class PCA:
    """Principal components of the concatenated features, fitted on the training rows.

    Attributes:
        n_components: Width afterwards; skipped (and recorded as skipped) unless smaller than
            both the feature width and the number of training rows.
        normalize: L2-normalise the reduced vectors.
    """

    n_components: int = 512
    normalize: bool = True

    def __post_init__(self) -> None:
        """Check the fields."""
        check_fields(self, ["n_components"], check_integer)
        check_fields(self, ["normalize"], check_flag)
