"""Feature vectors with named blocks: normalise, weight, concatenate, slice."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from fungi_hf.errors import FeatureError, FingerprintMismatchError, StorageError, choices

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy.typing as npt

    from fungi_hf.types import Float32Array, Layout


@dataclass(frozen=True, slots=True, kw_only=True)
class Failure:
    """One input that gave no vector.

    Attributes:
        index: Its position among the inputs.
        source: A short description of it.
        error: Why.
    """

    index: int
    source: str
    error: str


@dataclass(frozen=True, eq=False)
class FungiFeatures:
    """One vector per input, in the inputs' order, whose columns have names.

    Attributes:
        array: [N, F] float32.
        layout: Ordered block name -> slice of the columns.
        fingerprint: Identity of config, encoder and fitted state.
        factors: For blocks kept as exact factors: name -> (m, n1); see `similarity`.
        failures: Inputs that were skipped (`on_error="skip"`).
        notes: Facts about the extraction, e.g. a PCA that was skipped.
    """

    array: Float32Array
    layout: Layout
    fingerprint: str
    factors: dict[str, tuple[int, int]] = field(default_factory=dict)
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
        """Give these rows and the other's after them.

        Raises:
            FingerprintMismatchError: If the two come from different configs, models or states.
        """
        self._check_same(other)
        return self._with_array(np.concatenate([self.array, other.array]))

    def _with_array(self, array: Float32Array) -> FungiFeatures:
        return FungiFeatures(
            array=array, layout=self.layout, fingerprint=self.fingerprint, factors=self.factors
        )

    def _check_same(self, other: FungiFeatures) -> None:
        if other.fingerprint != self.fingerprint:
            raise FingerprintMismatchError(
                f"features have fingerprint {self.fingerprint}, the others {other.fingerprint}; "
                "extract both with one extractor"
            )

    def block(self, name: str) -> Float32Array:
        """Give the columns of one block, [N, width].

        Raises:
            FeatureError: If there is no such block.
        """
        if name not in self.layout:
            raise FeatureError(f"no block {choices(name, self.layout)}")
        return self.array[:, self.layout[name]]

    def select(self, names: Sequence[str]) -> FungiFeatures:
        """Give the features with some blocks only, in the order asked; no new extraction.

        Args:
            names: Block names, each once.

        Returns:
            New features; the fingerprint names the blocks.

        Raises:
            FeatureError: If a name is unknown, repeated, or none is given.
        """
        if isinstance(names, str) or not names or len(set(names)) != len(names):
            raise FeatureError(f"select needs a list of distinct block names; got {names!r}")
        parts = [self.block(name) for name in names]
        kept = {name: shape for name, shape in self.factors.items() if name in names}
        return FungiFeatures(
            array=np.concatenate(parts, axis=1),
            layout=make_layout(dict(zip(names, (part.shape[1] for part in parts), strict=True))),
            fingerprint=f"{self.fingerprint}:{'+'.join(names)}",
            factors=kept,
            failures=self.failures,
            notes=self.notes,
        )

    def similarity(self, other: FungiFeatures) -> Float32Array:
        """Give the sum of block similarities [N, N'], exact also for factor blocks.

        Formula: sum over blocks of <x_b, y_b>; for a block of r factor pairs the inner product
        of the gradients, sum_ij (d_i . d'_j) (a_i . a'_j). With unit weights this is the sum of
        the blocks' cosines.

        Args:
            other: Features with the same layout and fingerprint.

        Returns:
            [N, N'] float32.

        Raises:
            FingerprintMismatchError: If the two come from different configs, models or states.
        """
        self._check_same(other)
        total = np.zeros((len(self), len(other)), dtype=np.float32)
        for name, columns in self.layout.items():
            left, right = self.array[:, columns], other.array[:, columns]
            if name in self.factors:
                total += _factor_similarity(left, right, *self.factors[name])
            else:
                total += left @ right.T
        return total

    def save(self, path: str | Path) -> None:
        """Write a safetensors file with layout and fingerprint in its header.

        Raises:
            StorageError: If the file cannot be written.
        """
        from safetensors import SafetensorError
        from safetensors.numpy import save_file

        header = {
            "layout": json.dumps({n: [s.start, s.stop] for n, s in self.layout.items()}),
            "fingerprint": self.fingerprint,
            "factors": json.dumps(self.factors),
        }
        try:
            save_file({"features": np.ascontiguousarray(self.array)}, str(path), metadata=header)
        except (SafetensorError, OSError) as error:
            raise StorageError(f"cannot write features to {path}: {error}") from None

    @classmethod
    def load(cls, path: str | Path) -> FungiFeatures:
        """Read what `save` wrote.

        Raises:
            StorageError: If the file is missing, damaged or not ours.
        """
        from safetensors import SafetensorError, safe_open

        if not Path(path).is_file():
            raise StorageError(f"there is no feature file at {path}")
        try:
            with safe_open(str(path), framework="numpy") as handle:
                header, array = handle.metadata() or {}, handle.get_tensor("features")
            layout = {n: slice(*ends) for n, ends in json.loads(header["layout"]).items()}
            factors = {n: (m, n1) for n, (m, n1) in json.loads(header["factors"]).items()}
        except (SafetensorError, KeyError, ValueError) as error:
            raise StorageError(f"{path} is not a feature file: {error}") from None
        return cls(array=array, layout=layout, fingerprint=header["fingerprint"], factors=factors)


def make_layout(widths: dict[str, int]) -> Layout:
    """Give consecutive slices for block widths."""
    layout, start = {}, 0
    for name, width in widths.items():
        layout[name] = slice(start, start + width)
        start += width
    return layout


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
