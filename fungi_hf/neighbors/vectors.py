"""Vectors at the border: any array-like comes in, checked rows with their norms go on.

Nothing is copied that need not be: a memory-mapped array is read block by block, never whole.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias, cast

import numpy as np
import numpy.typing as npt

from fungi_hf.errors import FeatureError, FingerprintMismatchError, InputTypeError, ShapeError
from fungi_hf.neighbors.sharded import ShardedVectors
from fungi_hf.types import Features, KernelFeatures

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from fungi_hf.neighbors.base import Vectors
    from fungi_hf.types import Float64Array

RealArray: TypeAlias = npt.NDArray[np.floating]
_BLOCK_NUMBERS = 1 << 22  # 32 MB as float64
_SAFE = (1e-140, 1e140)  # norms whose squares neither overflow nor underflow in float64


@dataclass(frozen=True, slots=True, kw_only=True)
class Rows:
    """Checked vectors [N, F], the caller's own memory, never written; their norms and origin."""

    array: RealArray
    norms: Float64Array
    fingerprint: str | None

    def __len__(self) -> int:
        return len(self.array)

    @property
    def width(self) -> int:
        """F."""
        return int(self.array.shape[1])


def read_rows(vectors: Vectors, name: str, fingerprint: str | None = None) -> Rows:
    """Check vectors [N, F], in blocks; float arrays are kept, integers become float64.

    The name is for messages, the fingerprint for vectors that are no features. Errors are those of
    `as_matrix`, too.

    Raises:
        FeatureError: If rows hold NaN or infinity, or exact gradient factors.
    """
    if isinstance(vectors, KernelFeatures) and vectors.factors:
        raise FeatureError(
            f"{name} hold exact gradient factors (sketch='none'), whose columns must not be "
            "compared directly; use KernelIndex, or extract with a sketch"
        )
    if isinstance(vectors, Features | ShardedVectors):
        fingerprint = vectors.fingerprint or fingerprint
    array = as_matrix(vectors, name)
    norms = norms_of(array, [slice(None)])[:, 0]
    bad = np.flatnonzero(~np.isfinite(norms))
    if len(bad):
        shown = ", ".join(map(str, bad[:10])) + (" ..." if len(bad) > 10 else "")
        raise FeatureError(
            f"{name} has {len(bad)} of {len(array)} rows with NaN, Inf or an overflowing norm: "
            f"rows {shown}; all values must be finite"
        )
    return Rows(array=array, norms=norms, fingerprint=fingerprint)


def as_matrix(vectors: Vectors, name: str) -> RealArray:
    """Give [N, F] floats, of features their array, without copying floats.

    Raises:
        InputTypeError: If they are not real numbers.
        ShapeError: If they are not a matrix with at least one column.
    """
    if isinstance(vectors, ShardedVectors):
        return cast("RealArray", vectors)  # it is sliced and taken from as an array is
    try:
        array = np.asarray(vectors.array if isinstance(vectors, Features) else vectors)
    except (TypeError, ValueError, RuntimeError) as error:
        words = f"{name} ({type(vectors).__name__}) cannot be read as an array: {error}"
        raise InputTypeError(words) from None
    kind = array.dtype.kind
    if kind == "O":
        raise InputTypeError(
            f"{name} is a {type(vectors).__name__} that holds no numbers; "
            "it must be an [N, F] array or features"
        )
    if kind not in "fiu" or array.dtype.itemsize > 8:
        raise InputTypeError(
            f"{name} has dtype {array.dtype}; it must hold float16, float32, float64 or integers"
        )
    if array.ndim != 2 or array.shape[1] == 0:
        raise ShapeError(f"{name} has shape {array.shape}; it must be [N, F] with F at least 1")
    return array if kind == "f" else array.astype(np.float64)


def norms_of(
    array: RealArray, columns: Sequence[slice], center: Float64Array | float = 0.0
) -> Float64Array:
    """Give the norm of some columns of each row, less a center, [N, len(columns)].

    Whatever its size, a norm that float64 holds is right; NaN and infinity stay what they are.
    """
    norms = np.empty((len(array), len(columns)))
    for rows in blocks(len(array), array.shape[1]):
        block: Float64Array = array[rows].astype(np.float64)
        if np.any(center):
            block -= center
        with np.errstate(over="ignore", invalid="ignore"):
            for place, part in enumerate(columns):
                norms[rows, place] = _norms(block[:, part])
    return norms


def _norms(block: Float64Array) -> Float64Array:
    norms = np.sqrt(np.einsum("ij,ij->i", block, block))
    odd = np.flatnonzero(~((norms > _SAFE[0]) & (norms < _SAFE[1])))
    if len(odd):  # squares may have left the range
        largest = np.abs(block[odd]).max(axis=1)
        scaled = block[odd] / nonzero(largest)[:, None]
        norms[odd] = largest * np.sqrt(np.einsum("ij,ij->i", scaled, scaled))
    return np.asarray(norms)


def mean_of(rows: Rows) -> Float64Array:
    """Give the mean row, [F], read in blocks."""
    total = np.zeros(rows.width)
    for part in blocks(len(rows), rows.width):
        total += rows.array[part].sum(0, dtype=np.float64) / len(rows)
    return total


def nonzero(norms: Float64Array) -> Float64Array:
    """Give divisors: 1 in place of 0."""
    return np.where(norms > 0, norms, 1)


def blocks(n_rows: int, width: int) -> Iterator[slice]:
    """Cut rows into slices of at most 32 MB as float64."""
    step = max(1, _BLOCK_NUMBERS // width)
    for start in range(0, n_rows, step):
        yield slice(start, min(start + step, n_rows))


def check_same_origin(pool: Rows, queries: Rows, name: str = "queries") -> None:
    """Refuse queries of another width or origin than the pool's.

    Raises:
        ShapeError: If the widths differ.
    """
    if pool.width != queries.width:
        raise ShapeError(
            f"{name} have {queries.width} columns, the index holds vectors of {pool.width}"
        )
    check_fingerprint(pool.fingerprint, queries.fingerprint, name)


def check_fingerprint(stored: str | None, other: str | None, what: str) -> None:
    """Compare two origins where both are known.

    Raises:
        FingerprintMismatchError: If they differ.
    """
    if stored is not None and other is not None and stored != other:
        raise FingerprintMismatchError(
            f"{what} come from {other!r}, the index holds vectors from {stored!r}; "
            "extract both with the same config, model and state"
        )


def warn_zero(rows: Rows, name: str, stacklevel: int = 3) -> None:
    """Warn once with the count of all-zero rows, which have no direction."""
    n_zero = int(np.count_nonzero(rows.norms == 0))
    if n_zero:
        warnings.warn(
            f"{n_zero} of {len(rows)} rows of {name} are all zeros; "
            "their cosine similarity to everything is 0",
            UserWarning,
            stacklevel=stacklevel,
        )
