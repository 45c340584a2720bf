"""Codes propose, vectors decide: against exact search, in files and parts, resumed and damaged."""

from __future__ import annotations

import json
from dataclasses import replace

import faiss
import numpy as np
import pytest

from fungi_hf.errors import ConfigError, InputError, RunMismatchError, StorageError
from fungi_hf.neighbors import ExactIndex, FaissIndex, FaissOptions, ShardedVectors, codes
from fungi_hf.neighbors.base import METRICS
from tests.neighbors.test_faiss import clustered
from tests.neighbors.test_sharded import saved

NARROW = FaissOptions(n_probes=2, n_codes=3, rerank=1)  # shows every difference of codes


@pytest.fixture
def small_parts(monkeypatch):
    monkeypatch.setattr("fungi_hf.neighbors.codes.PART_ROWS", 300)
    monkeypatch.setattr("fungi_hf.neighbors.vectors._BLOCK_NUMBERS", 1000)


def contents(index):
    return bytes(faiss.serialize_index(index._faiss))


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize(("n", "width"), [(500, 7), (1000, 100), (3000, 33)])
@pytest.mark.parametrize("dtype", ["float16", "float64"])
def test_scores_of_what_is_found_are_the_exact_ones(n, width, dtype, metric, capfd):
    pool, queries = clustered(n, width).astype(dtype), clustered(60, width, 1)
    found = FaissIndex("ivfpq", metric).fit(pool).search(queries, 10)
    exact = ExactIndex(metric).fit(pool).search(queries, 10)
    hits = found.indices[:, :, None] == exact.indices[:, None]
    assert hits.any(1).mean() >= 0.95
    both, place = hits.any(2), hits.argmax(2)
    wanted = np.take_along_axis(exact.scores, place, 1)
    assert np.array_equal(found.scores[both], wanted[both])
    assert np.array_equal(found.exact.astype(np.float32), found.scores)
    assert capfd.readouterr() == ("", "")  # faiss has no advice on so few rows


@pytest.mark.parametrize("metric", METRICS)
def test_candidates_that_are_all_rows_give_the_exact_answer(metric):
    pool, queries = clustered(400, 9), clustered(20, 9, 1)
    pool[50:80] = pool[7]  # ties
    exclude = {3: [7, 8], 4: range(400)}
    exact = ExactIndex(metric).fit(pool).search(queries, 5, exclude=exclude)
    for options in (FaissOptions(rerank=80), FaissOptions(rerank=79, n_probes=400)):
        index = FaissIndex("ivfpq", metric, options).fit(pool)
        found = index.search(queries, 5, exclude=exclude)
        assert np.array_equal(found.indices, exact.indices)
        assert np.array_equal(found.scores, exact.scores)


def test_turning_finds_more_where_spread_is_uneven():
    rng = np.random.default_rng(0)
    pool = rng.standard_normal((4000, 64)) * (np.arange(64) + 1) ** -1.0
    queries = rng.standard_normal((100, 64)) * (np.arange(64) + 1) ** -1.0
    exact = ExactIndex().fit(pool).search(queries, 10).indices
    found = {}
    for rotate in (True, False):
        options = FaissOptions(n_codes=4, rerank=2, rotate=rotate, n_probes=64)
        indices = FaissIndex("ivfpq", options=options).fit(pool).search(queries, 10).indices
        found[rotate] = np.mean([np.isin(a, b).mean() for a, b in zip(exact, indices, strict=True)])
    assert found[True] > found[False] + 0.03


