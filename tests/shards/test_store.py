"""Shards on disk: what is silent in a careless job is noticed here, and made good."""

from __future__ import annotations

import errno
import json
import os
import warnings

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fungi_hf.errors import InputError, RunMismatchError, ShardError, StorageError
from fungi_hf.features import Failure, FungiFeatures
from fungi_hf.shards import ShardOptions, ShardStore, extract_to
from fungi_hf.shards.extract import as_source, plan_of
from fungi_hf.shards.join import join
from tests.shards.stub import LAYOUT, WIDTH, Stub, texts, vectors

OPTIONS = ShardOptions(shard_rows=10)
TEXTS = texts(47)
KINDS = ("parquet", "npy")


def job(folder, inputs=TEXTS, options=OPTIONS, extractor=None):
    return extract_to(extractor or Stub(), folder, inputs, options=options)


def store_of(folder, inputs=TEXTS, options=OPTIONS):
    extractor = Stub()
    return ShardStore(folder, plan_of(extractor, as_source(inputs, None, extractor), options))


def rows_of(folder, inputs=TEXTS, options=OPTIONS):
    store = store_of(folder, inputs, options)
    return np.concatenate([store.read(shard).array for shard in store.plan.shards()])


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_a_job_writes_every_row_once(tmp_path, kind, dtype) -> None:
    options = ShardOptions(shard_rows=10, kind=kind, dtype=dtype)
    manifest = job(tmp_path, options=options)
    assert (manifest.rows, manifest.shards, manifest.fingerprint) == (47, 5, "stub")
    names = [f"part-{k:05d}-of-00005.{kind}" for k in range(5)]
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(
        ["manifest.json", "plan.json", *names]
    )
    rows = rows_of(tmp_path, options=options)
    assert rows.dtype == dtype
    assert np.array_equal(rows, vectors(TEXTS).astype(dtype))
    extractor = Stub()
    again = job(tmp_path, options=options, extractor=extractor)
    assert extractor.calls == 0
    assert again == manifest
    assert json.loads((tmp_path / "manifest.json").read_text())["digest"] == manifest.digest


def test_the_digest_is_of_the_vectors(tmp_path) -> None:
    one, two = job(tmp_path / "a"), job(tmp_path / "b")
    assert one == two
    other = job(tmp_path / "c", texts(47, seed=1))
    assert other.digest != one.digest


def damage(path, how, seed=0):
    data = path.read_bytes()
    generator = np.random.default_rng(seed)
    if how == "removed":
        path.unlink()
    elif how == "truncated":
        path.write_bytes(data[: generator.integers(1, len(data))])
    elif how == "emptied":
        path.write_bytes(b"")
    else:
        place = generator.integers(len(data))
        flipped = bytes([data[place] ^ (1 << generator.integers(8))])
        path.write_bytes(data[:place] + flipped + data[place + 1 :])


@pytest.mark.filterwarnings("ignore:.*is not valid:UserWarning")
@settings(
    max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    kind=st.sampled_from(KINDS),
    harm=st.dictionaries(
        st.integers(0, 4), st.sampled_from(["removed", "truncated", "emptied", "flipped"])
    ),
    seed=st.integers(0, 10_000),
)
def test_any_harm_to_any_shards_ends_with_the_same_digest(
    tmp_path_factory, kind, harm, seed
) -> None:
    folder = tmp_path_factory.mktemp("harm")
    options = ShardOptions(shard_rows=10, kind=kind)
    whole = job(folder, options=options)
    for number, how in harm.items():
        damage(folder / f"part-{number:05d}-of-00005.{kind}", how, seed + number)
    again = job(folder, options=options)
    assert again.digest == whole.digest
    assert np.array_equal(rows_of(folder, options=options), vectors(TEXTS))


def test_d2_a_shard_with_too_few_rows_is_computed_again(tmp_path) -> None:
    job(tmp_path, options=ShardOptions(shard_rows=10, kind="npy"))
    np.save(tmp_path / "part-00001-of-00005.npy", vectors(TEXTS[10:15]))
    with pytest.warns(UserWarning, match=r"part-00001-of-00005.npy is not valid .*computed again"):
        job(tmp_path, options=ShardOptions(shard_rows=10, kind="npy"))
    found = rows_of(tmp_path, options=ShardOptions(shard_rows=10, kind="npy"))
    assert np.array_equal(found, vectors(TEXTS))


