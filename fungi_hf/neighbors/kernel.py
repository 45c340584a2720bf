"""Search by the features' own similarity: exact gradient cosines, without a sketch."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from fungi_hf.errors import FeatureError, FingerprintMismatchError, NotFittedError
from fungi_hf.neighbors.base import Neighbors, as_scores
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
    def pool(self) -> KernelFeatures:
        """The stored features.

        Raises:
            NotFittedError: Before `fit`.
        """
        if self._pool is None:
            raise NotFittedError("the index is empty; call fit(features) first")
        return self._pool

    @property
    def fingerprint(self) -> str | None:
        """Where the stored features come from."""
        return None if self._pool is None else self._pool.fingerprint

    def __len__(self) -> int:
        """Give the number of stored rows."""
        return 0 if self._pool is None else len(self._pool.array)

    def fit(self, vectors: Any) -> Self:
        """Store features with `similarity`; plain arrays belong into an `ExactIndex`."""
        self._pool = _checked(vectors, "vectors", None)
        return self

    def add(self, vectors: Any) -> Self:
        """Append features of the same extractor."""
        more = _checked(vectors, "vectors", self._pool)
        self._pool = more if self._pool is None else self._pool.joined(more)
        return self

    def search(self, queries: Any, k: int, *, exclude: Exclusions | None = None) -> Neighbors:
        """Give the k most similar rows of each query, best first, ties to the lowest row.

        Args:
            queries: Features of the same extractor.
            k: 1 to the number of stored rows.
            exclude: Query row -> stored rows that it may not get.

        Returns:
            Rows and similarities.
        """
        pool = self.pool
        asked = _checked(queries, "queries", pool)

        def similarity(some: slice, part: slice) -> Float32Array:
            return asked[some].similarity(pool[part])

        n_pool, n_queries = len(pool.array), len(asked.array)
        rows, scores = search_similarity(similarity, n_pool, n_queries, k, exclude=exclude)
        return Neighbors(indices=rows, scores=as_scores(scores), metric=self.metric)

    def save(self, folder: str | Path) -> None:
        """Write the features to `features.safetensors` in a folder."""
        pool = self.pool
        Path(folder).mkdir(parents=True, exist_ok=True)
        pool.save(Path(folder) / "features.safetensors")


def _checked(vectors: Any, name: str, pool: KernelFeatures | None) -> KernelFeatures:
    """Give features that are finite and of the pool's origin.

    Raises:
        FeatureError: If they have no similarity, or hold NaN or Inf.
        FingerprintMismatchError: If they come from another extractor.
    """
    if not isinstance(vectors, KernelFeatures):
        raise FeatureError(
            f"{name} are a {type(vectors).__name__} without a similarity of their own; "
            "use ExactIndex for plain vectors"
        )
    if not np.isfinite(vectors.array).all():
        raise FeatureError(f"{name} hold NaN or Inf; all values must be finite")
    if pool is not None and pool.fingerprint != vectors.fingerprint:
        raise FingerprintMismatchError(
            f"the index holds features with fingerprint {pool.fingerprint}, the others have "
            f"{vectors.fingerprint}; extract both with one extractor"
        )
    return vectors
