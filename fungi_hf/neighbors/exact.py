"""Exact search: the answer of a float64 brute force, at nearly the price of one float32 product.

Neither the matrix of similarities nor a float64 copy of the vectors is ever whole in memory, and a
memory-mapped pool stays on disk.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import numpy as np

from fungi_hf.errors import FeatureError, InputError, NotFittedError
from fungi_hf.neighbors import storage
from fungi_hf.neighbors.base import Neighbors, as_scores, check_exclusions, check_metric
from fungi_hf.neighbors.comparison import Comparison, Pool
from fungi_hf.neighbors.topk import cut, search_similarity
from fungi_hf.neighbors.vectors import check_fingerprint, check_same_origin, read_rows, warn_zero
from fungi_hf.types import KernelFeatures

if TYPE_CHECKING:
    from collections.abc import Iterator

    from fungi_hf.neighbors.base import Exclusions, Metric, Vectors
    from fungi_hf.neighbors.vectors import Rows

_RANKING_QUERIES = 64


class VectorIndex:
    """Checked vectors that can be searched: what exact and faiss search share."""

    def __init__(self, metric: Metric = "cosine") -> None:
        """Choose `cosine` (0 for an all-zero row), `dot` or `euclidean` (minus its square)."""
        self.metric: Metric = check_metric(metric)
        self._pool: Pool | None = None

    @property
    def pool(self) -> Pool:
        """The stored rows.

        Raises:
            NotFittedError: Before `fit`.
        """
        if self._pool is None:
            raise NotFittedError("the index is empty; call fit(vectors) first")
        return self._pool

    @property
    def fingerprint(self) -> str | None:
        """Where the stored vectors come from, None if they did not say."""
        return None if self._pool is None else self._pool.rows.fingerprint

    def __len__(self) -> int:
        return 0 if self._pool is None else len(self._pool.rows)

    def fit(self, vectors: Vectors, *, fingerprint: str | None = None) -> Self:
        """Store vectors in place of earlier ones; float arrays are kept, not copied.

        Vectors are features or [N, F] float16, float32, float64 (memory-mapped, if large), whose
        origin `fingerprint` may name.

        Raises:
            InputError: If there is no row.
        """
        rows = read_rows(vectors, "vectors", fingerprint)
        if not len(rows):
            raise InputError("vectors have 0 rows; an index needs at least 1")
        if self.metric == "cosine":
            warn_zero(rows, "vectors")
        self._pool = Pool(rows, self.metric)
        return self

    def add(self, vectors: Vectors, *, fingerprint: str | None = None) -> Self:
        """Append vectors of the same width and origin; their rows are numbered on.

        Copies all vectors into memory; the index then depends on the rows alone, as after `fit`.
        """
        if self._pool is None:
            return self.fit(vectors, fingerprint=fingerprint)
        old, new = self._pool.rows, read_rows(vectors, "vectors", fingerprint)
        check_same_origin(old, new, "vectors")
        array = np.concatenate([old.array[:], new.array[:]])
        return self.fit(array, fingerprint=old.fingerprint or new.fingerprint)

    def search(self, queries: Vectors, k: int, *, exclude: Exclusions | None = None) -> Neighbors:
        """Give the k (1 to the number of rows) nearest rows of each query, [Q, F], nearest first.

        `exclude` maps a query row to pool rows that it may not get, e.g. itself or its copies; -1
        and -inf stand at the end where fewer than k rows are left, or were found. Features of
        another fingerprint are refused.
        """
        rows = self.pool.read(queries)
        found = self.nearest(rows, k, exclude)
        if self.metric == "cosine":
            warn_zero(rows, "queries")
        return found

    def nearest(self, queries: Rows, k: int, exclude: Exclusions | None = None) -> Neighbors:
        """Do what `search` does for checked queries, without its warning."""
        return Comparison(self.pool, queries).nearest(k, exclude)


class ExactIndex(VectorIndex):
    """Search by comparing every query with every row.

    Scores are computed in float64. Order: scores rounded to 9 decimals, highest first, ties to
    the lowest row; so the answer does not depend on the vectors' float width, on block sizes or
    on threads.

    Example:
        >>> index = ExactIndex().fit([[1.0, 0.0], [0.0, 2.0], [3.0, 3.0]])
        >>> index.search([[0.0, 1.0]], k=2).indices
        array([[1, 2]])
    """

    def rankings(
        self, queries: Vectors, *, exclude: Exclusions | None = None
    ) -> Iterator[Neighbors]:
        """Give the ranking of all rows for one query after the other, a few ahead at a time.

        Each has indices [1, N] and scores [1, N]; rows that are excluded stand at the end as -1.
        """
        rows = self.pool.read(queries)
        skipped = check_exclusions(exclude, len(rows), len(self))
        for part in cut(slice(0, len(rows)), _RANKING_QUERIES):
            here = skipped.keys() & set(range(part.start, part.stop))
            own = {row - part.start: skipped[row] for row in here}
            ranked = self.search(rows.array[part], len(self), exclude=own)
            for pair in zip(ranked.indices[:, None], ranked.scores[:, None], strict=True):
                yield Neighbors(indices=pair[0], scores=pair[1], metric=self.metric)

    def save(self, folder: str | Path) -> None:
        """Write `index.json` and `vectors.npy` to a folder; an index in it is replaced.

        `ShardedVectors` are not copied: `index.json` says where their files are, as seen from the
        folder, and their digests. Files must not move alone.
        """
        storage.write(folder, "exact", self.metric, self.pool.rows)

    @classmethod
    def load(
        cls, folder: str | Path, *, mmap: bool = False, fingerprint: str | None = None
    ) -> Self:
        """Read a saved index, which answers as it did; `mmap` leaves the vectors on disk.

        An index of another origin than the `fingerprint` that the caller expects is refused, and so
        are files of vectors that are missing or were altered: each is read whole once.
        """
        array, stored = storage.read(folder, "exact", mmap=mmap, fingerprint=fingerprint)
        return cls(stored["metric"]).fit(array, fingerprint=stored["fingerprint"])


class KernelIndex:
    """Exact search over features that bring their own similarity.

    For features extracted with `sketch="none"` the score is the sum over blocks of exact cosines
    of gradients (`FungiFeatures.similarity`); columns of factors must not be compared directly.
    """

    metric: Metric = "dot"

    def __init__(self) -> None:
        self._pool: KernelFeatures | None = None

    @property
    def fingerprint(self) -> str | None:
        """Where the stored features come from."""
        return None if self._pool is None else self._pool.fingerprint

    def __len__(self) -> int:
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
        """Give the k most similar rows of each query of the same extractor, ties to the lowest row.

        `exclude` maps a query row to stored rows that it may not get.
        """
        pool = self._filled()
        asked = _checked(queries, "queries", pool)
        rows, scores = search_similarity(
            lambda some, part: asked[some].similarity(pool[part]),
            len(pool.array),
            len(asked.array),
            k,
            exclude=exclude,
        )
        return Neighbors(indices=rows, scores=as_scores(scores), metric=self.metric)

    def save(self, folder: str | Path) -> None:
        """Write the features to `features.safetensors` in a folder."""
        pool = self._filled()
        Path(folder).mkdir(parents=True, exist_ok=True)
        pool.save(Path(folder) / "features.safetensors")

    def _filled(self) -> KernelFeatures:
        if self._pool is None:
            raise NotFittedError("the index is empty; call fit(features) first")
        return self._pool


def _checked(vectors: Any, name: str, pool: KernelFeatures | None) -> KernelFeatures:
    # Give features that have a similarity, are finite, and of the pool's origin.
    if not isinstance(vectors, KernelFeatures):
        raise FeatureError(
            f"{name} are a {type(vectors).__name__} without a similarity of their own; "
            "use ExactIndex for plain vectors"
        )
    if not np.isfinite(vectors.array).all():
        raise FeatureError(f"{name} hold NaN or Inf; all values must be finite")
    if pool is not None:
        check_fingerprint(pool.fingerprint, vectors.fingerprint, name)
    return vectors
