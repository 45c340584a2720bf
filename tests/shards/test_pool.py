"""Workers: the same vectors for any number of them, whoever dies, and two jobs on one folder."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from fungi_hf.errors import ConfigError, InputError, ShardError
from fungi_hf.shards import ShardOptions, ShardStore, extract_to
from fungi_hf.shards.extract import as_source, plan_of
from fungi_hf.shards.pool import Pool, Workers
from tests.shards.stub import Stub, make, texts, vectors

ROOT = str(Path(__file__).parents[2])
OPTIONS = ShardOptions(shard_rows=5)
TEXTS = texts(43)


def pool_of(folder, number, inputs=TEXTS, options=OPTIONS, make=make):
    extractor = Stub()
    source = as_source(inputs, None, extractor)
    store = ShardStore(folder, plan_of(extractor, source, options))
    return Pool(make, source, store, options, Workers(number=number, threads=1)), store


def right(store, inputs=TEXTS):
    rows = np.concatenate([store.read(shard).array for shard in store.plan.shards()])
    return np.array_equal(rows, vectors(inputs))


@pytest.mark.parametrize("numbers", [(2,), pytest.param((1, 4), marks=pytest.mark.slow)])
def test_any_number_of_workers_gives_the_same_digest(tmp_path, numbers) -> None:
    digests = {extract_to(Stub(), tmp_path / "0", TEXTS, options=OPTIONS).digest}
    for number in numbers:
        pool, store = pool_of(tmp_path / str(number), number)
        receipts = pool.run(list(store.missing()))
        assert sorted(one.shard for one in receipts) == list(range(9))
        assert sum(one.rows for one in receipts) == 43
        digests.add(store.complete().digest)
        assert right(store)
    assert len(digests) == 1


def test_a_worker_that_is_killed_gives_its_shard_back(tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("STUB_DOES", f"die-once:15:{tmp_path / 'mark'}")
    pool, store = pool_of(tmp_path / "f", 2)
    pool.run(list(store.missing()))
    assert (tmp_path / "mark").exists()
    assert pool.lost == {}
    assert store.complete().rows == 43
    assert right(store)


def test_a_shard_that_kills_its_workers_is_left_and_the_rest_is_done(tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("STUB_DOES", f"die:20:{tmp_path / 'mark'}")
    pool, store = pool_of(tmp_path / "f", 2)
    pool.run(list(store.missing()))
    assert list(pool.lost) == [4]
    assert "died twice, the last time with status -9" in pool.lost[4]
    assert [shard.number for shard in store.missing()] == [4]
    monkeypatch.delenv("STUB_DOES")
    pool, store = pool_of(tmp_path / "f", 2)
    pool.run(list(store.missing()))
    assert right(store)


def test_an_unusable_input_ends_the_job_and_keeps_what_is_done(tmp_path) -> None:
    given = [*TEXTS]
    given[22] = "bad"
    pool, store = pool_of(tmp_path / "f", 2, given)
    with pytest.raises(InputError, match="input 22 is bad"):
        pool.run(list(store.missing()))
    missing = [shard.number for shard in store.missing()]
    assert 4 in missing
    assert len(missing) < 9


def other(device):
    return Stub("other")


def broken(device):
    raise RuntimeError(f"no model on {device}")


def gone(device):
    os.kill(os.getpid(), signal.SIGKILL)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (other, "a worker's extractor has fingerprint other, the job's is stub"),
        (broken, "RuntimeError: no model on None"),
        (gone, "a worker ended with status -9 before it took a shard"),
    ],
)
def test_workers_that_cannot_begin(tmp_path, make, message) -> None:
    pool, store = pool_of(tmp_path / "f", 1, make=make)
    with pytest.raises(ShardError, match=message):
        pool.run(list(store.missing()))


def test_what_workers_may_use() -> None:
    workers = Workers(number=3, devices=("cuda:0", "cuda:1"))
    assert [workers.device(n) for n in range(3)] == ["cuda:0", "cuda:1", "cuda:0"]
    assert Workers(number=1000).each == 1
    assert Workers(number=2, threads=5).each == 5
    for wrong in ({"number": 0}, {"threads": 0}, {"number": "two"}):
        with pytest.raises(ConfigError, match=next(iter(wrong))):
            Workers(**wrong)


JOB = """
import random, sys, time
sys.path.insert(0, {root!r})
from fungi_hf.shards import ShardOptions, extract_to, places
from tests.shards.stub import Stub, texts
generator = random.Random({seed})
publish = places.LocalPlace.publish
def slow(self, name, data, *, replace=False):
    time.sleep(generator.random() / 200)
    done = publish(self, name, data, replace=replace)
    time.sleep(generator.random() / 200)
    return done
