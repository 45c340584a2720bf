"""Jobs of shards on a cluster: equal to one process, whoever dies meanwhile."""

from __future__ import annotations

import json
import os
import signal
import threading
from pathlib import Path

import numpy as np
import pytest
from safetensors.torch import load_file, save_file

from fungi_hf import cli
from fungi_hf.errors import ConfigError, InputError, ShardError
from fungi_hf.features import FungiFeatures
from fungi_hf.integrations.ray import extract_files
from fungi_hf.integrations.ray.cluster import Actors, Attempts, Carried, raised
from fungi_hf.integrations.ray.files import RayPool, ShardWriter, _Job
from fungi_hf.shards import ShardOptions, ShardStore
from fungi_hf.shards.extract import as_source, plan_of
from tests.ray.programs import driver, until
from tests.tiny import TRAIN, extractor_of, saved_model

ROOT = Path(__file__).parents[2]


def close(found, wanted):
    return np.abs(found - wanted).max() < 1e-5


def actors():
    """Process ids of the actors that write shards."""
    found = []
    for place in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            name = place.read_bytes()
        except OSError:
            continue
        if name.startswith(b"ray::") and b"ShardWriter" in name:
            found.append(int(place.parent.name))
    return found


def test_an_actor_that_is_killed_takes_nothing_along(cluster, table, folder, wanted, tmp_path):
    out, failed = tmp_path / "out", []

    def work():
        try:
            extract_files(table, out, folder, workers=2, shard_rows=100)
        except Exception as error:
            failed.append(error)

    thread = threading.Thread(target=work)
    thread.start()
    until(lambda: len(list(out.glob("part-*"))) >= 2)
    os.kill(actors()[0], signal.SIGKILL)
    thread.join(240)
    assert not thread.is_alive()
    assert failed == []
    assert close(FungiFeatures.load(out).array, wanted.array)
    assert not list(out.glob("seen-*"))
    # All is there: the same call computes nothing, and needs no cluster.
    before = {path: path.stat().st_mtime_ns for path in out.iterdir()}
    manifest = extract_files(table, out, folder, workers=2, shard_rows=100)
    assert manifest.rows == 2000
    assert manifest.shards == 20
    parts = {p: p.stat().st_mtime_ns for p in out.iterdir() if p.name.startswith("part-")}
    assert parts.items() <= before.items()


def test_a_driver_that_is_killed_is_started_again(cluster, table, folder, wanted, tmp_path):
    out = tmp_path / "out"
    address = cluster.get_runtime_context().gcs_address
    process = driver("files", table, out, folder, RAY_ADDRESS=address)
    try:
        until(lambda: len(list(out.glob("part-*.parquet"))) >= 3)
    finally:
        process.kill()
        process.wait(30)
    until(lambda: not actors(), 60)
    there = {path: path.stat().st_mtime_ns for path in out.glob("part-*.parquet")}
    assert 3 <= len(there) < 20
    extract_files(table, out, folder, workers=2, shard_rows=100)
    assert {path: path.stat().st_mtime_ns for path in there} == there  # not computed again
    assert len(list(out.glob("part-*.parquet"))) == 20
    assert close(FungiFeatures.load(out).array, wanted.array)


def test_the_command_line_runs_on_ray_too(cluster, folder, tmp_path, capsys):
    path = tmp_path / "in.jsonl"
    lines = [json.dumps({"text": text}) for text in TRAIN]
    path.write_text("\n".join([*lines[:5], '{"text": "\\ud800"}', *lines[5:]]) + "\n")
    words = ["extract", str(folder), str(path), "--engine", "ray", "--workers", "2"]
    out = tmp_path / "out.parquet"
    assert cli.main([*words, "--out", str(out), "--shard-rows", "4"]) == 1
    said = capsys.readouterr().err
    assert "input 5 has a lone surrogate" in said
    skipping = ["--out", str(out), "--shard-rows", "4", "--on-error", "skip"]
    assert cli.main([*words, *skipping]) == 0
    assert "1 inputs were left out" in capsys.readouterr().err
    failed = json.loads(Path(f"{out}.failures.jsonl").read_text())
    assert failed["index"] == 5
    assert cli.main([*words, "--devices", "cuda:0", "--out", str(tmp_path / "x")]) == 1
    assert "--devices is of --engine local" in capsys.readouterr().err
    assert cli.main([*words]) == 1
    assert "need --out" in capsys.readouterr().err


def test_a_url_is_a_folder(cluster, table, folder, wanted, tmp_path):
    out = (tmp_path / "out").as_uri()
    manifest = extract_files(table.as_uri(), out, folder, workers=1, shard_rows=1000)
    assert manifest.rows == 2000
    assert close(FungiFeatures.load(tmp_path / "out").array, wanted.array)


def deadly(device):
    """An extractor that ends its process at one input."""
    extractor = extractor_of(objectives=("kl",), dtype="float32")
    check = extractor.encoder.check

    def checked(raw, index):
        if raw == "poison":
            os._exit(9)
        return check(raw, index)

    extractor.encoder.check = checked
    return extractor


