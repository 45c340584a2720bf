"""Search by faiss, with scores and tie order of the exact index.

For `ivf` and `hnsw` faiss proposes candidates in float32, which are scored again in float64 and
ordered by the same rule: scores are exact, but rows may be missed. `flat` misses none.
"""

from __future__ import annotations

import contextlib
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Self, cast, get_args

import numpy as np

from fungi_hf.checks import check_choice
from fungi_hf.errors import ConfigError, OptionalDependencyError, StateError
from fungi_hf.neighbors import storage
from fungi_hf.neighbors.base import Neighbors, as_scores, check_count, check_exclusions
from fungi_hf.neighbors.comparison import Comparison
from fungi_hf.neighbors.exact import VectorIndex
from fungi_hf.neighbors.topk import best, cut
from fungi_hf.neighbors.vectors import blocks, nonzero
from fungi_hf.seeding import derive, numpy_generator

if TYPE_CHECKING:
    from collections.abc import Iterator

    from fungi_hf.neighbors.base import Exclusions, Metric, Vectors
    from fungi_hf.neighbors.comparison import Pool
    from fungi_hf.neighbors.vectors import RealArray, Rows
    from fungi_hf.types import Int64Array

Kind = Literal["flat", "ivf", "hnsw"]
_FILE = "index.faiss"
_QUERIES = 1024
_CELL_ROWS = 256  # training rows per cell, as many as faiss itself would use


@dataclass(frozen=True, slots=True, kw_only=True)
class FaissOptions:
    """What shapes an approximate index.

    Attributes:
        n_lists: `ivf`: number of cells; None takes sqrt(N), at most N / 39.
        n_probes: `ivf`: cells looked at per query; None takes a quarter of them.
        n_links: `hnsw`: links per row.
        build_depth: `hnsw`: candidates while building.
        search_depth: `hnsw`: candidates while searching; at least 2 K are taken.
        seed: Of the cells' k-means and of the graph's levels.
    """

    n_lists: int | None = None
    n_probes: int | None = None
    n_links: int = 32
    build_depth: int = 100
    search_depth: int = 256
    seed: int = 42

    def __post_init__(self) -> None:
        for name, value in asdict(self).items():
            if value is not None:
                check_count(value, name, 0 if name == "seed" else 1)


