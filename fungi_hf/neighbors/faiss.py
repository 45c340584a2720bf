"""Search by faiss, with scores and tie order of the exact index.

faiss proposes candidates in float32; they are scored again in float64 and ordered by the same
rule. `flat` keeps asking until the candidates provably hold the answer, so it equals `ExactIndex`;
`ivf` and `hnsw` give exact scores for the rows that they find, and may miss some.
"""

from __future__ import annotations

import contextlib
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Self, get_args

import numpy as np

from fungi_hf.errors import (
    ConfigError,
    InputError,
    NotFittedError,
    OptionalDependencyError,
    StateError,
    choices,
)
from fungi_hf.neighbors import storage
from fungi_hf.neighbors.base import (
    Neighbors,
    as_scores,
    check_count,
    check_exclusions,
    check_metric,
)
from fungi_hf.neighbors.pool import Pool
from fungi_hf.neighbors.topk import DECIMALS
from fungi_hf.neighbors.vectors import (
    blocks,
    check_fingerprint,
    check_same_origin,
    read_rows,
    warn_zero,
)
from fungi_hf.seeding import derive, numpy_generator

if TYPE_CHECKING:
    from collections.abc import Iterator
    from types import ModuleType

    import numpy.typing as npt

    from fungi_hf.neighbors.base import (
        Exclusions,
        Metric,
        Vectors,
    )
    from fungi_hf.neighbors.vectors import (
        Rows,
    )
    from fungi_hf.types import Float32Array, Float64Array, Int64Array

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
        """Check the ranges."""
        for name, value in asdict(self).items():
            if value is not None:
                check_count(value, name, 0 if name == "seed" else 1, None)


