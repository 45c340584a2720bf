from __future__ import annotations

import warnings
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fungi_hf.errors import (
    ConfigError,
    FeatureError,
    FingerprintMismatchError,
    InputError,
    InputTypeError,
    NotFittedError,
    ShapeError,
)
from fungi_hf.neighbors import ExactIndex, search_similarity, topk
from fungi_hf.neighbors.base import METRICS, Index
from tests.neighbors import brute


@pytest.fixture
def small_blocks(monkeypatch):
    monkeypatch.setattr(topk, "QUERY_ROWS", 7)
    monkeypatch.setattr(topk, "POOL_ROWS", 32)
    monkeypatch.setattr(topk, "_PIECE_ROWS", 3)


def draw(rng, n, width, dtype, kind):
    """Vectors with many ties: grids, copies, zero rows, or a tight far-away cluster."""
    if kind == "grid":
        rows = rng.integers(-1, 2, (n, width)).astype(float)
    elif kind == "copies":
        rows = rng.standard_normal((max(1, n // 3), width))[rng.integers(0, max(1, n // 3), n)]
    elif kind == "cluster":
        rows = 3 + 1e-3 * rng.standard_normal((n, width))
    else:
        rows = rng.standard_normal((n, width)) * rng.choice([1e-3, 1, 20], (n, 1))
    rows[rng.random(n) < 0.05] = 0
    return rows.astype(dtype)


@settings(max_examples=150, deadline=None)
@given(
    seed=st.integers(0, 10**6),
    n=st.integers(1, 200),
    n_queries=st.integers(0, 20),
    width=st.integers(1, 12),
    share=st.floats(0, 1),
    dtype=st.sampled_from(["float16", "float32", "float64"]),
    metric=st.sampled_from(METRICS),
    kind=st.sampled_from(["normal", "grid", "copies", "cluster"]),
    order=st.sampled_from("CF"),
    skip=st.booleans(),
)
@pytest.mark.filterwarnings("ignore:.*all zeros")
def test_order_equals_a_float64_brute_force(
    seed, n, n_queries, width, share, dtype, metric, kind, order, skip
):
    rng = np.random.default_rng(seed)
    pool, queries = draw(rng, n, width, dtype, kind), draw(rng, n_queries, width, dtype, kind)
    if n_queries and rng.random() < 0.5:
        queries[0] = pool[n // 2]
    # Small shares take the candidate path, large ones the sorting path.
    k = max(1, int(share**3 * n))
    exclude = {q: rng.integers(0, n, 5) for q in range(0, n_queries, 2)} if skip else None
    pool, queries = np.array(pool, order=order), np.array(queries, order=order)
    pool.setflags(write=False)
    queries.setflags(write=False)
    with pytest.MonkeyPatch.context() as patch, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        patch.setattr(topk, "QUERY_ROWS", 7)
        patch.setattr(topk, "POOL_ROWS", 32)
        patch.setattr(topk, "_PIECE_ROWS", 3)
        found = ExactIndex(metric).fit(pool).search(queries, k, exclude=exclude)
    indices, scores = brute.search(queries, pool, k, metric, exclude)
    np.testing.assert_array_equal(found.indices, indices)
    np.testing.assert_allclose(found.scores, scores, rtol=1e-6, atol=1e-8)
    assert found.indices.dtype == np.int64
    assert found.scores.dtype == np.float32


@pytest.mark.parametrize("metric", METRICS)
def test_order_equals_a_brute_force_over_several_real_blocks(metric, monkeypatch):
    monkeypatch.setattr(topk, "QUERY_ROWS", 300)  # two full pieces and a part of one
    rng = np.random.default_rng(0)
    pool = rng.standard_normal((topk.POOL_ROWS + 500, 24)).astype(np.float32)
    pool[-400:] = pool[:400]
    queries = rng.standard_normal((topk.QUERY_ROWS + 10, 24)).astype(np.float32)
    found = ExactIndex(metric).fit(pool).search(queries, 20)
    some = np.r_[0:40, len(queries) - 20 : len(queries)]
    indices, scores = brute.search(queries[some], pool, 20, metric)
    np.testing.assert_array_equal(found.indices[some], indices)
    np.testing.assert_allclose(found.scores[some], scores, rtol=1e-6)


@pytest.mark.usefixtures("small_blocks")
def test_a_pool_of_one_repeated_row_gives_the_lowest_rows():
    pool = np.tile(np.float32([[0.1, 0.7, 0.3]]), (500, 1))
    found = ExactIndex().fit(pool).search(np.ones((9, 3)), 4)
    np.testing.assert_array_equal(found.indices, np.tile(np.arange(4), (9, 1)))


def test_float32_alone_would_get_the_order_wrong():
    # The two rows differ by less than float32 can tell in a product, but not in float64.
    rng = np.random.default_rng(3)
    base = rng.standard_normal(64)
    pool = np.stack([base + 1e-6 * rng.standard_normal(64) for _ in range(300)])
    queries = np.stack([base + 1e-3 * rng.standard_normal(64) for _ in range(5)])
    indices, _ = brute.search(queries, pool, 10)
    unit = [rows.astype(np.float32) for rows in (queries, pool)]
    single = [rows / np.linalg.norm(rows, axis=1, keepdims=True) for rows in unit]
    assert (np.argsort(-(single[0] @ single[1].T), axis=1)[:, :10] != indices).any()
    np.testing.assert_array_equal(ExactIndex().fit(pool).search(queries, 10).indices, indices)


@pytest.mark.parametrize("factor", [1e-300, 1e-30, 1e-9, 1e30, 1e300])
def test_cosine_does_not_depend_on_magnitude(factor):
    rng = np.random.default_rng(1)
    pool, queries = rng.standard_normal((90, 8)), rng.standard_normal((5, 8))
    plain = ExactIndex().fit(pool).search(queries, 6)
    scaled = ExactIndex().fit(pool * factor).search(queries * factor, 6)
    np.testing.assert_array_equal(plain.indices, scaled.indices)
    np.testing.assert_allclose(plain.scores, scaled.scores, rtol=1e-6)


def test_permuting_the_pool_permutes_the_indices():
    rng = np.random.default_rng(2)
    pool, queries = rng.standard_normal((400, 16)), rng.standard_normal((30, 16))
    shuffle = rng.permutation(400)
    plain = ExactIndex().fit(pool).search(queries, 9).indices
    moved = ExactIndex().fit(pool[shuffle]).search(queries, 9).indices
    np.testing.assert_array_equal(shuffle[moved], plain)


def test_one_query_alone_gets_what_it_gets_among_many():
    rng = np.random.default_rng(4)
    index = ExactIndex().fit(rng.standard_normal((3000, 32)).astype(np.float32))
    queries = rng.standard_normal((300, 32)).astype(np.float32)
    together = index.search(queries, 10)
    for row in (0, 17, 299):
        alone = index.search(queries[row : row + 1], 10)
        np.testing.assert_array_equal(alone.indices[0], together.indices[row])
        np.testing.assert_array_equal(alone.scores[0], together.scores[row])


def test_zero_rows_have_similarity_zero_and_one_warning_with_the_count():
    pool = np.array([[1.0, 0], [0, 0], [-1, 0], [0, 0]])
    with pytest.warns(UserWarning, match="2 of 4 rows of vectors are all zeros") as caught:
        index = ExactIndex().fit(pool)
    assert len(caught) == 1
    found = index.search([[1.0, 0]], 4)
    np.testing.assert_array_equal(found.indices, [[0, 1, 3, 2]])
    np.testing.assert_array_equal(found.scores, [[1, 0, 0, -1]])
    with pytest.warns(UserWarning, match="1 of 1 rows of queries are all zeros"):
        zero = index.search([[0.0, 0.0]], 3)
    np.testing.assert_array_equal(zero.indices, [[0, 1, 2]])
    np.testing.assert_array_equal(zero.scores, 0)


@pytest.mark.parametrize("k", [3, 30])
def test_exclusions_that_leave_too_few_rows_end_in_minus_one(k):
    pool = np.eye(40)
    rows = [row for row in range(40) if row not in (4, 9)]
    found = ExactIndex().fit(pool).search(pool[:3], k, exclude={1: rows})
    np.testing.assert_array_equal(found.indices[1], [4, 9, *[-1] * (k - 2)])
    np.testing.assert_array_equal(found.scores[1, 2:], -np.inf)
    assert found.indices[0, 0] == 0


def test_distances():
    pool, query = np.array([[3.0, 4.0], [0.0, 2.0]]), np.array([[0.0, 1.0]])
    for metric, expected in (("cosine", [0, 0.2]), ("dot", [-4, -2]), ("euclidean", [1, 18**0.5])):
        found = ExactIndex(metric).fit(pool).search(query, 2)
        np.testing.assert_allclose(found.distances[0], expected, rtol=1e-6, atol=1e-7)


def test_rankings_are_full_searches():
    rng = np.random.default_rng(5)
    pool, queries = rng.standard_normal((50, 6)), rng.standard_normal((70, 6))
    exclude = {3: [7], 68: [1, 2]}
    ranked = list(ExactIndex().fit(pool).rankings(queries, exclude=exclude))
    indices, _ = brute.search(queries, pool, 50, "cosine", exclude)
    np.testing.assert_array_equal(np.concatenate([one.indices for one in ranked]), indices)


def test_inputs_may_be_lists_tensors_integers_or_memory_maps(tmp_path):
    rng = np.random.default_rng(6)
    pool, queries = rng.integers(-9, 9, (60, 5)), rng.integers(-9, 9, (4, 5))
    wanted = brute.search(queries, pool, 3)[0]
    np.save(tmp_path / "pool.npy", pool.astype(np.float32))
    mapped = np.load(tmp_path / "pool.npy", mmap_mode="r")
    for one, other in (
        (pool, queries.tolist()),
        (torch.tensor(pool), torch.tensor(queries).half()),
        (mapped, queries.astype(np.float64)),
    ):
        np.testing.assert_array_equal(ExactIndex().fit(one).search(other, 3).indices, wanted)
    assert np.shares_memory(ExactIndex().fit(mapped).pool.rows.array, mapped)


def test_inputs_are_not_modified():
    rng = np.random.default_rng(7)
    pool, queries = rng.standard_normal((200, 5)).astype("f4"), rng.standard_normal((9, 5))
    copies = pool.copy(), queries.copy()
    for metric in METRICS:
        for k in (1, 150):
            ExactIndex(metric).fit(pool).search(queries, k)
    np.testing.assert_array_equal(pool, copies[0])
    np.testing.assert_array_equal(queries, copies[1])


def test_added_rows_are_numbered_on():
    rng = np.random.default_rng(8)
    pool = rng.standard_normal((30, 4))
    index = ExactIndex().add(pool[:10]).add(pool[10:])
    assert len(index) == 30
    np.testing.assert_array_equal(
        index.search(pool, 3).indices, ExactIndex().fit(pool).search(pool, 3).indices
    )


def features(array, fingerprint):
    return SimpleNamespace(array=np.asarray(array, np.float32), fingerprint=fingerprint)


def test_features_of_another_fingerprint_are_refused():
    index = ExactIndex().fit(features(np.eye(3), "aaa"))
    assert index.fingerprint == "aaa"
    assert index.search(features(np.eye(3), "aaa"), 1).indices[2, 0] == 2
    assert index.search(np.eye(3), 1).indices[2, 0] == 2
    with pytest.raises(FingerprintMismatchError, match=r"queries come from 'bbb'.*from 'aaa'"):
        index.search(features(np.eye(3), "bbb"), 1)
    with pytest.raises(FingerprintMismatchError, match="vectors come from 'bbb'"):
        index.add(features(np.eye(3), "bbb"))
    with pytest.raises(FingerprintMismatchError, match="queries"):
        ExactIndex().fit(np.eye(3), fingerprint="ccc").search(features(np.eye(3), "aaa"), 1)


def test_it_is_an_index():
    assert isinstance(ExactIndex(), Index)


NAN = np.full((2, 3), np.nan)


@pytest.mark.parametrize(
    ("call", "error", "words"),
    [
        (lambda: ExactIndex("cosin"), ConfigError, "metric is 'cosin'; choose one of 'cosine', "),
        (lambda: ExactIndex().search(np.eye(3), 1), NotFittedError, "call fit"),
        (lambda: ExactIndex().fit(np.ones(3)), ShapeError, r"vectors has shape \(3,\)"),
        (lambda: ExactIndex().fit(np.ones((3, 0))), ShapeError, r"\(3, 0\)"),
        (lambda: ExactIndex().fit(np.ones((0, 3))), InputError, "0 rows"),
        (lambda: ExactIndex().fit(NAN), FeatureError, "2 of 2 rows with NaN.*rows 0, 1"),
        (lambda: ExactIndex().fit([[1.0, np.inf]]), FeatureError, "rows 0;"),
        (lambda: ExactIndex().fit([["a", "b"]]), InputTypeError, "dtype <U1"),
        (lambda: ExactIndex().fit([[1.0], [1.0, 2.0]]), InputTypeError, "cannot be read"),
        (lambda: ExactIndex().fit([[True, False]]), InputTypeError, "dtype bool"),
        (lambda: ExactIndex().fit(np.eye(2) * 1j), InputTypeError, "complex128"),
        (lambda: ExactIndex().fit(None), InputTypeError, "NoneType that holds no numbers"),
        (lambda: ExactIndex().fit(np.ones((2, 2, 2))), ShapeError, r"\(2, 2, 2\)"),
        (lambda: ExactIndex("dot").fit([[1e200]]), FeatureError, "1.0e.200.*1e.150"),
        (lambda: eye().search(np.ones((1, 4)), 1), ShapeError, "4 columns.*vectors of 3"),
        (lambda: eye().search(NAN, 1), FeatureError, "queries has 2 of 2"),
        (
            lambda: eye().search(np.eye(3), 0),
            InputError,
            r"k \(rows in the index: 3\) must be an integer from 1 to 3; got 0",
        ),
        (lambda: eye().search(np.eye(3), 4), InputError, "an integer from 1 to 3; got 4"),
        (
            lambda: eye().search(np.eye(3), True),
            InputTypeError,
            "must be an integer from 1 to 3; got True",
        ),
        (lambda: eye().search(np.eye(3), 2.0), InputTypeError, "an integer from 1 to 3; got 2.0"),
        (lambda: eye().search(np.eye(3), 1, exclude={5: [0]}), InputError, "query row 5.*3 quer"),
        (lambda: eye().search(np.eye(3), 1, exclude={0: [3]}), InputError, "pool row 3"),
        (lambda: eye().search(np.eye(3), 1, exclude={0: [-1]}), InputError, "pool row -1"),
        (lambda: eye().search(np.eye(3), 1, exclude={0: [0.5]}), InputTypeError, "float64"),
        (lambda: eye().search(np.eye(3), 1, exclude={"a": [0]}), InputTypeError, "key 'a'"),
        (lambda: eye().search(np.eye(3), 1, exclude=[[0]]), InputTypeError, "exclude is a list"),
    ],
)
def test_bad_input_says_what_is_wrong(call, error, words):
    with pytest.raises(error, match=words):
        call()


def eye():
    return ExactIndex().fit(np.eye(3))


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 10**6),
    n=st.integers(1, 150),
    n_queries=st.integers(0, 20),
    k=st.integers(1, 150),
    dtype=st.sampled_from(["float32", "float64"]),
)
def test_search_similarity_is_the_stable_sort_of_a_matrix(seed, n, n_queries, k, dtype):
    rng = np.random.default_rng(seed)
    matrix = np.round(rng.standard_normal((n_queries, n)), 1).astype(dtype)
    matrix.setflags(write=False)
    k = min(k, n)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(topk, "QUERY_ROWS", 6)
        patch.setattr(topk, "POOL_ROWS", 20)
        patch.setattr(topk, "_PIECE_ROWS", 3)
        rows, scores = search_similarity(lambda q, p: matrix[q, p], n, n_queries, k)
        wanted = np.argsort(-np.round(matrix.astype(np.float64), 9), axis=1, kind="stable")[:, :k]
        np.testing.assert_array_equal(rows, wanted)
        np.testing.assert_array_equal(scores, np.take_along_axis(matrix, wanted, axis=1))


@pytest.mark.parametrize("k", [1, 9])
def test_search_similarity_refuses_nan_and_wrong_shapes(k):
    with pytest.raises(FeatureError, match="query row 0 are NaN"):
        search_similarity(lambda q, p: np.full((4, 30), np.nan), 30, 4, k)
    with pytest.raises(ShapeError, match=r"\(1, 30\) for a \(4, 30\)"):
        search_similarity(lambda q, p: np.zeros((1, 30)), 30, 4, k)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["spread", "clustered", "copies"])
def test_all_indices_of_a_banking_sized_search_equal_the_brute_force(kind):
    rng = np.random.default_rng(0)
    centres = rng.standard_normal((77, 768))
    share = {"spread": 0, "clustered": 3, "copies": 3}[kind]
    pool = rng.standard_normal((10_003, 768)) + share * centres[rng.integers(0, 77, 10_003)]
    queries = rng.standard_normal((3_080, 768)) + share * centres[rng.integers(0, 77, 3_080)]
    if kind == "copies":
        pool[5_000:] = pool[:5_003]
        queries[:1_000] = pool[:1_000]
    pool, queries = pool.astype(np.float32), queries.astype(np.float32)
    found = ExactIndex().fit(pool).search(queries, 20)
    indices, scores = brute.search(queries, pool, 20)
    np.testing.assert_array_equal(found.indices, indices)
    np.testing.assert_allclose(found.scores, scores, rtol=1e-6, atol=1e-7)
