"""Search by the features' own similarity: exact gradient cosines, without a sketch."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from fungi_hf.errors import FeatureError, FingerprintMismatchError, NotFittedError
from fungi_hf.neighbors.base import Neighbors
from fungi_hf.neighbors.topk import search_similarity
from fungi_hf.types import KernelFeatures

if TYPE_CHECKING:
    from typing import Self

    from fungi_hf.neighbors.base import Exclusions, Metric
    from fungi_hf.types import Float32Array


class KernelIndex:
    """Exact search over features that bring their own similarity.

    For features extracted with `sketch="none"` the score is the sum over blocks of exact cosines
    of gradients (`FungiFeatures.similarity`); columns of factors must not be compared directly.
    """

    metric: Metric = "dot"

    def __init__(self) -> None:
        """Begin empty."""
        self._pool: KernelFeatures | None = None

    @property
    def fingerprint(self) -> str | None:
        """Where the stored features come from."""
        return None if self._pool is None else self._pool.fingerprint

    def __len__(self) -> int:
        """Give the number of stored rows."""
        return 0 if self._pool is None else len(self._pool.array)

    def fit(self, vectors: Any) -> Self:
        """Store features.

        Args:
            vectors: Features with `similarity`; plain arrays belong into an `ExactIndex`.

        Raises:
            FeatureError: If they have no similarity, or hold NaN or Inf.
        """
        self._pool = _checked(vectors, "vectors")
        return self

    def add(self, vectors: Any) -> Self:
        """Append features of the same extractor.

        Raises:
            FingerprintMismatchError: If they come from another extractor.
        """
        more = _checked(vectors, "vectors")
        if self._pool is None:
            return self.fit(more)
        _same(self._pool, more)
        self._pool = self._pool.joined(more)
        return self

    def search(self, queries: Any, k: int, *, exclude: Exclusions | None = None) -> Neighbors:
        """Give the k most similar rows of each query, best first, ties to the lowest row.

        Args:
            queries: Features of the same extractor.
            k: 1 to the number of stored rows.
            exclude: Query row -> stored rows that it may not get.

        Returns:
            Rows and similarities.

        Raises:
            NotFittedError: If nothing is stored.
            FingerprintMismatchError: If the queries come from another extractor.
        """
        pool = self._pool
        if pool is None:
            raise NotFittedError("the index is empty; call fit(features) first")
        asked = _checked(queries, "queries")
        _same(pool, asked)

        def similarity(some: slice, part: slice) -> Float32Array:
            return asked[some].similarity(pool[part])

        rows, scores = search_similarity(
            similarity, len(pool.array), len(asked.array), k, exclude=exclude
        )
        return Neighbors(indices=rows, scores=scores.astype(np.float32), metric=self.metric)

    def save(self, folder: str | Path) -> None:
        """Write the features to `features.safetensors` in a folder.

        Raises:
            NotFittedError: If nothing is stored.
        """
        if self._pool is None:
            raise NotFittedError("the index is empty; call fit(features) first")
        Path(folder).mkdir(parents=True, exist_ok=True)
        self._pool.save(Path(folder) / "features.safetensors")


def _checked(vectors: Any, name: str) -> KernelFeatures:
    if not isinstance(vectors, KernelFeatures):
        raise FeatureError(
            f"{name} are a {type(vectors).__name__} without a similarity of their own; "
            "use ExactIndex for plain vectors"
        )
    if not np.isfinite(vectors.array).all():
        raise FeatureError(f"{name} hold NaN or Inf; all values must be finite")
    return vectors


def _same(pool: KernelFeatures, other: KernelFeatures) -> None:
    if pool.fingerprint != other.fingerprint:
        raise FingerprintMismatchError(
            f"the index holds features with fingerprint {pool.fingerprint}, the others have "
            f"{other.fingerprint}; extract both with one extractor"
        )
