"""Codes that stand in for vectors in memory: `FaissIndex("ivfpq")`, built part by part.

Cells of k-means, and product quantization of what a row differs from its cell's centre: two codes
of four bits a byte, compared sixteen or more at a time (André et al., "Quicker ADC", TPAMI 2019).
Vectors are first turned to their principal axes, which are dealt out so that every code has an
equal share of the spread (the closed form of OPQ; Ge et al., CVPR 2013): blocks of features have
unequal spectra.

A row's codes depend on what was trained and on its block of rows alone, and all of it is computed
by one thread each: the same rows and options give the same index, in one array or many files, in
one sitting or several.
"""

from __future__ import annotations

import hashlib
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from fungi_hf.errors import ConfigError
from fungi_hf.neighbors.build import BuildFolder
from fungi_hf.neighbors.topk import cut, n_threads
from fungi_hf.neighbors.vectors import blocks
from fungi_hf.seeding import derive, numpy_generator

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from fungi_hf.neighbors.comparison import Pool
    from fungi_hf.neighbors.options import FaissOptions
    from fungi_hf.types import Int64Array

PART_ROWS = 1 << 16
_BITS = 4
_TRAINING_ROWS = 64  # per cell
_TRAINED = "trained.faiss"


def build(
    faiss: Any, pool: Pool, measure: int, options: FaissOptions, folder: str | Path | None
) -> Any:
    """Train, code all rows, and give faiss's index of them; a folder keeps what is finished.

    Raises:
        ConfigError: If there are too few rows, or more codes than columns.
        RunMismatchError: If the folder is of other vectors or options.
    """
    n_rows, width = pool.rows.array.shape
    n_lists, n_codes = options.cells(n_rows), options.code_bytes(width)
    if n_rows < 1 << _BITS:
        raise ConfigError(
            f"'ivfpq' learns its codes from at least {1 << _BITS} rows; got {n_rows}: use 'flat'"
        )
    kept = None
    if folder is not None:
        plan = {
            "faiss_version": faiss.__version__,
            "metric": pool.metric,
            "n_lists": n_lists,
            "n_codes": n_codes,
            "rotate": options.rotate,
            "seed": options.seed,
            "part_rows": PART_ROWS,
            "n_rows": n_rows,
            "width": width,
            "dtype": str(pool.rows.array.dtype),
            "fingerprint": pool.rows.fingerprint,
            "vectors": _digest(pool),
        }
        kept = BuildFolder(folder, plan)

    def made(name: str, make: Callable[[], bytes]) -> bytes:
        return make() if kept is None else kept.made(name, make)

    trained = made(
        _TRAINED, lambda: bytes(faiss.serialize_index(_train(faiss, pool, measure, options)))
    )
    if kept is not None:
        kept.bind(trained)
    index = faiss.deserialize_index(np.frombuffer(trained, np.uint8))
    cells = faiss.downcast_index(index.index)
    parts = list(cut(slice(0, n_rows), PART_ROWS))
    with ThreadPoolExecutor(n_threads(), "codes", faiss.omp_set_num_threads, (1,)) as workers:

        def coded(part: slice) -> bytes:
            return b"".join(workers.map(partial(_code, index, pool), _blocks(part, width)))

        for number, part in enumerate(parts):
            name = f"part-{number:05d}-of-{len(parts):05d}.codes"
            data = np.frombuffer(made(name, partial(coded, part)), np.uint8)
            numbers = np.arange(part.start, part.stop)
            cells.add_sa_codes(data.reshape(len(numbers), -1), numbers)
    return _quick(faiss, index, cells)


def _blocks(part: slice, width: int) -> list[slice]:
    whole = blocks(part.stop - part.start, width)
    return [slice(some.start + part.start, some.stop + part.start) for some in whole]


def _code(index: Any, pool: Pool, some: slice) -> bytes:
    """Give each row's cell and codes."""
    return bytes(index.sa_encode(pool.fast(some)))


def _train(faiss: Any, pool: Pool, measure: int, options: FaissOptions) -> Any:
    """Give an index without rows."""
    n_rows, width = pool.rows.array.shape
    n_lists, n_pieces = options.cells(n_rows), 2 * options.code_bytes(width)
    seed = derive(options.seed, "faiss", "ivfpq") % (1 << 31)
    rows = pool.fast(training_rows(n_rows, _TRAINING_ROWS * n_lists, options.seed))
    width = -(-width // n_pieces) * n_pieces
    steps = []
    if width > pool.rows.width:  # columns of zeros change no score
        steps.append(faiss.RemapDimensionsTransform(pool.rows.width, width, False))
        rows = steps[-1].apply(rows)
    if options.rotate:
        steps.append(_rotation(faiss, rows, n_pieces, seed))
        rows = steps[-1].apply(rows)
    cells = faiss.IndexIVFPQ(
        faiss.IndexFlat(width, measure), width, n_lists, n_pieces, _BITS, measure
    )
    for means in (cells.cp, cells.pq.cp):
        means.seed, means.min_points_per_centroid = seed, 1
    cells.cp.spherical = pool.metric == "cosine"
    cells.train(rows)
    index = faiss.IndexPreTransform(cells)
    for step in reversed(steps):
        index.prepend_transform(step)
    return index


def training_rows(n_rows: int, n_wanted: int, seed: int) -> Int64Array:
    """Draw the rows that k-means sees, all if there are no more than wanted."""
    if n_rows <= n_wanted:
        return np.arange(n_rows)
    generator = numpy_generator(seed, "faiss", "training rows")
    return np.sort(generator.choice(n_rows, n_wanted, replace=False))


def _rotation(faiss: Any, rows: Any, n_pieces: int, seed: int) -> Any:
    width = rows.shape[1]
    if len(rows) <= width:  # too few for all axes
        turn = faiss.RandomRotationMatrix(width, width)
        turn.init(seed)
        return turn
    turn = faiss.PCAMatrix(width, width)
    turn.balanced_bins = n_pieces
    turn.train(rows)
    turn.have_bias = False  # a shift would change inner products
    return turn


def _quick(faiss: Any, index: Any, cells: Any) -> Any:
    """Give the index with its codes laid out for comparison many at a time."""
    quick = faiss.IndexIVFPQFastScan(cells)
    cells.reset()
    whole = faiss.IndexPreTransform(quick)
    for place in reversed(range(index.chain.size())):
        whole.prepend_transform(faiss.downcast_VectorTransform(index.chain.at(place)))
    whole.referenced_objects.append(index)  # it owns the centres and the rotation
    return whole


def _digest(pool: Pool) -> str:
    digest = hashlib.sha256()
    for part in blocks(*pool.rows.array.shape):
        digest.update(np.ascontiguousarray(pool.rows.array[part]).data)
    return digest.hexdigest()