class FaissIndex:
    """Search by a faiss index.

    Requires the extra `faiss`. The original vectors are kept beside faiss's own copy.

    Relations: `ExactIndex` is as fast as `flat` on a CPU and keeps no second copy.
    """

    def __init__(
        self,
        kind: Kind = "flat",
        metric: Metric = "cosine",
        options: FaissOptions | None = None,
    ) -> None:
        """Choose the index.

        Args:
            kind: `flat` (all rows), `ivf` (cells) or `hnsw` (graph).
            metric: `cosine`, `dot` or `euclidean`.
            options: For `ivf` and `hnsw`.

        Raises:
            ConfigError: If the kind is unknown, or options are not `FaissOptions`.
        """
        if options is not None and not isinstance(options, FaissOptions):
            raise ConfigError(
                f"options is a {type(options).__name__}; it must be FaissOptions(...)"
            )
        if kind not in get_args(Kind):
            raise ConfigError(f"unknown kind {choices(kind, get_args(Kind))}")
        self.kind: Kind = kind
        self.metric: Metric = check_metric(metric)
        self.options = options or FaissOptions()
        self._pool: Pool | None = None
        self._faiss: Any = None

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
        """Store vectors in place of earlier ones.

        Args:
            vectors: [N, F] float16, float32, float64, or features.
            fingerprint: Their origin, where the vectors do not carry one.

        Returns:
            The index itself.

        Raises:
            InputError: If there is no row.
        """
        faiss = load_faiss()
        rows = read_rows(vectors, "vectors", fingerprint)
        if not len(rows):
            raise InputError("vectors have 0 rows; an index needs at least 1")
        if self.metric == "cosine":
            warn_zero(rows, "vectors")
        pool = Pool(rows, self.metric)
        self._faiss = self._build(faiss, pool)
        self._pool = pool
        return self

    def add(self, vectors: Vectors, *, fingerprint: str | None = None) -> Self:
        """Append vectors; the index is built anew, so that it depends on the rows alone.

        Args:
            vectors: [N, F], of the same width and origin as those stored.
            fingerprint: Their origin, where the vectors do not carry one.

        Returns:
            The index itself.
        """
        if self._pool is None:
            return self.fit(vectors, fingerprint=fingerprint)
        old, new = self._pool.rows, read_rows(vectors, "vectors", fingerprint)
        check_same_origin(old, new, "vectors")
        array = np.concatenate([old.array, new.array])
        return self.fit(array, fingerprint=old.fingerprint or new.fingerprint)

    def search(self, queries: Vectors, k: int, *, exclude: Exclusions | None = None) -> Neighbors:
        """Give the k nearest rows of each query, as `ExactIndex.search` does.

        Args:
            queries: [Q, F], not modified; features of another fingerprint are refused.
            k: 1 to the number of rows.
            exclude: Query row -> pool rows that it may not get.

        Returns:
            Indices [Q, k] and scores [Q, k], nearest first; -1 and -inf at the end where fewer
            than k rows were found.
        """
        pool, rows = self.pool, read_rows(queries, "queries")
        k = check_count(k, "k", 1, len(self), f" (rows in the index: {len(self)})")
        check_same_origin(pool.rows, rows)
        pool.check_range(rows, "queries")
        skipped = check_exclusions(exclude, len(rows), len(self)) or {}
        if self.metric == "cosine":
            warn_zero(rows, "queries")
        indices = np.full((len(rows), k), -1, np.int64)
        scores = np.full((len(rows), k), -np.inf)
        most = max((len(some) for some in skipped.values()), default=0)
        first = min(len(self), max(2 * k, k + 16) + most)
        todo = [
            (np.arange(start, min(start + _QUERIES, len(rows))), first)
            for start in range(0, len(rows), _QUERIES)
        ]
        margin, scales = pool.margin(rows), pool.query_scales(rows)
        while todo:
            some, n_candidates = todo.pop()
            found, fast = self._candidates(rows, some, n_candidates, scales)
            for query, own in zip(some.tolist(), found, strict=True):
                if query in skipped:
                    own[np.isin(own, skipped[query])] = -1
            indices[some], scores[some] = self._best(rows, some, found, k)
            if self.kind == "flat" and n_candidates < len(self):
                open_ = some[_unproven(found, fast, k, margin[some])]
                wider = min(len(self), 4 * n_candidates)
                step = max(1, _QUERIES * first // wider)
                todo += [(open_[i : i + step], wider) for i in range(0, len(open_), step)]
        return Neighbors(indices=indices, scores=as_scores(scores), metric=self.metric)

    def save(self, folder: str | Path) -> None:
        """Write `index.json`, `vectors.npy` and faiss's own `index.faiss`.

        Args:
            folder: Created if needed; an index in it is replaced.
        """
        faiss, rows = load_faiss(), self.pool.rows
        description = {
            **asdict(self.options),
            "faiss_kind": self.kind,
            "faiss_version": faiss.__version__,
        }
        storage.write(
            folder,
            "faiss",
            self.metric,
            rows,
            description,
            {_FILE: lambda path: faiss.write_index(self._faiss, str(path))},
        )

    @classmethod
    def load(
        cls, folder: str | Path, *, mmap: bool = False, fingerprint: str | None = None
    ) -> Self:
        """Read a saved index.

        Args:
            folder: What `save` wrote.
            mmap: Leave the original vectors on disk (faiss's copy is read).
            fingerprint: The origin that the caller expects; another one is refused.

        Returns:
            An index that answers as the saved one did.

        Raises:
            StateError: If the folder's description or faiss's file does not fit.
        """
        faiss = load_faiss()
        stored = storage.read(folder, "faiss", mmap=mmap)
        check_fingerprint(stored.fingerprint, fingerprint, "the expected vectors")
        options: dict[str, Any] = {key: stored.options.get(key) for key in FaissOptions.__slots__}
        try:
            kind: Any = stored.options["faiss_kind"]
            index = cls(kind, stored.metric, FaissOptions(**options))
            index._faiss = faiss.read_index(str(Path(folder) / _FILE))
        except (RuntimeError, KeyError, ValueError, TypeError) as error:
            raise StateError(f"{folder} holds no usable faiss index: {error}") from error
        index._pool = Pool(read_rows(stored.array, "vectors", stored.fingerprint), stored.metric)
        if index._faiss.ntotal != len(index):
            raise StateError(f"{_FILE} holds {index._faiss.ntotal} rows, vectors.npy {len(index)}")
        return index

    def _build(self, faiss: ModuleType, pool: Pool) -> Any:
        seed = derive(self.options.seed, "faiss", self.kind) % (1 << 31)
        width = pool.fast_rows(slice(0, 1))[:, self._columns].shape[1]
        measure = faiss.METRIC_INNER_PRODUCT if self._lifted else faiss.METRIC_L2
        with _one_thread(faiss):  # the graph must not depend on the timing of threads
            if self.kind == "flat":
                index = faiss.IndexFlat(width, measure)
            elif self.kind == "hnsw":
                index = faiss.IndexHNSWFlat(width, self.options.n_links, measure)
                index.hnsw.rng = faiss.RandomGenerator(seed)
                index.hnsw.efConstruction = self.options.build_depth
            else:
                index = self._cells(faiss, pool, (width, measure, seed))
            for part in blocks(len(pool.rows), width):
                index.add(np.ascontiguousarray(pool.fast_rows(part)[:, self._columns]))
        return index

    def _cells(self, faiss: ModuleType, pool: Pool, shape: tuple[int, int, int]) -> Any:
        width, measure, seed = shape
        n_rows = len(pool.rows)
        n_lists = min(self.options.n_lists or max(1, min(int(n_rows**0.5), n_rows // 39)), n_rows)
        index = faiss.IndexIVFFlat(faiss.IndexFlat(width, measure), width, n_lists, measure)
        index.cp.seed, index.cp.min_points_per_centroid = seed, 1
        index.cp.spherical = self.metric == "cosine"
        taken = np.arange(n_rows)
        if n_rows > _CELL_ROWS * n_lists:
            generator = numpy_generator(self.options.seed, "faiss", "training rows")
            taken = np.sort(generator.choice(n_rows, _CELL_ROWS * n_lists, replace=False))
        index.train(np.ascontiguousarray(pool.fast_rows(taken)[:, self._columns]))
        return index

    @property
    def _lifted(self) -> bool:
        """Whether faiss sees dot products; Euclidean graphs and cells need true distances."""
        return self.kind == "flat" or self.metric != "euclidean"

    @property
    def _columns(self) -> slice:
        return slice(None) if self._lifted else slice(None, -1)

    def _candidates(
        self, rows: Rows, some: Int64Array, n_candidates: int, scales: Float64Array
    ) -> tuple[Int64Array, Float32Array]:
        """Give what faiss finds: rows [q, c], -1 for none, and its float32 similarities."""
        faiss, pool, options = load_faiss(), self.pool, self.options
        queries = pool.fast_queries(rows, some, scales) if self._lifted else pool.placed(rows, some)
        settings = None
        if self.kind == "ivf":
            n_probes = options.n_probes or -(-self._faiss.nlist // 4)
            settings = faiss.SearchParametersIVF(nprobe=min(n_probes, self._faiss.nlist))
        if self.kind == "hnsw":
            depth = max(options.search_depth, n_candidates)
            settings = faiss.SearchParametersHNSW(efSearch=depth)
        fast, found = self._faiss.search(queries, n_candidates, params=settings)
        return found, fast

    def _best(
        self, rows: Rows, some: Int64Array, found: Int64Array, k: int
    ) -> tuple[Int64Array, Float64Array]:
        """Score candidates exactly and give the best k by the rule."""
        n_rows = len(self)
        ascending = np.sort(np.where(found < 0, n_rows, found), axis=1)
        counts = (ascending < n_rows).sum(axis=1)
        ascending = np.minimum(ascending, n_rows - 1)
        exact = self.pool.rescorer(rows)(some, ascending, counts)
        order = np.argsort(-np.round(exact, DECIMALS), axis=1, kind="stable")[:, :k]
        best = np.take_along_axis(exact, order, axis=1)
        return np.where(best == -np.inf, -1, np.take_along_axis(ascending, order, axis=1)), best


def load_faiss() -> ModuleType:
    """Give faiss.

    Raises:
        OptionalDependencyError: If it is missing or broken.
    """
    try:
        import faiss
    except ImportError as error:
        reason = "" if isinstance(error, ModuleNotFoundError) else f"faiss is broken: {error}"
        raise OptionalDependencyError("faiss", "faiss", reason) from None
    module: ModuleType = faiss
    return module


def _unproven(
    found: Int64Array, fast: Float32Array, k: int, margin: Float64Array
) -> npt.NDArray[np.bool_]:
    """Tell which queries may have a nearer row among those that faiss did not return, [q]."""
    held = np.where(found < 0, -np.inf, fast.astype(np.float64))
    kth = np.partition(held, held.shape[1] - k, axis=1)[:, held.shape[1] - k]
    return ~(fast[:, -1] < kth - margin)


@contextlib.contextmanager
def _one_thread(faiss: ModuleType) -> Iterator[None]:
    before = faiss.omp_get_max_threads()
    faiss.omp_set_num_threads(1)
    try:
        yield
    finally:
        faiss.omp_set_num_threads(before)