def test_d4_shards_without_a_plan_are_refused(tmp_path) -> None:
    job(tmp_path)
    (tmp_path / "plan.json").unlink()
    with pytest.raises(RunMismatchError, match=r"has shards and no plan.json"):
        job(tmp_path, texts(47, seed=1))


def test_d6_half_a_plan_is_refused(tmp_path) -> None:
    job(tmp_path)
    (tmp_path / "plan.json").write_text('{"fing')
    with pytest.raises(RunMismatchError, match=r"the plan is damaged .*remove the folder"):
        job(tmp_path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"inputs": texts(47, seed=2)}, "belongs to other inputs"),
        ({"inputs": texts(48)}, "belongs to another n_rows"),
        ({"options": ShardOptions(shard_rows=9)}, "belongs to another shard_rows"),
        ({"options": ShardOptions(shard_rows=10, dtype="float16")}, "another dtype"),
        ({"options": ShardOptions(shard_rows=10, kind="npy")}, "another kind"),
        ({"extractor": Stub("other")}, "belongs to another extractor"),
        (
            {"options": ShardOptions(shard_rows=10, prompt_name="query")},
            "belongs to another prompt",
        ),
    ],
)
def test_a_folder_of_another_job_is_refused_before_work(tmp_path, change, message) -> None:
    job(tmp_path)
    with pytest.raises(RunMismatchError, match=message):
        job(tmp_path, **change)


def test_d7_errors_name_the_row_of_the_whole_input(tmp_path) -> None:
    given = [*TEXTS]
    given[33] = "bad"
    with pytest.raises(InputError, match="input 33 is bad"):
        job(tmp_path, given)
    assert len(list(tmp_path.glob("part-*"))) == 3  # what was finished stays


@pytest.mark.parametrize("kind", KINDS)
def test_d8_bad_inputs_are_left_out_and_listed(tmp_path, kind) -> None:
    given = [*TEXTS]
    given[3] = given[33] = "bad"
    options = ShardOptions(shard_rows=10, on_error="skip", kind=kind)
    manifest = job(tmp_path, given, options)
    assert [one.index for one in manifest.failures] == [3, 33]
    lines = (tmp_path / "failures.jsonl").read_text().splitlines()
    assert json.loads(lines[1]) == {"index": 33, "source": "'bad'", "error": "input 33 is bad"}
    rows = rows_of(tmp_path, given, options)
    kept = np.setdiff1d(np.arange(47), [3, 33])
    assert np.isnan(rows[[3, 33]]).all()
    assert np.array_equal(rows[kept], vectors([given[i] for i in kept]))


def test_d9_notes_are_summed_over_shards(tmp_path) -> None:
    given = [f"odd {i}" if i % 10 == 0 else text for i, text in enumerate(TEXTS)]
    assert job(tmp_path, given).notes == {"odd": 5}


@pytest.mark.parametrize("at", ["write", "join"])
def test_d10_and_d11_a_full_disk_is_explained_and_leaves_no_rubbish(
    tmp_path, monkeypatch, at
) -> None:
    if at == "join":
        job(tmp_path / "f")

    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        if at == "write":
            with pytest.raises(StorageError, match=r"disk is full: .* needs [\d,]+ bytes"):
                job(tmp_path / "f")
        else:
            usage = type("Usage", (), {"free": 10})()
            patch.setattr("shutil.disk_usage", lambda _: usage)
            with pytest.raises(StorageError, match=r"needs 1,128 bytes and 10 are free"):
                join(store_of(tmp_path / "f"), tmp_path / "out.npy")
    left = [path.name for path in tmp_path.rglob("*") if "tmp" in path.name or "out" in path.name]
    assert left == []
    assert job(tmp_path / "f").rows == 47


