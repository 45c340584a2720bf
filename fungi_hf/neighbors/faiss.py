"""Search by faiss, with scores and tie order of the exact index.

For `ivf`, `hnsw` and `ivfpq` faiss proposes candidates, which are scored again in float64 from the
vectors and ordered by the same rule: scores are exact, but rows may be missed. `flat` misses none.
"""

from __future__ import annotations

import contextlib
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Self, cast, get_args

import numpy as np

from fungi_hf.checks import check_choice
from fungi_hf.errors import ConfigError, OptionalDependencyError, StateError
from fungi_hf.neighbors import codes, storage
from fungi_hf.neighbors.base import Neighbors, as_scores, check_count, check_exclusions
from fungi_hf.neighbors.comparison import Comparison
from fungi_hf.neighbors.exact import VectorIndex
from fungi_hf.neighbors.options import FaissOptions
from fungi_hf.neighbors.topk import best, cut, n_threads
from fungi_hf.neighbors.vectors import blocks, nonzero
from fungi_hf.seeding import derive

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from fungi_hf.neighbors.base import Exclusions, Metric, Vectors
    from fungi_hf.neighbors.comparison import Pool
    from fungi_hf.neighbors.topk import Found
    from fungi_hf.neighbors.vectors import Rows
    from fungi_hf.types import Int64Array

Kind = Literal["flat", "ivf", "hnsw", "ivfpq"]
_FILE = "index.faiss"
_NUMBERS = 1 << 24  # of candidates that are read at once
_CELL_ROWS = 256  # training rows per cell, as many as faiss itself would use


