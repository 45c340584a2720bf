"""The published code's choices, its quirks included, as fields of a config.

Reference: Simoncini et al. 2024; the job scripts of the published code.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any, Final

from fungi_hf.specs.dense import DenseInfoNCE
from fungi_hf.specs.objectives import KL, PCA, SimCLR
from fungi_hf.specs.targets import DINO

_KL: Final = KL(temperature=15.0, latent_dim=768)
_SIMCLR: Final = SimCLR(temperature=0.07, logsumexp_temperature=1.0, negative_views=2)
_BOTH: Final[dict[str, Any]] = {
    "sketch": "rademacher",
    "published_signs": True,
    "reduction": PCA(n_components=512, normalize=False),
}
_IMAGENET: Final = {"statistics": "imagenet"}  # whatever the encoder was trained with
_PATCHES: Final = replace(
    _SIMCLR,
    latent_dim=96,
    n_views=49,
    views="patchify",
    view_options=_IMAGENET,
    n_negatives=256,
    negative_views=49,
)
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
    "vision": {
        **_BOTH,
        "objectives": (
            _KL,
            DINO(views="multi_crop", view_options=_IMAGENET),
            replace(_PATCHES, logsumexp_temperature=None),
        ),
        "pooling": "cls",
    },
    # A vector for every patch; the whole is not reduced.
    "segmentation": {
        "sketch": "rademacher",
        "published_signs": True,
        "objectives": (DenseInfoNCE(logsumexp_temperature=1.0, published=True),),
        "pooling": "cls",
        "image_size": 512,
    },
    # The defaults of the authors' library, fungivision.
    "fungivision": {
        "sketch": "rademacher",
        "published_signs": True,
        "objectives": (
            replace(_KL, temperature=1.0),
            DINO(views="multi_crop", view_options=_IMAGENET),
            replace(_PATCHES, n_negatives=64),
        ),
        "embedding_weight": 0.0,
        "pooling": "cls",
    },
}
"""Modality, or the authors' library -> fields."""