@pytest.mark.parametrize("suffix", [".npy", ".parquet", ".safetensors"])
@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_d12_shards_are_joined_one_by_one(tmp_path, suffix, dtype) -> None:
    options = ShardOptions(shard_rows=10, dtype=dtype)
    job(tmp_path / "f", options=options)
    out = tmp_path / f"out{suffix}"
    join(store_of(tmp_path / "f", options=options), out)
    expected = vectors(TEXTS).astype(dtype)
    if suffix == ".npy":
        assert np.array_equal(np.load(out), expected)
    else:
        features = FungiFeatures.load(out)
        assert np.array_equal(features.array, expected.astype(np.float32))
        assert features.layout == LAYOUT
        assert features.fingerprint == "stub"
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(["f", out.name])


def test_a_join_of_a_damaged_shard_names_it(tmp_path) -> None:
    job(tmp_path / "f")
    store = store_of(tmp_path / "f")
    damage(tmp_path / "f" / "part-00002-of-00005.parquet", "truncated")
    with pytest.raises(ShardError, match=r"part-00002-of-00005.parquet is not valid"):
        join(store, tmp_path / "out.npy")
    assert not (tmp_path / "out.npy").exists()
    with pytest.raises(StorageError, match=r"unknown kind of file '.xls'"):
        join(store, tmp_path / "out.xls")


def test_incomplete_stores_say_what_is_missing(tmp_path) -> None:
    store = store_of(tmp_path)
    with pytest.raises(ShardError, match=r"5 of 5 shards are missing, such as part-00000"):
        store.complete()
    with pytest.raises(ShardError, match=r"lacks part-00003"):
        store.read(store.plan.shard(3))
    with pytest.raises(ShardError, match=r"takes 10 rows of 6 numbers and 10 inputs; got \(9, 6\)"):
        store.write(store.plan.shard(0), vectors(TEXTS[:9]), TEXTS[:10])


def test_the_first_valid_writer_wins(tmp_path) -> None:
    one, two = store_of(tmp_path), store_of(tmp_path)
    shard = one.plan.shard(0)
    first = one.write(shard, vectors(TEXTS[:10]), TEXTS[:10])
    other = two.write(shard, vectors(TEXTS[:10]) + 1e-7, TEXTS[:10])
    assert first == other
    assert next(iter(one.missing())).number == 1


def test_a_shard_of_another_job_in_the_right_place_is_noticed(tmp_path) -> None:
    job(tmp_path / "a")
    job(tmp_path / "b", texts(47, seed=1))
    name = "part-00001-of-00005.parquet"
    (tmp_path / "a" / name).write_bytes((tmp_path / "b" / name).read_bytes())
    with pytest.warns(UserWarning, match=r"its inputs differs"):
        job(tmp_path / "a")
    assert np.array_equal(rows_of(tmp_path / "a"), vectors(TEXTS))


def test_failures_are_part_of_the_digest(tmp_path) -> None:
    store = store_of(tmp_path)
    shard = store.plan.shard(0)
    failure = Failure(index=2, source="s", error="e")
    rows = vectors(TEXTS[:10])
    digest = store.write(shard, np.delete(rows, 2, axis=0), TEXTS[:10], [failure])
    assert store.read(shard).failures == (failure,)
    other = store_of(tmp_path / "other").write(shard, rows, TEXTS[:10])
    assert digest != other


def test_an_object_store(tmp_path) -> None:
    url = f"file://{tmp_path}/bucket"
    manifest = job(url)
    assert job(tmp_path / "local").digest == manifest.digest
    (tmp_path / "bucket" / "part-00003-of-00005.parquet").unlink()
    extractor = Stub()
    assert job(url, extractor=extractor).digest == manifest.digest
    assert extractor.calls == 1
    with pytest.raises(StorageError, match=r"nowhere://x cannot be opened"):
        job("nowhere://x")


def test_wrong_options(tmp_path) -> None:
    for wrong in ({"shard_rows": 0}, {"on_error": "ignore"}, {"dtype": "int8"}, {"kind": "csv"},
                  {"batch_size": 0}):  # fmt: skip
        with pytest.raises(ValueError, match=next(iter(wrong))):
            ShardOptions(**wrong)
    with pytest.raises(InputError, match="there are no inputs"):
        job(tmp_path, [])
    with pytest.raises(InputError, match="column='text' is of a file"):
        extract_to(Stub(), tmp_path, TEXTS, column="text")
    assert WIDTH == 6


def test_nothing_is_said_of_a_job_that_is_well(tmp_path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        job(tmp_path)
        job(tmp_path)
