"""Saved banks: read as they were, or refused with the reason."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from fungi_hf.errors import FingerprintMismatchError, StateError, StorageError
from fungi_hf.evaluation.segmentation import MemoryBank, SegmentationProtocol
from fungi_hf.evaluation.segmentation.files import _digest
from tests.evaluation.segmentation import scenes

RULE = SegmentationProtocol(name="mine", n_neighbors=3, bank_rows=30, ignore=(255, -1), seed=7)
WIDTHS = {"tokens": 3, "dense_infonce": 5}


def small_bank(dtype="float32", seed=0):
    rng = np.random.default_rng(seed)
    pairs = [
        (scenes.noise(rng, (4, 4), widths=WIDTHS), scenes.blocky(rng, (4, 4), 2)) for _ in range(3)
    ]
    rule = replace(RULE, key_dtype=dtype)
    return MemoryBank.build(pairs, n_classes=5, protocol=rule), pairs[0][0]


@pytest.mark.parametrize("mmap", [False, True])
@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_a_bank_votes_as_before(tmp_path, mmap, dtype):
    bank, query = small_bank(dtype)
    bank.save(tmp_path / "new" / "folder")
    again = MemoryBank.load(tmp_path / "new" / "folder", mmap=mmap, fingerprint="one")
    assert isinstance(again.keys, np.memmap) == isinstance(again.values, np.memmap) == mmap
    assert again.keys.dtype == dtype
    assert (again.layout, again.protocol) == (bank.layout, bank.protocol)
    assert (again.n_images, again.fingerprint, again.n_classes) == (3, "one", 5)
    np.testing.assert_array_equal(again.keys, bank.keys)
    for some in (["tokens"], None):
        wanted = bank.probabilities(query, blocks=some)
        np.testing.assert_array_equal(again.probabilities(query, blocks=some), wanted)
    assert sorted(p.name for p in (tmp_path / "new/folder").iterdir()) == [
        "bank.json", "bank.safetensors",
    ]  # fmt: skip


def test_a_mapped_bank_can_be_saved_over_itself_and_replaced(tmp_path):
    bank, query = small_bank()
    bank.save(tmp_path)
    mapped = MemoryBank.load(tmp_path, mmap=True)
    mapped.save(tmp_path)
    wanted = bank.probabilities(query)
    np.testing.assert_array_equal(mapped.probabilities(query), wanted)
    np.testing.assert_array_equal(MemoryBank.load(tmp_path).probabilities(query), wanted)
    other, _ = small_bank(seed=1)
    other.save(tmp_path)
    np.testing.assert_array_equal(MemoryBank.load(tmp_path).keys, other.keys)


def test_the_arrays_are_plain_safetensors(tmp_path):
    bank, _ = small_bank("float16")
    bank.save(tmp_path)
    arrays = load_file(tmp_path / "bank.safetensors")
    np.testing.assert_array_equal(arrays["keys"], bank.keys)
    np.testing.assert_array_equal(arrays["values"], bank.values)


def cut_arrays(folder):
    path = folder / "bank.safetensors"
    path.write_bytes(path.read_bytes()[:-5])


def flip_a_bit(folder):
    path = folder / "bank.safetensors"
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(bytes(data))


def rewrite(folder, *, sign=False, **changes):
    """Change fields of the description; with a digest that fits, where it is signed again."""
    path = folder / "bank.json"
    document = {**json.loads(path.read_text()), **changes}
    document = {name: value for name, value in document.items() if value is not None}
    if sign:
        document.pop("sha256", None)
        document["sha256"] = _digest(folder / "bank.safetensors", document)
    path.write_text(json.dumps(document))


def other_arrays(folder, **arrays):
    save_file(arrays, folder / "bank.safetensors")
    rewrite(folder, sign=True)


PROTOCOL = {"name": "x"}
DAMAGE = {
    "no description": (lambda f: (f / "bank.json").unlink(), StorageError, "is no saved bank"),
    "no arrays": (lambda f: (f / "bank.safetensors").unlink(), StorageError, "cannot be read: No"),
    "cut arrays": (cut_arrays, StateError, "was altered or cut short"),
    "flipped bit": (flip_a_bit, StateError, "was altered or cut short"),
    "empty arrays": (
        lambda f: (f / "bank.safetensors").write_bytes(b""),
        StateError,
        "was altered or cut short",
    ),
    "another origin": (lambda f: rewrite(f, fingerprint="two"), StateError, "was altered"),
    "not JSON": (lambda f: (f / "bank.json").write_text('{"a'), StateError, "is not JSON"),
    "not UTF-8": (lambda f: (f / "bank.json").write_bytes(b"\xff"), StateError, "is not JSON"),
    "a list": (lambda f: (f / "bank.json").write_text("[]"), StateError, "does not describe"),
    "another file": (lambda f: rewrite(f, format="x"), StateError, "does not describe a memory"),
    "another version": (lambda f: rewrite(f, version=2), StateError, "version 2; this package"),
    "a field less": (lambda f: rewrite(f, layout=None), StateError, "lacks layout"),
    "other shapes": (
        lambda f: rewrite(f, sign=True, shapes={"keys": [1, 8], "values": [1, 5]}),
        StateError,
        "holds .* says",
    ),
    "an array less": (
        lambda f: other_arrays(f, keys=np.ones((30, 8), "f4")),
        StateError,
        "holds .* says",
    ),
    "other numbers": (
        lambda f: other_arrays(f, keys=np.ones((30, 8)), values=np.ones((30, 5), "f4")),
        StateError,
        "no arrays of a memory bank",
    ),
    "garbage": (
        lambda f: ((f / "bank.safetensors").write_bytes(b"garbage"), rewrite(f, sign=True)),
        StateError,
        "no arrays of a memory bank",
    ),
    "odd protocol": (
        lambda f: rewrite(f, sign=True, protocol={"name": "x"}),
        StateError,
        "odd fields: bank_rows",
    ),
    "odd layout": (lambda f: rewrite(f, sign=True, layout=[["a", 3]]), StateError, "layout"),
    "layout of other columns": (
        lambda f: rewrite(f, sign=True, layout=[["a", [0, 9]]]),
        StateError,
        "layout",
    ),
}


@pytest.mark.parametrize("mmap", [False, True])
@pytest.mark.parametrize("damage", DAMAGE)
def test_damaged_banks_are_refused_with_the_reason(tmp_path, damage, mmap):
    small_bank()[0].save(tmp_path)
    act, error, words = DAMAGE[damage]
    act(tmp_path)
    with pytest.raises(error, match=words):
        MemoryBank.load(tmp_path, mmap=mmap)


def test_a_protocol_with_values_that_are_not_allowed_is_refused(tmp_path):
    small_bank()[0].save(tmp_path)
    stored = json.loads((tmp_path / "bank.json").read_text())["protocol"]
    for odd in ({"n_neighbors": 0}, {"ignore": 5}, {"seed": "a"}):
        rewrite(tmp_path, sign=True, protocol={**stored, **odd})
        with pytest.raises(StateError, match="the bank's protocol is damaged"):
            MemoryBank.load(tmp_path)


def test_other_origins_and_places_are_refused(tmp_path):
    bank, _ = small_bank()
    bank.save(tmp_path)
    with pytest.raises(FingerprintMismatchError, match="the expected features come from 'two'"):
        MemoryBank.load(tmp_path, fingerprint="two")
    with pytest.raises(StorageError, match="is no saved bank"):
        MemoryBank.load(tmp_path / "nowhere")
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError, match="cannot be written"):
        bank.save(tmp_path / "file")
