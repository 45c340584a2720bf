"""The published code's choices, its quirks included, as fields of a config.

Reference: Simoncini et al. 2024; the job scripts of the published code.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any, Final

from fungi_hf.specs.objectives import KL, PCA, SimCLR

_KL: Final = KL(temperature=15.0, latent_dim=768)
_SIMCLR: Final = SimCLR(temperature=0.07, logsumexp_temperature=1.0, negative_views=2)
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
            replace(_SIMCLR, latent_dim=256, n_views=12, views="nlpaug_deletion", n_negatives=256),
        ),
        "pooling": "first",
    },
    "audio": {
        **_BOTH,
        "objectives": (
            _KL,
            replace(_SIMCLR, latent_dim=768, n_views=16, views="noise_roll", n_negatives=64),
        ),
        "pooling": "cls",
        "gradient_tokens": "first",
        "audio_statistics": "esc50",
        "max_length": 512,
    },
}
"""Modality -> fields."""
