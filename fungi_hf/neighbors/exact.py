"""Exact search: the answer of a float64 brute force, at nearly the price of one float32 product.

Neither the matrix of similarities nor a float64 copy of the vectors is ever whole in memory, and a
memory-mapped pool stays on disk.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Self

import numpy as np

from fungi_hf.errors import InputError, NotFittedError
from fungi_hf.neighbors import storage
from fungi_hf.neighbors.base import Neighbors, check_exclusions, check_metric
from fungi_hf.neighbors.comparison import Comparison
from fungi_hf.neighbors.pool import Pool
from fungi_hf.neighbors.topk import cut
from fungi_hf.neighbors.vectors import check_same_origin, read_rows, warn_zero

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from fungi_hf.neighbors.base import Exclusions, Metric, Vectors
    from fungi_hf.neighbors.vectors import Rows

_RANKING_QUERIES = 64


class VectorIndex:
    """Checked vectors that can be searched: what exact and faiss search share."""

    def __init__(self, metric: Metric) -> None:
        """Begin empty."""
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
        """Number of stored rows."""
        return 0 if self._pool is None else len(self._pool.rows)

    def fit(self, vectors: Vectors, *, fingerprint: str | None = None) -> Self:
        """Store vectors in place of earlier ones; float arrays are kept, not copied.

        Args:
            vectors: [N, F] float16, float32, float64 (memory-mapped, if large), or features.
            fingerprint: Their origin, where the vectors do not carry one.

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
        array = np.concatenate([old.array, new.array])
        return self.fit(array, fingerprint=old.fingerprint or new.fingerprint)

    def search(self, queries: Vectors, k: int, *, exclude: Exclusions | None = None) -> Neighbors:
        """Give the k nearest rows of each query.

        Args:
            queries: [Q, F], not modified; features of another fingerprint are refused.
            k: 1 to the number of rows.
            exclude: Query row -> pool rows that it may not get, e.g. itself or its copies.

        Returns:
            Indices [Q, k] and scores [Q, k], nearest first; -1 and -inf at the end where
            fewer than k rows are left, or were found.
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

    def __init__(self, metric: Metric = "cosine") -> None:
        """Choose the similarity.

        Args:
            metric: `cosine` (an all-zero row has 0 with everything), `dot`, or `euclidean`
                (minus the squared distance).
        """
        super().__init__(metric)

    def rankings(
        self, queries: Vectors, *, exclude: Exclusions | None = None
    ) -> Iterator[Neighbors]:
        """Give the ranking of all rows for one query after the other, a few ahead at a time.

        Each has indices [1, N] and scores [1, N]; rows that are excluded stand at the end as -1.
        """
        rows = self.pool.read(queries)
        skipped = check_exclusions(exclude, len(rows), len(self))
        for part in cut(slice(0, len(rows)), _RANKING_QUERIES):
            own = {
                row - part.start: skipped[row] for row in skipped if part.start <= row < part.stop
            }
            ranked = self.search(rows.array[part], len(self), exclude=own)
            for query in range(len(ranked.indices)):
                yield Neighbors(
                    indices=ranked.indices[query : query + 1],
                    scores=ranked.scores[query : query + 1],
                    metric=self.metric,
                )

    def save(self, folder: str | Path) -> None:
        """Write `index.json` and `vectors.npy` to a folder; an index in it is replaced."""
        storage.write(folder, "exact", self.metric, self.pool.rows)

    @classmethod
    def load(
        cls, folder: str | Path, *, mmap: bool = False, fingerprint: str | None = None
    ) -> Self:
        """Read a saved index, which answers as it did.

        Args:
            folder: What `save` wrote.
            mmap: Leave the vectors on disk.
            fingerprint: The origin that the caller expects; another one is refused.
        """
        array, stored = storage.read(folder, "exact", mmap=mmap, fingerprint=fingerprint)
        return cls(stored["metric"]).fit(array, fingerprint=stored["fingerprint"])
