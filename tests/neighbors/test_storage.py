from __future__ import annotations

import json
from types import SimpleNamespace

import numpy as np
import pytest

from fungi_hf.errors import FingerprintMismatchError, StateError, StorageError
from fungi_hf.neighbors import ExactIndex


@pytest.fixture
def saved(tmp_path):
    rng = np.random.default_rng(0)
    rows = SimpleNamespace(array=rng.standard_normal((40, 6)).astype("f4"), fingerprint="abc")
    index = ExactIndex("euclidean").fit(rows)
    index.save(tmp_path / "index")
    return index, tmp_path / "index"


@pytest.mark.parametrize("mmap", [False, True])
def test_a_loaded_index_answers_as_the_saved_one(saved, mmap):
    index, folder = saved
    loaded = ExactIndex.load(folder, mmap=mmap)
    queries = np.random.default_rng(1).standard_normal((9, 6))
    one, other = index.search(queries, 5), loaded.search(queries, 5)
    np.testing.assert_array_equal(one.indices, other.indices)
    np.testing.assert_array_equal(one.scores, other.scores)
    assert loaded.metric == "euclidean"
    assert loaded.fingerprint == "abc"
    assert isinstance(loaded.pool.rows.array.base, np.memmap) is mmap


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
@pytest.mark.parametrize("order", ["C", "F"])
def test_dtype_and_values_survive(tmp_path, dtype, order):
    rows = np.array(np.random.default_rng(0).standard_normal((7, 3)), dtype, order=order)
    ExactIndex().fit(rows).save(tmp_path)
    loaded = ExactIndex.load(tmp_path).pool.rows.array
    assert loaded.dtype == dtype
    np.testing.assert_array_equal(loaded, rows)


def test_a_mapped_index_can_be_saved_over_itself(saved):
    index, folder = saved
    ExactIndex.load(folder, mmap=True).save(folder)
    np.testing.assert_array_equal(ExactIndex.load(folder).pool.rows.array, index.pool.rows.array)


def test_vectors_with_another_fingerprint_are_refused(saved):
    _, folder = saved
    assert len(ExactIndex.load(folder, fingerprint="abc")) == 40
    with pytest.raises(FingerprintMismatchError, match=r"'xyz'.*'abc'"):
        ExactIndex.load(folder, fingerprint="xyz")
    with pytest.raises(FingerprintMismatchError, match="queries come from 'xyz'"):
        ExactIndex.load(folder).search(
            SimpleNamespace(array=np.ones((1, 6), "f4"), fingerprint="xyz"), 1
        )


def edit(folder, **changes):
    path = folder / "index.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def flip(folder):
    path = folder / "vectors.npy"
    data = bytearray(path.read_bytes())
    data[-3] ^= 1
    path.write_bytes(bytes(data))


@pytest.mark.parametrize(
    ("damage", "error", "words"),
    [
        (flip, StateError, "vectors.npy was altered: its sha256"),
        (lambda f: (f / "vectors.npy").write_bytes(b""), StateError, "altered"),
        (lambda f: (f / "vectors.npy").unlink(), StorageError, "lacks vectors.npy"),
        (lambda f: (f / "index.json").unlink(), StorageError, "not a saved index"),
        (lambda f: (f / "index.json").write_text("{"), StateError, "is not JSON"),
        (lambda f: (f / "index.json").write_bytes(b"\xff\xfe"), StorageError, "cannot be read"),
        (lambda f: (f / "index.json").write_text("[]"), StateError, "does not describe an index"),
        (lambda f: edit(f, version=99), StateError, "version 99; this package reads 1"),
        (lambda f: edit(f, kind="faiss"), StateError, "kind 'faiss', not 'exact'"),
        (lambda f: edit(f, metric="foo"), StateError, "incomplete.*'foo'"),
        (lambda f: edit(f, files={}), StateError, "does not list vectors.npy"),
        (lambda f: edit(f, files={"../x": "", "vectors.npy": ""}), StateError, "does not list"),
        (lambda f: edit(f, n_rows=41), StateError, r"shape \(40, 6\).*says \(41, 6\)"),
    ],
)
def test_a_damaged_folder_is_refused(saved, damage, error, words):
    _, folder = saved
    damage(folder)
    with pytest.raises(error, match=words):
        ExactIndex.load(folder)


def test_an_unwritable_place_is_a_storage_error(saved, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError, match="cannot be written"):
        saved[0].save(tmp_path / "file" / "index")


def test_a_missing_folder_is_a_storage_error(tmp_path):
    with pytest.raises(StorageError, match="not a saved index"):
        ExactIndex.load(tmp_path / "nowhere")