@pytest.mark.parametrize("metric", METRICS)
def test_files_resumed_builds_and_one_array_give_the_same_index(
    metric, small_parts, tmp_path, monkeypatch
):
    pool, queries = clustered(1000, 10).astype("f2"), clustered(50, 10, 1)
    whole = FaissIndex("ivfpq", metric, NARROW).fit(pool)
    files = ShardedVectors(saved(tmp_path, pool, [1, 400, 401, 950]))
    folder = tmp_path / "build"
    kept = FaissIndex("ivfpq", metric, NARROW).fit(files, build_folder=folder)
    assert contents(kept) == contents(whole)
    names = sorted(path.name for path in folder.iterdir())
    assert names == [
        "build.json",
        *[f"part-0000{part}-of-00004.codes" for part in range(4)],
        "trained.faiss",
    ]
    for name in names[2:4]:
        (folder / name).unlink()
    monkeypatch.setattr("fungi_hf.neighbors.codes._train", None)  # what is there is not made again
    times = {name: (folder / name).stat().st_mtime_ns for name in [*names[:2], *names[4:]]}
    resumed = FaissIndex("ivfpq", metric, NARROW).fit(pool, build_folder=folder)
    assert contents(resumed) == contents(whole)
    assert times == {name: (folder / name).stat().st_mtime_ns for name in times}
    assert np.array_equal(resumed.search(queries, 5).indices, kept.search(queries, 5).indices)


def test_a_build_that_is_stopped_goes_on(small_parts, tmp_path, monkeypatch):
    pool = clustered(1000, 10)
    whole = FaissIndex("ivfpq").fit(pool)
    index = FaissIndex("ivfpq").fit(pool[:20])
    calls, whole_code = [], codes._code

    def code(index, rows, some):
        calls.append(some)
        if len(calls) == 5:
            raise KeyboardInterrupt
        return whole_code(index, rows, some)

    with monkeypatch.context() as patch:
        patch.setattr("fungi_hf.neighbors.codes._code", code)
        with pytest.raises(KeyboardInterrupt):
            index.fit(pool, build_folder=tmp_path)
    assert len(index) == 20  # as before
    assert len(list(tmp_path.glob("*.codes"))) == 1
    assert contents(index.fit(pool, build_folder=tmp_path)) == contents(whole)


@pytest.mark.parametrize("name", ["trained.faiss", "part-00002-of-00004.codes"])
@pytest.mark.parametrize("data", [b"", b"short", "flip"])
def test_damaged_parts_are_computed_again(name, data, small_parts, tmp_path):
    pool = clustered(1000, 10)
    whole = contents(FaissIndex("ivfpq").fit(pool, build_folder=tmp_path))
    good = (tmp_path / name).read_bytes()
    bad = good[:50] + bytes([good[50] ^ 1]) + good[51:] if data == "flip" else data
    (tmp_path / name).write_bytes(bad)
    with pytest.warns(UserWarning, match=f"{name} is damaged; it is computed again"):
        again = FaissIndex("ivfpq").fit(pool, build_folder=tmp_path)
    assert contents(again) == whole
    assert (tmp_path / name).read_bytes() == good


def test_parts_of_another_place_are_not_taken(small_parts, tmp_path):
    FaissIndex("ivfpq").fit(clustered(1000, 10), build_folder=tmp_path)
    one, two = (tmp_path / f"part-0000{part}-of-00004.codes" for part in (0, 1))
    one.write_bytes(two.read_bytes())
    with pytest.warns(UserWarning, match="part-00000-of-00004"):
        FaissIndex("ivfpq").fit(clustered(1000, 10), build_folder=tmp_path)


def test_a_folder_of_another_build_is_refused(tmp_path):
    pool = clustered(500, 10)
    FaissIndex("ivfpq").fit(pool, build_folder=tmp_path)
    cases = [
        (FaissIndex("ivfpq"), -pool, "other vectors"),
        (FaissIndex("ivfpq"), pool[:499], "another n_lists|another n_rows"),
        (FaissIndex("ivfpq"), pool.astype("f8"), "another dtype"),
        (FaissIndex("ivfpq", "dot"), pool, r"another metric \('cosine', here 'dot'\)"),
        (FaissIndex("ivfpq", options=FaissOptions(n_codes=4)), pool, "another n_codes"),
        (FaissIndex("ivfpq", options=FaissOptions(rotate=False)), pool, "another rotate"),
        (FaissIndex("ivfpq", options=FaissOptions(seed=1)), pool, "another seed"),
    ]
    for index, vectors, words in cases:
        with pytest.raises(RunMismatchError, match=words):
            index.fit(vectors, build_folder=tmp_path)
    FaissIndex("ivfpq", options=FaissOptions(rerank=3)).fit(pool, build_folder=tmp_path)
    (tmp_path / "build.json").write_text("{")
    with pytest.raises(RunMismatchError, match=r"build\.json cannot be read"):
        FaissIndex("ivfpq").fit(pool, build_folder=tmp_path)
    (tmp_path / "build.json").unlink()
    with pytest.raises(RunMismatchError, match=r"parts and no build\.json"):
        FaissIndex("ivfpq").fit(pool, build_folder=tmp_path)
    with pytest.raises(StorageError, match="cannot be used"):
        FaissIndex("ivfpq").fit(pool, build_folder=next(tmp_path.glob("*.codes")))


