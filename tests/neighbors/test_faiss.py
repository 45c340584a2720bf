from __future__ import annotations

import sys
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest

from fungi_hf.errors import (
    ConfigError,
    FingerprintMismatchError,
    InputError,
    InputTypeError,
    NotFittedError,
    OptionalDependencyError,
    ShapeError,
    StateError,
)
from fungi_hf.neighbors import ExactIndex, FaissIndex, FaissOptions, KNNClassifier
from fungi_hf.neighbors.base import METRICS, Index
from tests.neighbors import brute

APPROXIMATE = ("ivf", "hnsw", "ivfpq")
KINDS = ("flat", *APPROXIMATE)


def clustered(n, width, seed=0):
    """Rows around centres, as embeddings are: what approximate indices are made for."""
    centres = np.random.default_rng(99).standard_normal((30, width))
    rng = np.random.default_rng(seed)
    return (centres[rng.integers(0, 30, n)] + rng.standard_normal((n, width))).astype("f4")


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
@pytest.mark.parametrize("k", [1, 10, 200])
def test_flat_equals_exact_in_ids_and_distances(metric, dtype, k):
    pool = clustered(600, 12).astype(dtype)
    pool[100:130] = pool[:30]  # ties
    pool[200:320] = pool[7]  # more ties than the first round of candidates holds
    queries = np.concatenate([pool[::40], clustered(50, 12, 1).astype(dtype)])
    exclude = {0: [0, 100], 3: range(200, 320)}
    exact = ExactIndex(metric).fit(pool).search(queries, k, exclude=exclude)
    flat = FaissIndex("flat", metric).fit(pool).search(queries, k, exclude=exclude)
    np.testing.assert_array_equal(flat.indices, exact.indices)
    np.testing.assert_allclose(flat.scores, exact.scores, rtol=1e-6, atol=1e-7)
    np.testing.assert_allclose(flat.distances, exact.distances, rtol=1e-5, atol=2e-3)


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("kind", APPROXIMATE)
def test_approximate_kinds_reach_their_recall_with_exact_scores(kind, metric):
    pool, queries = clustered(3000, 24), clustered(200, 24, 1)
    found = FaissIndex(kind, metric).fit(pool).search(queries, 10)
    indices, _ = brute.search(queries, pool, 10, metric)
    hits = [len(np.intersect1d(a, b)) for a, b in zip(found.indices, indices, strict=True)]
    assert np.mean(hits) / 10 >= 0.95
    scores = brute.scores_of(queries, pool, metric)
    np.testing.assert_allclose(
        found.scores, np.take_along_axis(scores, found.indices, 1), rtol=1e-5, atol=1e-6
    )
    assert (np.diff(found.scores, axis=1) <= 0).all()


@pytest.mark.parametrize("kind", APPROXIMATE)
def test_the_same_seed_builds_the_same_index(kind):
    pool, queries = clustered(2000, 16), clustered(100, 16, 1)
    options = FaissOptions(n_probes=1, search_depth=4, build_depth=8, n_links=4, rerank=1)
    one, other = (FaissIndex(kind, options=options).fit(pool).search(queries, 5) for _ in "ab")
    np.testing.assert_array_equal(one.indices, other.indices)
    moved = FaissIndex(kind, options=replace(options, seed=1)).fit(pool)
    assert (moved.search(queries, 5).indices != one.indices).any()


@pytest.mark.parametrize("kind", KINDS)
def test_exclusions_and_tiny_pools(kind):
    pool = np.eye(20, dtype=np.float32)
    index = FaissIndex(kind).fit(pool)
    found = index.search(pool[:5], 20, exclude={1: [1], 2: range(20)})
    assert found.indices[0].tolist() == list(range(20))
    assert 1 not in found.indices[1]
    np.testing.assert_array_equal(found.indices[2], -1)
    np.testing.assert_array_equal(found.scores[2], -np.inf)


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("kind", KINDS)
def test_a_loaded_index_answers_as_the_saved_one(kind, metric, tmp_path):
    rows = SimpleNamespace(array=clustered(400, 8), fingerprint="abc")
    options = FaissOptions(n_lists=7, search_depth=33, seed=5)
    index = FaissIndex(kind, metric, options).fit(rows)
    index.save(tmp_path)
    loaded = FaissIndex.load(tmp_path, fingerprint="abc", mmap=True)
    queries = clustered(40, 8, 1)
    one, other = index.search(queries, 6), loaded.search(queries, 6)
    np.testing.assert_array_equal(one.indices, other.indices)
    np.testing.assert_array_equal(one.scores, other.scores)
    assert (loaded.kind, loaded.metric, loaded.options) == (kind, metric, options)
    assert loaded.fingerprint == "abc"
    with pytest.raises(FingerprintMismatchError, match=r"'xyz'.*'abc'"):
        FaissIndex.load(tmp_path, fingerprint="xyz")
    with pytest.raises(FingerprintMismatchError, match="queries come from 'xyz'"):
        loaded.search(SimpleNamespace(array=queries, fingerprint="xyz"), 6)
    with pytest.raises(StateError, match="kind 'faiss', not 'exact'"):
        ExactIndex.load(tmp_path)
    (tmp_path / "index.faiss").write_bytes(b"IxFI")
    with pytest.raises(StateError, match=r"index.faiss was altered"):
        FaissIndex.load(tmp_path)