class FaissIndex(VectorIndex):
    """Search by a faiss index.

    Requires the extra `faiss`. The original vectors are kept beside faiss's own copy. `flat`
    searches as `ExactIndex` does, which is as fast and keeps no second copy.
    """

    def __init__(
        self, kind: Kind = "flat", metric: Metric = "cosine", options: FaissOptions | None = None
    ) -> None:
        """Choose `flat` (all rows), `ivf` (cells) or `hnsw` (graph); the last two have options.

        Raises:
            ConfigError: If options are not `FaissOptions`.
        """
        if not isinstance(options, FaissOptions | None):
            words = f"options is a {type(options).__name__}; it must be FaissOptions(...)"
            raise ConfigError(words)
        self.kind: Kind = cast("Kind", check_choice("kind", kind, get_args(Kind)))
        super().__init__(metric)
        self.options = options or FaissOptions()
        self._faiss: Any = None

    def fit(self, vectors: Vectors, *, fingerprint: str | None = None) -> Self:
        """Store vectors in place of earlier ones, as `ExactIndex.fit` does."""
        faiss = _load_faiss()
        super().fit(vectors, fingerprint=fingerprint)
        self._faiss = self._built(faiss, self.pool)
        return self

    def nearest(self, queries: Rows, k: int, exclude: Exclusions | None = None) -> Neighbors:
        """Do what `search` does for checked queries, without its warning."""
        if self.kind == "flat":
            return super().nearest(queries, k, exclude)
        k = check_count(k, f"k (rows in the index: {len(self)})", 1, len(self))
        skipped = check_exclusions(exclude, len(queries), len(self))
        rescore = Comparison(self.pool, queries).rescorer()
        most = max((len(some) for some in skipped.values()), default=0)
        n_candidates = min(len(self), max(2 * k, k + 16) + most)
        indices, scores = np.empty((len(queries), k), np.int64), np.empty((len(queries), k))
        for part in cut(slice(0, len(queries)), _QUERIES):
            found = self._candidates(queries, part, n_candidates)
            for query in skipped.keys() & set(range(part.start, part.stop)):
                own = found[query - part.start]
                own[np.isin(own, skipped[query])] = -1
            found = np.sort(np.where(found < 0, len(self), found), axis=1)
            counts = (found < len(self)).sum(axis=1)
            found = np.minimum(found, len(self) - 1)
            exact = rescore(np.arange(part.start, part.stop), found, counts)
            indices[part], scores[part] = best(exact, k, found)
        return Neighbors(indices=indices, scores=as_scores(scores), metric=self.metric)

    def save(self, folder: str | Path) -> None:
        """Write `index.json`, `vectors.npy` and faiss's own `index.faiss`, as `ExactIndex` does."""
        faiss, rows = _load_faiss(), self.pool.rows
        description = asdict(self.options)
        description |= {"faiss_kind": self.kind, "faiss_version": faiss.__version__}
        files = {_FILE: lambda path: faiss.write_index(self._faiss, str(path))}
        storage.write(folder, "faiss", self.metric, rows, description, files)

    @classmethod
    def load(
        cls, folder: str | Path, *, mmap: bool = False, fingerprint: str | None = None
    ) -> Self:
        """Read a saved index, as `ExactIndex.load` does; faiss's copy is never memory-mapped.

        Raises:
            StateError: If the folder's description or faiss's file does not fit.
        """
        faiss = _load_faiss()
        array, stored = storage.read(folder, "faiss", mmap=mmap, fingerprint=fingerprint)
        saved = stored["options"]
        try:
            options = FaissOptions(**{key: saved.get(key) for key in FaissOptions.__slots__})
            index = cls(saved["faiss_kind"], stored["metric"], options)
            index._faiss = faiss.read_index(str(Path(folder) / _FILE))
        except (RuntimeError, KeyError, ValueError, TypeError) as error:
            raise StateError(f"{folder} holds no usable faiss index: {error}") from error
        VectorIndex.fit(index, array, fingerprint=stored["fingerprint"])
        if index._faiss.ntotal != len(index):
            raise StateError(f"{_FILE} holds {index._faiss.ntotal} rows, vectors.npy {len(index)}")
        return index

    def _built(self, faiss: Any, pool: Pool) -> Any:
        seed = derive(self.options.seed, "faiss", self.kind) % (1 << 31)
        width = pool.rows.width
        measure = faiss.METRIC_L2 if self.metric == "euclidean" else faiss.METRIC_INNER_PRODUCT
        with _one_thread(faiss):  # the graph must not depend on the timing of threads
            if self.kind == "flat":
                index = faiss.IndexFlat(width, measure)
            elif self.kind == "hnsw":
                index = faiss.IndexHNSWFlat(width, self.options.n_links, measure)
                index.hnsw.rng = faiss.RandomGenerator(seed)
                index.hnsw.efConstruction = self.options.build_depth
            else:
                index = self._cells(faiss, pool, measure, seed)
            for part in blocks(len(pool.rows), width):
                index.add(_scaled(pool, part))
        return index

    def _cells(self, faiss: Any, pool: Pool, measure: int, seed: int) -> Any:
        n_rows, width = pool.rows.array.shape
        n_lists = min(self.options.n_lists or max(1, min(int(n_rows**0.5), n_rows // 39)), n_rows)
        index = faiss.IndexIVFFlat(faiss.IndexFlat(width, measure), width, n_lists, measure)
        index.cp.seed, index.cp.min_points_per_centroid = seed, 1
        index.cp.spherical = self.metric == "cosine"
        taken = np.arange(n_rows)
        if n_rows > _CELL_ROWS * n_lists:
            generator = numpy_generator(self.options.seed, "faiss", "training rows")
            taken = np.sort(generator.choice(n_rows, _CELL_ROWS * n_lists, replace=False))
        index.train(_scaled(pool, taken))
        return index

    def _candidates(self, rows: Rows, part: slice, n_candidates: int) -> Int64Array:
        """Give the rows that faiss finds, [q, c], -1 for none."""
        faiss, pool, options = _load_faiss(), self.pool, self.options
        whole = nonzero(rows.norms[part])
        scales = np.array(pool.largest) if self.metric == "euclidean" else whole
        queries = pool.scaled(rows.array[part], scales)
        if self.kind == "ivf":
            n_probes = options.n_probes or -(-self._faiss.nlist // 4)
            settings = faiss.SearchParametersIVF(nprobe=min(n_probes, self._faiss.nlist))
        else:
            depth = max(options.search_depth, n_candidates)
            settings = faiss.SearchParametersHNSW(efSearch=depth)
        found: Int64Array = self._faiss.search(queries, n_candidates, params=settings)[1]
        return found


def _scaled(pool: Pool, some: slice | Int64Array) -> RealArray:
    return np.ascontiguousarray(pool.scaled(pool.rows.array[some], pool.divisors(some)))


def _load_faiss() -> Any:
    try:
        import faiss
    except ImportError as error:
        reason = "" if isinstance(error, ModuleNotFoundError) else f"faiss is broken: {error}"
        raise OptionalDependencyError("faiss", "faiss", reason) from None
    return faiss


@contextlib.contextmanager
def _one_thread(faiss: Any) -> Iterator[None]:
    before = faiss.omp_get_max_threads()
    faiss.omp_set_num_threads(1)
    try:
        yield
    finally:
        faiss.omp_set_num_threads(before)
