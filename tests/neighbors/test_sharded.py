"""Vectors in files: searched as the one array, merged as one search, and what is wrong named."""

from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fungi_hf.errors import (
    FeatureError,
    FingerprintMismatchError,
    InputError,
    ShapeError,
    StateError,
    StorageError,
)
from fungi_hf.features import FungiFeatures
from fungi_hf.neighbors import ExactIndex, FaissIndex, KNNClassifier, Neighbors, ShardedVectors
from fungi_hf.shards import ShardOptions, extract_to
from tests.shards.stub import Stub, texts, vectors

QUICK = settings(
    max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


def saved(folder, array, cuts):
    paths = []
    for number, part in enumerate(np.split(array, cuts)):
        paths.append(folder / f"{number:03d}.npy")
        np.save(paths[-1], part)
    return paths


@QUICK
@given(
    n=st.integers(1, 60),
    width=st.integers(1, 9),
    cuts=st.lists(st.integers(0, 60), max_size=5),
    dtype=st.sampled_from(["float16", "float32", "float64"]),
    metric=st.sampled_from(["cosine", "dot", "euclidean"]),
    k=st.integers(1, 12),
    repeats=st.booleans(),
    seed=st.integers(0, 999),
)
@pytest.mark.filterwarnings("ignore:.*are all zeros:UserWarning")
def test_files_are_searched_as_the_whole(
    tmp_path_factory, n, width, cuts, dtype, metric, k, repeats, seed
) -> None:
    generator = np.random.default_rng(seed)
    array = generator.standard_normal((n, width)).astype(dtype)
    if repeats:
        array[generator.integers(n, size=n // 2)] = array[0]
    queries = generator.standard_normal((7, width)).astype(np.float32)
    k = min(k, n)
    cuts = sorted(cut for cut in cuts if cut <= n)
    sharded = ShardedVectors(saved(tmp_path_factory.mktemp("v"), array, cuts))
    assert sharded.shape == (n, width)
    assert np.array_equal(sharded[:], array)
    picked = generator.integers(n, size=5)
    assert np.array_equal(sharded[picked], array[picked])
    whole = ExactIndex(metric).fit(array).search(queries, k)
    found = ExactIndex(metric).fit(sharded).search(queries, k)
    assert np.array_equal(found.indices, whole.indices)
    assert np.array_equal(found.scores, whole.scores)


@QUICK
@given(
    n=st.integers(1, 3000),
    cuts=st.lists(st.integers(1, 2999), max_size=4, unique=True),
    metric=st.sampled_from(["cosine", "dot"]),
    k=st.integers(1, 9),
    seed=st.integers(0, 999),
)
def test_merged_answers_are_those_of_one_search(n, cuts, metric, k, seed) -> None:
    generator = np.random.default_rng(seed)
    array = generator.integers(-3, 4, (n, 5)).astype(np.float32)  # many equal scores
    array[~array.any(1)] = 1
    queries = generator.integers(1, 4, (6, 5)).astype(np.float32)
    firsts = [0, *sorted(cut for cut in cuts if cut < n)]
    pools = np.split(array, firsts[1:])
    k = min(k, n)
    whole = ExactIndex(metric).fit(array).search(queries, k)
    parts = [ExactIndex(metric).fit(p).search(queries, min(k, len(p))) for p in pools]
    merged = Neighbors.merge(parts, firsts, k)
    assert np.array_equal(merged.indices, whole.indices)
    assert np.array_equal(merged.scores, whole.scores)


def test_exclusions_stay_at_the_end_of_a_merge() -> None:
    one = ExactIndex("dot").fit([[1.0], [2.0]]).search([[1.0]], 2, exclude={0: [0]})
    two = ExactIndex("dot").fit([[1.5], [0.5]]).search([[1.0]], 2)
    merged = Neighbors.merge([one, two], [0, 2], 4)
    assert merged.indices.tolist() == [[1, 2, 3, -1]]


def test_a_merge_that_is_wrong() -> None:
    one = ExactIndex("dot").fit([[1.0], [2.0]]).search([[1.0]], 2)
    with pytest.raises(InputError, match="one first row a part, in rising order"):
        Neighbors.merge([one, one], [2, 0], 1)
    with pytest.raises(InputError, match="got 0 parts"):
        Neighbors.merge([], [], 1)
    with pytest.raises(ShapeError, match="different queries or metrics"):
        Neighbors.merge([one, ExactIndex("cosine").fit([[1.0]]).search([[1.0]], 1)], [0, 2], 1)


def test_shards_that_extract_wrote(tmp_path) -> None:
    given = texts(47)
    extract_to(Stub(), tmp_path, given, options=ShardOptions(shard_rows=10, kind="npy"))
    pool = ShardedVectors.of_folder(tmp_path)
    assert pool.fingerprint == "stub"
    index = ExactIndex().fit(pool)
    layout = {"embedding": slice(0, 6)}
    queries = FungiFeatures(vectors(given[5:8]), "stub", layout)
    assert index.search(queries, 1).indices[:, 0].tolist() == [5, 6, 7]
    other = FungiFeatures(vectors(given[5:8]), "other", layout)
    with pytest.raises(FingerprintMismatchError):
        index.search(other, 1)
    classifier = KNNClassifier(n_neighbors=1).fit(pool, [text[-1] for text in given])
    assert classifier.predict(queries).tolist() == ["5", "6", "7"]
    for one in (index, FaissIndex("flat").fit(pool)):
        assert one.search(queries, 1).indices[:, 0].tolist() == [5, 6, 7]
        added = one.add(FungiFeatures(vectors(["more"]), "stub", layout))
        assert len(added) == 48
    index = ExactIndex().fit(pool)
    (tmp_path / "part-00003-of-00005.npy").unlink()
    with pytest.raises(
        StorageError, match=r"lacks 1 of 5 shards, such as part-00003-of-00005\.npy"
    ):
        ShardedVectors.of_folder(tmp_path)


@pytest.mark.parametrize("kind", [ExactIndex, FaissIndex])
def test_a_saved_index_leaves_vectors_in_their_files(kind, tmp_path) -> None:
    generator = np.random.default_rng(0)
    array = generator.standard_normal((50, 6)).astype(np.float16)
    (tmp_path / "vectors").mkdir()
    paths = saved(tmp_path / "vectors", array, [20, 20, 45])
    index = kind().fit(ShardedVectors([*paths, paths[0]]), fingerprint="abc")
    index.save(tmp_path / "index")
    assert not list((tmp_path / "index").glob("*.npy"))
    (tmp_path / "index").rename(tmp_path / "moved")
    loaded = kind.load(tmp_path / "moved", fingerprint="abc")
    queries = generator.standard_normal((7, 6))
    whole = ExactIndex().fit(np.concatenate([array, array[:20]])).search(queries, 5)
    found = loaded.search(queries, 5)
    assert np.array_equal(found.indices, whole.indices)
    assert np.array_equal(found.scores, whole.scores)
    assert isinstance(loaded.pool.rows.array, ShardedVectors)
    loaded.save(tmp_path / "index")  # again, from where it was loaded
    (tmp_path / "moved" / "index.json").unlink()
    data = paths[1].read_bytes()
    paths[2].write_bytes(paths[2].read_bytes()[:-1] + b"?")
    with pytest.raises(StateError, match=r"002\.npy was altered"):
        kind.load(tmp_path / "index")
    paths[1].unlink()
    with pytest.raises(StorageError, match=r"lacks \.\./vectors/001\.npy, which its index\.json"):
        kind.load(tmp_path / "index")
    paths[1].write_bytes(data)
    record = json.loads((tmp_path / "index" / "index.json").read_text())
    (tmp_path / "index" / "index.json").write_text(json.dumps(record | {"vectors": [1]}))
    with pytest.raises(StateError, match="does not list"):
        kind.load(tmp_path / "index")


def test_rows_of_inputs_that_were_left_out_are_named(tmp_path) -> None:
    given = texts(12)
    given[7] = "bad"
    options = ShardOptions(shard_rows=5, kind="npy", on_error="skip")
    extract_to(Stub(), tmp_path, given, options=options)
    with pytest.raises(FeatureError, match=r"1 of 12 rows with NaN.*rows 7"):
        ExactIndex().fit(ShardedVectors.of_folder(tmp_path))


def test_files_that_are_wrong_are_named(tmp_path) -> None:
    good = np.zeros((4, 3), np.float32)
    (path,) = saved(tmp_path, good, [])
    cases = {
        "cut.npy": path.read_bytes()[:-5],
        "empty.npy": b"",
        "text.npy": b"no numbers",
    }
    for name, data in cases.items():
        (tmp_path / name).write_bytes(data)
        with pytest.raises(StorageError, match=name):
            ShardedVectors([path, tmp_path / name])
    others = {"wide.npy": np.zeros((4, 4), np.float32), "half.npy": good.astype(np.float16)}
    for name, array in others.items():
        np.save(tmp_path / name, array)
        with pytest.raises(ShapeError, match=f"{name} holds"):
            ShardedVectors([path, tmp_path / name])
    np.save(tmp_path / "flat.npy", np.zeros(4))
    with pytest.raises(StorageError, match=r"float64 of shape \(4,\); it must be \[N, F\]"):
        ShardedVectors([tmp_path / "flat.npy"])
    np.save(tmp_path / "whole.npy", np.zeros((2, 2), np.int64))
    with pytest.raises(StorageError, match="int64"):
        ShardedVectors([tmp_path / "whole.npy"])
    with pytest.raises(StorageError, match="there is no file"):
        ShardedVectors([tmp_path / "missing.npy"])
    with pytest.raises(InputError, match="no files of vectors"):
        ShardedVectors([])
    (tmp_path / "sub").mkdir()
    with pytest.raises(StorageError, match=r"holds no \.npy files"):
        ShardedVectors.of_folder(tmp_path / "sub")
    (tmp_path / "sub" / "x.parquet").touch()
    with pytest.raises(StorageError, match="extract with --format npy"):
        ShardedVectors.of_folder(tmp_path / "sub")
    sharded = ShardedVectors([path])
    path.write_bytes(path.read_bytes()[:-5])
    with pytest.raises(StorageError, match="was cut since it was opened"):
        sharded[:]
    with pytest.raises(StorageError, match="was cut since it was opened"):
        sharded[[0, 3]]
    path.unlink()
    with pytest.raises(StorageError, match=r"000\.npy was removed since it was opened"):
        sharded[[0, 3]]


def test_files_of_different_features(tmp_path) -> None:
    for name in ("a", "b"):
        how = ShardOptions(shard_rows=5, kind="npy")
        extract_to(Stub(name), tmp_path / name, texts(5), options=how)
    paths = [next((tmp_path / name).glob("*.npy")) for name in ("a", "b")]
    with pytest.raises(FingerprintMismatchError, match="holds features b, expected a"):
        ShardedVectors(paths)
    with pytest.raises(FingerprintMismatchError, match="holds features a, expected c"):
        ShardedVectors(paths[:1], fingerprint="c")
    assert json.loads((tmp_path / "a" / "manifest.json").read_text())["fingerprint"] == "a"
