"""The extractor of a classifier: named, given, fitted or tuned; and the plain embedding beside it.

Invariant: an extractor or a model that somebody gives is not changed.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from fungi_hf.config import FungiConfig
from fungi_hf.errors import ConfigError
from fungi_hf.extractor import FungiExtractor
from fungi_hf.storage import files
from fungi_hf.tuning import TuningSearch

if TYPE_CHECKING:
    from collections.abc import Sequence

    from fungi_hf.features import FungiFeatures
    from fungi_hf.types import Float32Array


def open_extractor(
    model: Any, config: Any, search: Any, device: Any
) -> tuple[FungiExtractor, bool]:
    """Give the extractor that a classifier's parameters name, and whether it is to be tuned.

    Raises:
        ConfigError: If parameters contradict each other, or one is of another type.
    """
    if config is not None and not isinstance(config, FungiConfig):
        raise ConfigError(
            f"config must be a FungiConfig, or None to choose one; got {type(config).__name__}"
        )
    if search is not None and not isinstance(search, TuningSearch):
        raise ConfigError(f"search must be a TuningSearch or None; got {type(search).__name__}")
    if search is not None and config is not None:
        raise ConfigError("config says what to compute, search what to choose from: give one")
    if model is None:
        raise ConfigError("model is None; give a Hub id, a folder, a model or an extractor")
    if isinstance(model, FungiExtractor):
        if config is not None:
            raise ConfigError("the extractor brings its config; leave config=None")
        if device is not None:
            raise ConfigError(f"the extractor is where its model is; leave device={device!r} out")
        extractor, is_bare = model, False
    else:
        extractor = FungiExtractor.from_pretrained(model, config, device=device)
        is_bare = config is None and not _is_saved_extractor(model)
    _refuse(extractor.config)
    return extractor, is_bare or search is not None


def ready(
    extractor: FungiExtractor, items: Sequence[Any], batch_size: int | None, *, progress: bool
) -> tuple[FungiExtractor, FungiFeatures]:
    """Give a fitted extractor and the items' features; one that must learn learns in a copy."""
    if extractor.is_fitted:
        return extractor, extractor(items, batch_size, progress=progress)
    own = extractor.with_config(extractor.config)
    return own, own.fit_transform(items, progress=progress)


class PlainEmbedding:
    """Unit rows [N, D] of the encoder alone, with the pooling of the extractor that was given."""

    def __init__(self, given: FungiExtractor, used: FungiExtractor) -> None:
        config = used.config
        is_plain = not config.center and config.whitening == 0 and config.reduction is None
        self._block = given.encoder.pooling == used.encoder.pooling and is_plain
        self._block = self._block and "embedding" in used.layout
        self._given = given
        self._extractor: FungiExtractor | None = None

    def rows(self, features: FungiFeatures, items: Sequence[Any]) -> Float32Array:
        """Take the block of the features where it is there as it is, else extract."""
        if self._block:
            rows = features.block("embedding")
        else:
            if self._extractor is None:
                self._extractor = self._given.with_config(plain_config(self._given.config))
            if not self._extractor.is_fitted:  # statistics of spectrograms
                self._extractor.fit(items)
            rows = self._extractor(items).array
        norms = np.linalg.norm(rows, axis=1, keepdims=True)
        return rows / np.maximum(norms, np.finfo(np.float32).tiny)


def plain_config(config: FungiConfig) -> FungiConfig:
    """Give a config of the embedding alone."""
    return config.replace(
        objectives=(),
        embedding_weight=1.0,
        center=False,
        whitening=0.0,
        discriminant=0.0,
        reduction=None,
    )


def _is_saved_extractor(model: Any) -> bool:
    if not isinstance(model, (str, Path)):
        return False
    return files.find_file(model, files.CONFIG_NAME, files.HubOptions()) is not None


def _refuse(config: FungiConfig) -> None:
    if config.discriminant:
        raise ConfigError(
            "a discriminant has seen the labels of the training rows, which cannot judge the "
            "classifier then; set discriminant=0"
        )
    if config.sketch == "none":
        raise ConfigError(
            "sketch='none' keeps exact factors, whose columns no head can take; use another sketch"
        )
    if config.dense:
        raise ConfigError(
            "dense=True gives a vector for every part; a classifier takes one an input: set "
            "dense=False"
        )