def test_files_that_go_missing_are_named(tmp_path):
    paths = saved(tmp_path, clustered(900, 10), [300, 600])
    files = ShardedVectors(paths)
    index = FaissIndex("ivfpq").fit(files)
    paths[1].rename(tmp_path / "away")
    for call in (
        lambda: FaissIndex("ivfpq").fit(files, build_folder=tmp_path / "build"),
        lambda: index.search(clustered(60, 10, 1), 10),
    ):
        with pytest.raises(StorageError, match=r"001\.npy was removed since it was opened"):
            call()


def test_a_saved_index_leaves_vectors_in_their_files(tmp_path):
    paths = saved(tmp_path, clustered(900, 10).astype("f2"), [300, 600])
    options = replace(NARROW, rotate=False, seed=3)
    index = FaissIndex("ivfpq", "dot", options).fit(ShardedVectors(paths))
    index.save(tmp_path / "index")
    assert sorted(path.name for path in (tmp_path / "index").iterdir()) == [
        "index.faiss",
        "index.json",
    ]
    loaded = FaissIndex.load(tmp_path / "index")
    queries = clustered(40, 10, 1)
    one, other = index.search(queries, 4), loaded.search(queries, 4)
    assert np.array_equal(one.indices, other.indices)
    assert np.array_equal(one.scores, other.scores)
    assert loaded.options == options
    record = json.loads((tmp_path / "index" / "index.json").read_text())
    del record["options"]["rerank"]  # an index of before there was such an option
    (tmp_path / "index" / "index.json").write_text(json.dumps(record))
    assert FaissIndex.load(tmp_path / "index").options == replace(options, rerank=10)


@pytest.mark.parametrize(
    ("call", "error", "words"),
    [
        (lambda: FaissIndex("ivfpq").fit(np.eye(15)), ConfigError, "at least 16 rows; got 15"),
        (
            lambda: FaissIndex("ivfpq", options=FaissOptions(n_codes=11)).fit(np.eye(20)),
            ConfigError,
            "n_codes is 11; vectors of 20 columns take from 1 to 10",
        ),
        (lambda: FaissOptions(rotate=1), ConfigError, "rotate must be True or False"),
        (lambda: FaissOptions(rerank=0), InputError, "rerank must be an integer >= 1"),
        (
            lambda: FaissIndex("hnsw").fit(np.eye(20), build_folder="x"),
            ConfigError,
            "'hnsw' is not built in parts",
        ),
    ],
)
def test_bad_input_says_what_is_wrong(call, error, words):
    with pytest.raises(error, match=words):
        call()


@pytest.mark.parametrize(("width", "n_codes"), [(3, 2), (5, None), (10, 3), (64, 3), (97, None)])
def test_codes_need_not_divide_the_width(width, n_codes):
    pool = clustered(300, width)
    options = FaissOptions(n_codes=n_codes, rerank=3, n_probes=300)
    found = FaissIndex("ivfpq", "euclidean", options).fit(pool).search(pool, 1)
    assert (found.indices[:, 0] == np.arange(300)).mean() > 0.9


@pytest.mark.parametrize(("n", "cells", "probes"), [(10**4, 100, 32), (10**7, 3162, 263)])
def test_numbers_that_follow_from_the_size(n, cells, probes):
    options = FaissOptions()
    assert (options.cells(n), options.probes(cells, are_coded=True)) == (cells, probes)
    assert options.code_bytes(768) == 64
