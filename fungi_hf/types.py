"""Names for shapes and records that all rooms share; no logic.

Letters, everywhere: B samples, V views, N encoded inputs, T tokens, D embedding width, L latent
width, m x n layer (out x in; n1 = n + 1 with a bias, a constant input), P sketch width,
K neighbours, F feature width.
"""

from __future__ import annotations

from typing import Protocol, TypeAlias, runtime_checkable

import numpy as np
import numpy.typing as npt

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
