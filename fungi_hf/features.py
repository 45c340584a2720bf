"""Feature vectors with named blocks: normalise, weight, concatenate, slice."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from fungi_hf.errors import FingerprintMismatchError, StorageError
from fungi_hf.tables import Vectors, make_layout, read_features

if TYPE_CHECKING:
    from pathlib import Path

    import numpy.typing as npt

    from fungi_hf.types import Float32Array, Layout

__all__ = ["Failure", "FungiFeatures", "make_layout"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Failure:
    """One input that gave no vector: its position, a short description of it, and why."""

    index: int
    source: str
    error: str


@dataclass(frozen=True, eq=False)
class FungiFeatures(Vectors):
    """One vector per input, in the inputs' order, whose columns have names.

    Attributes:
        array: [N, F] float32.
        layout: Ordered block name -> slice of the columns.
        fingerprint: Identity of config, encoder and fitted state.
        factors: For blocks kept as exact factors: name -> (m, n1); see `similarity`.
        failures: Inputs that were skipped (`on_error="skip"`).
        notes: Facts about the extraction, e.g. a PCA that was skipped.
    """

    layout: Layout  # every column has a name here
    failures: tuple[Failure, ...] = ()
    notes: tuple[str, ...] = ()

    def __len__(self) -> int:
        """Give N."""
        return len(self.array)

    @property
    def shape(self) -> tuple[int, int]:
        """(N, F)."""
        return self.array.shape[0], self.array.shape[1]

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray[Any, Any]:
        """Give the array, so that numpy, scikit-learn and faiss take the features as they are."""
        return np.array(self.array, dtype=dtype, copy=bool(copy) or None)

    def __getitem__(self, rows: slice | npt.NDArray[Any]) -> FungiFeatures:
        """Give some rows: a slice, or an array of positions."""
        return self._with_array(self.array[rows])

    def joined(self, other: FungiFeatures) -> FungiFeatures:
        """Give these rows and the other's after them, of the same config, model and state."""
        self._check_same(other)
        return self._with_array(np.concatenate([self.array, other.array]))

    def _with_array(self, array: Float32Array) -> FungiFeatures:
        return FungiFeatures(array, self.fingerprint, self.layout, self.factors)

    def _check_same(self, other: FungiFeatures) -> None:
        if other.fingerprint != self.fingerprint:
            raise FingerprintMismatchError(
                f"features have fingerprint {self.fingerprint}, the others {other.fingerprint}; "
                "extract both with one extractor"
            )

    def similarity(self, other: FungiFeatures) -> Float32Array:
        """Give the sum of block similarities [N, N'], exact also for factor blocks.

        Formula: sum over blocks of <x_b, y_b>; for a block of r factor pairs the inner product
        of the gradients, sum_ij (d_i . d'_j) (a_i . a'_j). With unit weights this is the sum of
        the blocks' cosines. Features of other configs, models or states are a
        FingerprintMismatchError.
        """
        self._check_same(other)
        total = np.zeros((len(self), len(other)), dtype=np.float32)
        for name, columns in self.layout.items():
            left, right = self.array[:, columns], other.array[:, columns]
            factors = self.factors.get(name)
            total += _factor_similarity(left, right, *factors) if factors else left @ right.T
        return total

    def save(self, path: str | Path) -> None:
        """Write a safetensors file with layout and fingerprint in its header.

        Raises:
            StorageError: If the file cannot be written.
        """
        from safetensors import SafetensorError
        from safetensors.numpy import save_file

        array = {"features": np.ascontiguousarray(self.array)}
        try:
            save_file(array, str(path), metadata=self.header())
        except (SafetensorError, OSError) as error:
            raise StorageError(f"cannot write features to {path}: {error}") from None

    @classmethod
    def load(cls, path: str | Path) -> FungiFeatures:
        """Read what `save`, or `fungi-hf extract` to a .parquet file, wrote.

        A file that is missing, damaged or not ours is a StorageError.
        """
        found = read_features(path)
        return cls(found.array, found.fingerprint, found.layout, found.factors)


def _factor_similarity(left: Float32Array, right: Float32Array, m: int, n1: int) -> Float32Array:
    rank = left.shape[1] // (m + n1)
    total = np.zeros((len(left), len(right)), dtype=np.float32)
    split = rank * m
    for i in range(rank):
        d = left[:, i * m : (i + 1) * m]
        a = left[:, split + i * n1 : split + (i + 1) * n1]
        for j in range(rank):
            other_d = right[:, j * m : (j + 1) * m]
            other_a = right[:, split + j * n1 : split + (j + 1) * n1]
            if d.any() and other_d.any():
                total += (d @ other_d.T) * (a @ other_a.T)
    return total