places.LocalPlace.publish = slow
manifest = extract_to(Stub(), {folder!r}, texts({n}), options=ShardOptions(shard_rows=7))
print(manifest.digest)
"""


def start(folder, seed, n=400):
    program = JOB.format(root=ROOT, folder=str(folder), seed=seed, n=n)
    return subprocess.Popen(
        [sys.executable, "-c", program], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def test_d1_two_jobs_on_one_folder(tmp_path) -> None:
    """Both read, write and rename at random moments; every row is right and nobody fails."""
    digest = extract_to(Stub(), tmp_path / "alone", texts(400), options=ShardOptions(shard_rows=7))
    jobs = [start(tmp_path / "f", seed) for seed in range(2)]
    for job in jobs:
        said, err = job.communicate(timeout=60)
        assert job.returncode == 0, err
        assert said.strip() == digest.digest
    assert not list((tmp_path / "f").glob("*.tmp"))


@pytest.mark.slow
def test_twenty_kills_at_random_moments(tmp_path) -> None:
    digest = extract_to(Stub(), tmp_path / "alone", texts(400), options=ShardOptions(shard_rows=7))
    generator = np.random.default_rng(0)
    for round_ in range(20):
        folder = tmp_path / f"f{round_ % 4}"
        job = start(folder, round_)
        time.sleep(0.6 + generator.random())
        job.send_signal(signal.SIGKILL)
        job.communicate()
    for number in range(4):
        job = start(tmp_path / f"f{number}", number)
        said, err = job.communicate(timeout=60)
        assert job.returncode == 0, err
        assert said.strip() == digest.digest


PARENT = """
import sys
sys.path.insert(0, {root!r})
from tests.shards.test_pool import pool_of
if __name__ == "__main__":
    pool, store = pool_of({folder!r}, 2)
    pool.run(list(store.missing()))
"""


@pytest.mark.slow
def test_workers_end_when_their_parent_is_killed(tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("STUB_DOES", "sleep:0:0.4")
    program = tmp_path / "parent.py"
    program.write_text(PARENT.format(root=ROOT, folder=str(tmp_path / "f")))
    parent = subprocess.Popen(
        [sys.executable, str(program)], env={**os.environ, "PYTHONPATH": ROOT}
    )
    while not list((tmp_path / "f").glob("part-*")) and parent.poll() is None:
        time.sleep(0.02)
    children = subprocess.run(
        ["pgrep", "-P", str(parent.pid)], capture_output=True, text=True, check=False
    ).stdout.split()
    parent.send_signal(signal.SIGKILL)
    parent.wait()
    time.sleep(3)
    assert children
    assert not [pid for pid in children if _runs(int(pid))]
    monkeypatch.delenv("STUB_DOES")
    _, store = pool_of(tmp_path / "f", 1)
    assert extract_to(Stub(), tmp_path / "f", TEXTS, options=OPTIONS).rows == 43
    assert right(store)


def _runs(pid):
    try:
        return "Z" not in Path(f"/proc/{pid}/stat").read_text().split(")")[1].split()[0]
    except FileNotFoundError:
        return False