def test_a_shard_that_kills_its_actors_is_listed_and_the_rest_is_done(cluster, tmp_path):
    path = tmp_path / "in.txt"
    path.write_text("\n".join([*TRAIN[:6], "poison", *TRAIN[6:]]) + "\n")
    extractor = extractor_of(objectives=("kl",), dtype="float32")
    source, options = as_source(path, None, extractor), ShardOptions(shard_rows=4)
    store = ShardStore(tmp_path / "out", plan_of(extractor, source, options))
    pool = RayPool(deadly, source, store, options, Actors(number=1))
    pool.run(list(store.missing()))
    assert pool.lost == {1: "its actor died 4 times"}
    assert [shard.number for shard in store.missing()] == [1]
    with pytest.raises(ShardError, match="1 of 4 shards are missing"):
        store.complete()


def test_a_node_with_another_version_is_refused_by_name(table, tmp_path):
    """Two nodes with a Hub cache each, in which one name means two models."""
    caches = []
    for name in ("first", "second"):
        place, commit = tmp_path / name / "models--someone--extractor", name.encode().hex()
        snapshot = place / "snapshots" / commit.ljust(40, "0")
        saved_model(snapshot)
        (place / "refs").mkdir()
        (place / "refs" / "main").write_text(snapshot.name)
        caches.append(place.parent)
    weights = load_file(snapshot / "model.safetensors")
    name = next(name for name in weights if name.endswith("query.weight"))
    save_file(
        {**weights, name: weights[name] + 0.01}, snapshot / "model.safetensors", {"format": "pt"}
    )
    process = driver("versions", table, tmp_path / "out", *caches, RAY_ADDRESS="")
    said, _ = process.communicate(timeout=240)
    assert said.startswith("FingerprintMismatchError: node "), said
    assert "give all nodes the same folder or revision" in said
    assert not list((tmp_path / "out").glob("part-*"))


def test_a_folder_that_a_node_does_not_see_is_refused(cluster, folder, table, tmp_path):
    extractor = extractor_of(objectives=("kl",), dtype="float32")
    source, options = as_source(table, "text", extractor), ShardOptions()
    plan = plan_of(extractor, source, options)
    ShardStore(tmp_path / "here", plan)
    ShardStore(tmp_path / "there", plan)  # a disk of its own, with the same plan
    job = _Job(
        carried=Carried.of(cluster, extractor),
        where=str(tmp_path / "there"),
        plan=plan,
        source=source,
        options=options,
        threads=1,
        device=None,
        attempts=None,
        token="seen-0",
    )
    (tmp_path / "here" / job.token).write_text(job.token)
    told = ShardWriter(job)({"shard": np.array([0])})
    assert told["error"] == ["StorageError"]
    assert "does not see" in told["message"][0]
    assert "shared storage" in told["message"][0]


def test_wrong_input(cluster, folder, table, tmp_path):
    with pytest.raises(ConfigError, match="nothing is left to read"):
        extract_files(table, tmp_path / "out", folder, workers=4)
    with pytest.raises(ConfigError, match="shard_row"):
        extract_files(table, tmp_path / "out", folder, shard_row=4)
    with pytest.raises(InputError, match=r"must be \.parquet files"):
        extract_files([table, "other.txt"], tmp_path / "out", folder)
    with pytest.raises(InputError, match="there is no file"):
        extract_files(tmp_path / "none.txt", tmp_path / "out", folder)


def bent(device):
    """An extractor with an error that nobody foresaw."""
    extractor = extractor_of(objectives=("kl",), dtype="float32")
    collect = extractor.collect

    def collected(inputs, *args, **kwargs):
        return {}[len(inputs)] if len(inputs) else collect(inputs, *args, **kwargs)

    extractor.collect = collected
    return extractor


def absent(device):
    raise RuntimeError(f"no model on {device}")


@pytest.mark.parametrize(("make", "words"), [(bent, "KeyError: 4"), (absent, "RuntimeError: no ")])
def test_an_error_that_nobody_foresaw_is_told_with_its_place(cluster, tmp_path, make, words):
    path = tmp_path / "in.txt"
    path.write_text("\n".join(TRAIN) + "\n")
    extractor = extractor_of(objectives=("kl",), dtype="float32")
    source, options = as_source(path, None, extractor), ShardOptions(shard_rows=4)
    plan = plan_of(extractor, source, options)
    job = _Job(
        carried=Carried.of(cluster, make),
        where=str(tmp_path),
        plan=plan,
        source=source,
        options=options,
        threads=1,
        device=None,
        attempts=Attempts.counted(cluster),
        token="seen-0",
    )
    (tmp_path / job.token).write_text(job.token)
    ((kind, said),) = told_by_an_actor(cluster, job)
    assert kind == "ShardError"
    assert said.startswith("node ")
    assert words in said
    assert type(raised(kind, said)) is ShardError
    assert type(raised("OptionalDependencyError", "it is missing")) is ShardError


def told_by_an_actor(ray, job):
    batch = {"shard": np.array([0])}
    told = ray.get(ray.remote(num_cpus=1)(lambda: ShardWriter(job)(batch)).remote())
    return list(zip(told["error"], told["message"], strict=True))


def test_attempts_are_counted_beside_the_driver_whoever_dies(cluster):
    class Counting(Attempts):
        def place(self):
            return os.getpid()

    counter = Counting.counted(cluster)
    said = [Attempts.exhausted(counter, "one") for _ in range(5)]
    assert said == [*[""] * 4, "its actor died 4 times"]
    assert Attempts.exhausted(counter, "two") == ""
    os.kill(cluster.get(counter.place.remote()), signal.SIGKILL)
    assert Attempts.exhausted(counter, "one") == ""  # from nothing, and nobody fails
