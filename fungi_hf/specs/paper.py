"""The published code's choices, its quirks included, as fields of a config.

Reference: Simoncini et al. 2024; the job scripts of the published code.
"""

from __future__ import annotations

from typing import Any, Final

from fungi_hf.specs.objectives import KL, SimCLR
from fungi_hf.specs.pca import PCA

_KL: Final = KL(temperature=15.0, latent_dim=768)
_SIMCLR: Final[dict[str, Any]] = {
    "temperature": 0.07,
    "logsumexp_temperature": 1.0,
    "negative_views": 2,
}
_BOTH: Final[dict[str, Any]] = {
    "sketch": "rademacher",
    "published_signs": True,
    "reduction": PCA(n_components=512, normalize=False),
}
PAPER: Final[dict[str, dict[str, Any]]] = {
    "text": {
        **_BOTH,
        "objectives": (
            _KL,
            SimCLR(latent_dim=256, n_views=12, views="nlpaug_deletion", n_negatives=256, **_SIMCLR),
        ),
        "pooling": "first",
    },
    "audio": {
        **_BOTH,
        "objectives": (
            _KL,
            SimCLR(latent_dim=768, n_views=16, views="noise_roll", n_negatives=64, **_SIMCLR),
        ),
        "pooling": "cls",
        "gradient_tokens": "first",
        "audio_statistics": "esc50",
        "max_length": 512,
    },
}
"""Modality -> fields."""