class FaissIndex(VectorIndex):
    """Search by a faiss index.

    Requires the extra `faiss`. `ivf` and `hnsw` keep faiss's float32 copy of the vectors in memory
    beside them; `ivfpq` keeps codes of 64 bytes a row, so that vectors may stay in files. `flat`
    searches as `ExactIndex` does, which is as fast and keeps no second copy.
    """

    def __init__(
        self, kind: Kind = "flat", metric: Metric = "cosine", options: FaissOptions | None = None
    ) -> None:
        """Choose `flat` (all rows), `ivf` (cells), `hnsw` (graph) or `ivfpq` (cells of codes).

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

    def fit(
        self,
        vectors: Vectors,
        *,
        fingerprint: str | None = None,
        build_folder: str | Path | None = None,
    ) -> Self:
        """Store vectors in place of earlier ones, as `ExactIndex.fit` does.

        A `build_folder` keeps the finished parts of an `ivfpq`: the same call goes on where it was
        stopped. It may be removed afterwards.

        Raises:
            ConfigError: If there are too few rows for `ivfpq`, options do not suit the vectors'
                width, or another kind has a build folder.
            RunMismatchError: If the build folder is of other vectors or options.
        """
        if build_folder is not None and self.kind != "ivfpq":
            raise ConfigError(f"{self.kind!r} is not built in parts; build_folder is for 'ivfpq'")
        faiss, before = _load_faiss(), self._pool
        super().fit(vectors, fingerprint=fingerprint)
        try:
            self._faiss = self._built(faiss, self.pool, build_folder)
        except BaseException:
            self._pool = before
            raise
        return self

    def nearest(self, queries: Rows, k: int, exclude: Exclusions | None = None) -> Neighbors:
        """Do what `search` does for checked queries, without its warning."""
        k = check_count(k, f"k (rows in the index: {len(self)})", 1, len(self))
        skipped = check_exclusions(exclude, len(queries), len(self))
        most = max((len(some) for some in skipped.values()), default=0)
        factor = self.options.rerank if self.kind == "ivfpq" else 2
        n_candidates = max(factor * k, k + 16) + most
        if self.kind == "flat" or n_candidates >= len(self) or not len(queries):
            return super().nearest(queries, k, exclude)
        threads = n_threads()
        size = _NUMBERS // (threads * n_candidates * queries.width)
        size = max(1, min(size, -(-len(queries) // threads)))
        parts = list(cut(slice(0, len(queries)), size))

        def answer(part: slice) -> Found:
            own = {
                row - part.start: skipped[row]
                for row in skipped.keys() & set(range(part.start, part.stop))
            }
            some = replace(queries, array=queries.array[part], norms=queries.norms[part])
            return self._answer(some, k, n_candidates, own)

        if len(parts) == 1:  # faiss's own threads
            found = [answer(parts[0])]
        else:
            faiss = _load_faiss()
            with ThreadPoolExecutor(threads, "search", faiss.omp_set_num_threads, (1,)) as workers:
                found = list(workers.map(answer, parts))
        indices, exact = (np.concatenate(column) for column in zip(*found, strict=True))
        return Neighbors(indices=indices, scores=as_scores(exact), metric=self.metric, exact=exact)

    def _answer(
        self, queries: Rows, k: int, n_candidates: int, skipped: Mapping[int, Int64Array]
    ) -> Found:
        """Score faiss's candidates exactly, all of them read once."""
        found = self._candidates(queries, n_candidates)
        for query, rows in skipped.items():
            found[query, np.isin(found[query], rows)] = -1
        found = np.sort(np.where(found < 0, len(self), found), axis=1)
        counts = (found < len(self)).sum(axis=1)
        found = np.minimum(found, len(self) - 1)
        rows, places = np.unique(found, return_inverse=True)
        rescore = Comparison(self.pool.taken(rows), queries).rescorer()
        scores = rescore(np.arange(len(queries)), places.reshape(found.shape), counts)
        return best(scores, k, found)

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
            known = {key: saved[key] for key in FaissOptions.__slots__ if key in saved}
            index = cls(saved["faiss_kind"], stored["metric"], FaissOptions(**known))
            index._faiss = faiss.read_index(str(Path(folder) / _FILE))
        except (RuntimeError, KeyError, ValueError, TypeError) as error:
            raise StateError(f"{folder} holds no usable faiss index: {error}") from error
        VectorIndex.fit(index, array, fingerprint=stored["fingerprint"])
        if index._faiss.ntotal != len(index):
            raise StateError(
                f"{_FILE} holds {index._faiss.ntotal} rows, the vectors are {len(index)}"
            )
        return index

    def _built(self, faiss: Any, pool: Pool, folder: str | Path | None) -> Any:
        seed = derive(self.options.seed, "faiss", self.kind) % (1 << 31)
        width = pool.rows.width
        measure = faiss.METRIC_L2 if self.metric == "euclidean" else faiss.METRIC_INNER_PRODUCT
        with _one_thread(faiss):  # nothing may depend on the timing of threads
            if self.kind == "ivfpq":
                return codes.build(faiss, pool, measure, self.options, folder)
            if self.kind == "flat":
                index = faiss.IndexFlat(width, measure)
            elif self.kind == "hnsw":
                index = faiss.IndexHNSWFlat(width, self.options.n_links, measure)
                index.hnsw.rng = faiss.RandomGenerator(seed)
                index.hnsw.efConstruction = self.options.build_depth
            else:
                index = self._cells(faiss, pool, measure, seed)
            for part in blocks(len(pool.rows), width):
                index.add(pool.fast(part))
        return index

    def _cells(self, faiss: Any, pool: Pool, measure: int, seed: int) -> Any:
        n_rows, width = pool.rows.array.shape
        n_lists = self.options.cells(n_rows)
        index = faiss.IndexIVFFlat(faiss.IndexFlat(width, measure), width, n_lists, measure)
        index.cp.seed, index.cp.min_points_per_centroid = seed, 1
        index.cp.spherical = self.metric == "cosine"
        taken = codes.training_rows(n_rows, _CELL_ROWS * n_lists, self.options.seed)
        index.train(pool.fast(taken))
        return index

    def _candidates(self, rows: Rows, n_candidates: int) -> Int64Array:
        """Give the rows that faiss finds, [q, c], -1 for none."""
        faiss, pool, options = _load_faiss(), self.pool, self.options
        scales = np.array(pool.largest) if self.metric == "euclidean" else nonzero(rows.norms)
        queries = pool.scaled(rows.array, scales)
        if self.kind == "hnsw":
            depth = max(options.search_depth, n_candidates)
            settings = faiss.SearchParametersHNSW(efSearch=depth)
        else:
            is_coded = self.kind == "ivfpq"
            n_cells = faiss.extract_index_ivf(self._faiss).nlist
            n_probes = options.probes(n_cells, are_coded=is_coded)
            settings = faiss.SearchParametersIVF(nprobe=n_probes)
            if is_coded:
                settings = faiss.SearchParametersPreTransform(index_params=settings)
        found: Int64Array = self._faiss.search(queries, n_candidates, params=settings)[1]
        return found


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
