"""Names for shapes and records that all rooms share; no logic.

Letters, everywhere: B samples, V views, N encoded inputs, T tokens, D embedding width, L latent
width, m x n layer (out x in; n1 = n + 1 with a bias, a constant input), P sketch width,
K neighbours, F feature width.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol, TypeAlias, runtime_checkable

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    from pathlib import Path

Float32Array: TypeAlias = npt.NDArray[np.float32]
Float64Array: TypeAlias = npt.NDArray[np.float64]
Int64Array: TypeAlias = npt.NDArray[np.int64]
Layout: TypeAlias = dict[str, slice]


@runtime_checkable
class Features(Protocol):
    """Anything that carries feature vectors and says where they come from."""

    @property
    def array(self) -> Float32Array:
        """[N, F] float32."""

    @property
    def fingerprint(self) -> str:
        """Identity of config, model and state."""


@runtime_checkable
class KernelFeatures(Features, Protocol):
    """Features whose rows are compared by their own rule, not by the cosine of their columns."""

    @property
    def factors(self) -> dict[str, tuple[int, int]]:
        """Blocks that hold exact factors; empty when columns may be compared directly."""

    def __getitem__(self, rows: slice) -> KernelFeatures:
        """Give some of the rows."""

    def similarity(self, other: KernelFeatures) -> Float32Array:
        """Give [N, N'] similarities."""

    def joined(self, other: KernelFeatures) -> KernelFeatures:
        """Give these rows and the other's after them."""

    def save(self, path: Path) -> None:
        """Write one file."""
