"""Random demonstrations: per query, or one draw for all.

A draw is a function of the seed, what the query holds, and the pool's size; batch, order and
process change nothing.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from fungi_hf.seeding import numpy_generator

if TYPE_CHECKING:
    from collections.abc import Mapping

    from fungi_hf.icl.picking import Quota
    from fungi_hf.icl.rankings import Asked, Rows

_SHARED = b"all queries"


def draw(asked: Asked, quota: Quota, n_pool: int, seed: int, *, shared: bool) -> Rows:
    """Draw k rows for each query, without replacement.

    Args:
        asked: The queries, with the rows that each may not get.
        quota: k, the cap, and the rows that each query has already.
        n_pool: Rows in the pool.
        seed: The root seed.
        shared: One permutation for all queries; only exclusions make their draws differ.

    Returns:
        [n, k] rows in the order drawn; -1 where rows ran out.
    """
    rows = np.full((len(asked.rows), quota.k), -1, np.int64)
    common = _permutation(n_pool, seed, _SHARED) if shared else None
    for position, query in enumerate(asked.rows):
        if common is None:
            order = _permutation(n_pool, seed, asked.examples.key(int(query)))
        else:
            order = common
        left = _without(order, asked.exclude, int(query))
        chosen = _capped(left, quota, quota.held[position])[: quota.k]
        rows[position, : len(chosen)] = chosen
    return rows


def _permutation(n_pool: int, seed: int, key: bytes) -> Rows:
    return numpy_generator(seed, "random demonstrations", key).permutation(n_pool)


def _without(order: Rows, exclude: Mapping[int, Rows], query: int) -> Rows:
    skipped = exclude.get(query)
    return order if skipped is None else order[~np.isin(order, skipped)]


def _capped(order: Rows, quota: Quota, held: Rows) -> Rows:
    """Return the rows in order, less those whose label is full."""
    if quota.codes is None or quota.cap is None:
        return order
    counts: dict[int, int] = {}
    for label in quota.codes[held].tolist():
        counts[label] = counts.get(label, 0) + 1
    kept = []
    for row in order.tolist():
        label = int(quota.codes[row])
        if counts.get(label, 0) < quota.cap:
            counts[label] = counts.get(label, 0) + 1
            kept.append(row)
            if len(kept) == quota.k:
                break
    return np.array(kept, dtype=np.int64)
