from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fungi_hf.neighbors import comparison, topk
from fungi_hf.neighbors.base import METRICS
from fungi_hf.neighbors.comparison import Comparison, Pool
from fungi_hf.neighbors.vectors import norms_of, read_rows
from tests.neighbors import brute

LAYOUT = {"a": slice(0, 3), "b": slice(3, 4), "c": slice(4, 9)}
COMBINATIONS = [("a",), ("b",), ("c", "a"), ("a", "b"), ("a", "b", "c")]


@settings(max_examples=100, deadline=None)
@given(
    seed=st.integers(0, 10**6),
    n=st.integers(2, 150),
    n_queries=st.integers(0, 12),
    metric=st.sampled_from(METRICS),
    dtype=st.sampled_from(["float16", "float32", "float64"]),
    kind=st.sampled_from(["normal", "grid", "copies"]),
    small=st.sampled_from([0, 2048]),
    weights=st.sampled_from([(1, 1, 1), (1, 1e-3, 30), (0, 1, 1)]),
)
def test_combinations_of_blocks_equal_a_brute_force_on_their_columns(
    seed, n, n_queries, metric, dtype, kind, small, weights
):
    rng = np.random.default_rng(seed)
    rows = rng.standard_normal((n + n_queries, 9))
    if kind == "grid":
        rows = rng.integers(-1, 2, rows.shape).astype(float)
    if kind == "copies":
        rows = rows[rng.integers(0, max(1, n // 3), len(rows))]
    for weight, part in zip(weights, LAYOUT.values(), strict=True):
        rows[:, part] *= weight
    pool, queries = np.split(rows.astype(dtype), [n])
    k = int(rng.integers(1, n + 1)) if rng.random() < 0.3 else min(3, n)
    exclude = {q: rng.integers(0, n, 4) for q in range(0, n_queries, 2)}
    with pytest.MonkeyPatch.context() as patch:
        for name, value in (("QUERY_ROWS", 7), ("POOL_ROWS", 32), ("_PIECE_ROWS", 3)):
            patch.setattr(topk, name, value)
        patch.setattr(comparison, "_SMALL", small)
        held = Pool(read_rows(pool, "pool"), metric, LAYOUT)
        compared = Comparison(held, read_rows(queries, "queries"))
        found = compared.nearest_by(COMBINATIONS, k, exclude)
    for some, one in zip(COMBINATIONS, found, strict=True):
        columns = np.concatenate([np.arange(9)[LAYOUT[name]] for name in some])
        indices, scores = brute.search(queries[:, columns], pool[:, columns], k, metric, exclude)
        np.testing.assert_array_equal(one.indices, indices)
        np.testing.assert_allclose(one.scores, scores, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("factor", [1e-45, 1e-18, 1e18])
def test_a_block_that_float32_would_lose_beside_the_others_is_compared_all_the_same(factor, metric):
    rng = np.random.default_rng(0)
    pool, queries = rng.standard_normal((90, 9)), rng.standard_normal((7, 9))
    for rows in (pool, queries):
        rows[:, LAYOUT["a"]] *= factor
    held = Pool(read_rows(pool, "pool"), metric, LAYOUT)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(comparison, "_SMALL", 0)
        compared = Comparison(held, read_rows(queries, "queries"))
        one, other = compared.nearest_by([("a",), ("b", "c")], 5)
    for found, columns in ((one, slice(0, 3)), (other, slice(3, 9))):
        indices, scores = brute.search(queries[:, columns], pool[:, columns], 5, metric)
        np.testing.assert_array_equal(found.indices, indices)
        np.testing.assert_allclose(found.scores, scores, rtol=1e-6, atol=1e-30)


def test_norms_are_right_at_both_ends_of_the_range():
    rows = np.array(
        [[3e-200, 4e-200, 0], [3e200, 4e200, 1], [0, 0, 0], [np.inf, 1, 1], [np.nan] * 3]
    )
    found = norms_of(rows, [slice(0, 2), slice(2, 3)])
    np.testing.assert_allclose(found[:3], [[5e-200, 0], [5e200, 1], [0, 0]], rtol=1e-14)
    assert not np.isfinite(found[3:, 0]).any()
