"""Prompt orders: where each rank stands, from the first demonstration to the last."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, get_args

import numpy as np

from fungi_hf.seeding import numpy_generator

if TYPE_CHECKING:
    from collections.abc import Callable

    import numpy.typing as npt

Order = Literal["nearest_last", "nearest_first", "alternate", "shuffled"]
ORDERS: tuple[str, ...] = get_args(Order)


def ranks_in_order(
    order: str, k: int, n_shared: int, seed: int, keys: list[bytes]
) -> npt.NDArray[np.int64]:
    """Give the ranks in prompt order for each query.

    Args:
        order: One of ORDERS.
        k: Demonstrations per query; ranks k - n_shared to k - 1 are the shared ones.
        n_shared: Demonstrations that open every prompt, in their own fixed order.
        seed: For "shuffled".
        keys: What each query holds; equal queries get equal shuffles.

    Returns:
        [n, k] int64, each row a permutation of 0..k-1.
    """
    own = k - n_shared
    shared = np.arange(own, k)
    if order == "shuffled":
        rows = [_shuffled(own, seed, key) for key in keys]
        retrieved = np.array(rows, dtype=np.int64).reshape(len(keys), own)
    else:
        retrieved = np.tile(_FIXED[order](own), (len(keys), 1))
    return np.hstack([np.tile(shared, (len(keys), 1)), retrieved]).astype(np.int64)


def _shuffled(k: int, seed: int, key: bytes) -> npt.NDArray[np.int64]:
    return numpy_generator(seed, "demonstration order", key).permutation(k)


def _alternate(k: int) -> npt.NDArray[np.int64]:
    """Return ranks with strong ones at both ends: 0 last, 1 first, 2 last but one, ..."""
    return np.concatenate([np.arange(1, k, 2), np.arange(0, k, 2)[::-1]])


_FIXED: dict[str, Callable[[int], npt.NDArray[np.int64]]] = {
    "nearest_last": lambda k: np.arange(k)[::-1],
    "nearest_first": np.arange,
    "alternate": _alternate,
}
