"""Feature vectors with named blocks: normalise, weight, concatenate, slice."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from fungi_hf.errors import FingerprintMismatchError, InputError, StorageError
from fungi_hf.tables import Vectors, make_layout, read_features

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    import numpy.typing as npt

    from fungi_hf.types import Float32Array, Layout

__all__ = ["Explanation", "Failure", "FungiFeatures", "make_layout"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Failure:
    """One input that gave no vector: its position, a short description of it, and why."""

    index: int
    source: str
    error: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Explanation:
    """How much each block gives to the similarity of two rows.

    Attributes:
        similarity: Of the two rows, as `FungiFeatures.similarity` gives it.
        parts: Block -> what it adds; they sum to the similarity.
    """

    similarity: float
    parts: dict[str, float]

    @property
    def shares(self) -> dict[str, float]:
        """Give each block's part over the sum of all parts' absolute values.

        The shares' absolute values sum to 1; a block that pushes the rows apart has a negative one.
        All are 0 where all parts are.
        """
        whole = sum(map(abs, self.parts.values()))
        return {name: part / whole if whole else 0.0 for name, part in self.parts.items()}

    def __str__(self) -> str:
        shown = {name: f"{share:.2f}" for name, share in self.shares.items()}
        short = {
            name: text.removeprefix("-") if float(text) == 0 else text
            for name, text in shown.items()
        }
        return ", ".join(f"{name} {_without_zero(text)}" for name, text in short.items())


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
        total = np.zeros((len(self), len(other)), dtype=np.float32)
        for _, part in self._parts(other):
            total += part
        return total

    def _parts(self, other: FungiFeatures) -> Iterator[tuple[str, Float32Array]]:
        # One block after the other, so that no more than one is in memory beside the sum.
        self._check_same(other)
        for name, columns in self.layout.items():
            left, right = self.array[:, columns], other.array[:, columns]
            factors = self.factors.get(name)
            yield name, _factor_similarity(left, right, *factors) if factors else left @ right.T

    def explain(self, i: int, j: int, other: FungiFeatures | None = None) -> Explanation:
        """Say how much each block gives to the similarity of row i and row j.

        Row j is one of these features, or of `other`: a query's and a gallery's. After a PCA there
        is one block, "reduced". `str` of the answer is a line such as
        "embedding .61, kl .24, activation_4 .15".

        Raises:
            InputError: If there is no such row.
            FingerprintMismatchError: If `other` is of another config, model or state.
        """
        there = self if other is None else other
        rows = []
        for name, row, side in (("i", i, self), ("j", j, there)):
            whole = isinstance(row, (int, np.integer)) and not isinstance(row, bool)
            if not whole or not 0 <= row < len(side):
                raise InputError(f"{name} must be a row, 0 to {len(side) - 1}; got {row!r}")
            rows.append(side[int(row) : int(row) + 1])
        parts = {name: float(part[0, 0]) for name, part in rows[0]._parts(rows[1])}
        return Explanation(similarity=sum(parts.values()), parts=parts)

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


def _without_zero(number: str) -> str:
    """Give ".61" for "0.61", "-.15" for "-0.15"."""
    sign, digits = ("-", number[1:]) if number.startswith("-") else ("", number)
    return sign + (digits.removeprefix("0") if digits.startswith("0.") else digits)


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