def test_a_file_that_faiss_cannot_read_is_a_state_error(tmp_path, monkeypatch):
    FaissIndex().fit(np.eye(3)).save(tmp_path)
    (tmp_path / "index.faiss").write_bytes(b"IxFI")
    monkeypatch.setattr("fungi_hf.neighbors.storage._digest", _stored)
    with pytest.raises(StateError, match="holds no usable faiss index"):
        FaissIndex.load(tmp_path)


def _stored(path):
    import json

    return json.loads((path.parent / "index.json").read_text())["files"][path.name]


def test_added_rows_are_numbered_on():
    pool = clustered(300, 6)
    index = FaissIndex().add(pool[:100]).add(pool[100:])
    np.testing.assert_array_equal(index.search(pool, 1).indices[:, 0], np.arange(300))


@pytest.mark.parametrize("kind", KINDS)
def test_no_queries_get_no_neighbours(kind):
    found = FaissIndex(kind).fit(clustered(300, 6)).search(np.empty((0, 6)), 3)
    assert found.indices.shape == found.scores.shape == (0, 3)


@pytest.mark.parametrize("kind", APPROXIMATE)
@pytest.mark.parametrize("numbers", [1, 1 << 12, 1 << 24])
def test_the_answer_does_not_depend_on_how_queries_are_cut(kind, numbers, monkeypatch):
    pool, queries = clustered(2000, 6), clustered(101, 6, 1)
    exclude = {100: [1, 2], 0: [3], 50: range(20)}
    monkeypatch.setattr("fungi_hf.neighbors.faiss._NUMBERS", numbers)
    index = FaissIndex(kind).fit(pool)
    found = index.search(queries, 3, exclude=exclude)
    monkeypatch.setattr("fungi_hf.neighbors.faiss.n_threads", lambda: 3)
    again = index.search(queries, 3, exclude=exclude)
    assert np.array_equal(again.indices, found.indices)
    assert np.array_equal(again.scores, found.scores)
    assert not np.isin(found.indices[100], [1, 2]).any()
    assert not np.isin(found.indices[50], range(20)).any()


def test_a_classifier_takes_it():
    pool = clustered(200, 6)
    labels = np.arange(200) % 3
    exact = KNNClassifier(7).fit(pool, labels)
    flat = KNNClassifier(7, index=FaissIndex()).fit(pool, labels)
    np.testing.assert_array_equal(flat.leave_one_out(), exact.leave_one_out())
    assert isinstance(FaissIndex(), Index)


def test_zero_rows_warn_once():
    pool = np.eye(4)
    pool[1] = 0
    with pytest.warns(UserWarning, match="1 of 4 rows of vectors"):
        index = FaissIndex().fit(pool)
    np.testing.assert_array_equal(index.search(-pool[:1], 4).indices, [[1, 2, 3, 0]])


def test_a_missing_faiss_names_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "faiss", None)
    with pytest.raises(OptionalDependencyError, match=r"pip install 'fungi-hf\[faiss\]'"):
        FaissIndex().fit(np.eye(3))


@pytest.mark.parametrize(
    ("call", "error", "words"),
    [
        (lambda: FaissIndex("hnws"), ConfigError, "kind is 'hnws'; choose one of 'hnsw'"),
        (lambda: FaissIndex(options={"seed": 1}), ConfigError, "options is a dict"),
        (lambda: FaissOptions(n_lists=0), InputError, "n_lists must be an integer >= 1; got 0"),
        (lambda: FaissOptions(seed=1.5), InputTypeError, "seed must be an integer"),
        (lambda: FaissIndex().search(np.eye(3), 1), NotFittedError, "call fit"),
        (lambda: FaissIndex().fit(np.ones((0, 3))), InputError, "0 rows"),
        (
            lambda: FaissIndex().fit(np.eye(3)).search(np.eye(3), 4),
            InputError,
            "from 1 to 3; got 4",
        ),
        (lambda: FaissIndex().fit(np.eye(3)).search(np.eye(2), 1), ShapeError, "2 columns"),
    ],
)
def test_bad_input_says_what_is_wrong(call, error, words):
    with pytest.raises(error, match=words):
        call()
