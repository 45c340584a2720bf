"""AnswerCache: nothing is lost, nothing stale is found, foreign files are left alone."""

from __future__ import annotations

import contextlib
import os
import signal
import sqlite3
import subprocess
import sys
import threading
import time

import pytest

from fungi_hf.errors import CacheError
from fungi_hf.icl.cache import CACHE_VERSION, AnswerCache, request_key

WRITER = """
import sys
import tests.icl.bare
from fungi_hf.icl.cache import AnswerCache, request_key
name, count = sys.argv[2], int(sys.argv[3])
with AnswerCache(sys.argv[1]) as cache:
    for i in range(count):
        cache.write(request_key({"shared": i}), {"content": f"shared {i}"}).result()
        cache.write(request_key({"own": [name, i]}), {"content": f"{name} {i}"}).result()
        print(i, flush=True)
"""


def writer(path, name, count):
    return subprocess.Popen(
        [sys.executable, "-c", WRITER, str(path), name, str(count)], stdout=subprocess.PIPE
    )


def rows(path):
    with contextlib.closing(sqlite3.connect(path)) as database:
        return database.execute("SELECT count(*) FROM answers").fetchone()[0]


def test_answers_survive_closing_and_hits_are_copies(tmp_path):
    path = tmp_path / "deep" / "answers.sqlite"
    with AnswerCache(path) as cache:
        assert cache.read("k").result() is None
        cache.write("k", {"content": "é \ud83d", "nested": {"n": 1}}).result()
    with AnswerCache(path) as cache:
        hit = cache.read("k").result()
        assert hit == {"content": "é \ud83d", "nested": {"n": 1}}
        hit["nested"]["n"] = 2
        assert cache.read("k").result()["nested"]["n"] == 1
        assert rows(path) == 1


def test_keys_depend_on_every_field_and_not_on_their_order():
    base = {"model": "m", "messages": [{"role": "user", "content": "x"}], "temperature": 0.0}
    keys = {request_key(base)}
    assert request_key(dict(reversed(base.items()))) in keys
    for field, value in (
        ("model", "n"),
        ("messages", [{"role": "user", "content": "x "}]),
        ("messages", [{"role": "system", "content": "x"}]),
        ("temperature", 0.1),
        ("temperature", None),
        ("seed", 1),
    ):
        keys.add(request_key({**base, field: value}))
    assert len(keys) == 7
    assert request_key({"x": "\ud83d"}) != request_key({"x": "?"})
    with pytest.raises(ValueError, match="not JSON compliant"):
        request_key({"x": float("nan")})


def test_two_processes_share_a_file_without_loss(tmp_path):
    path, count = tmp_path / "answers.sqlite", 150
    both = [writer(path, name, count) for name in ("a", "b")]
    for process in both:
        process.communicate(timeout=60)
    assert [process.returncode for process in both] == [0, 0]
    with AnswerCache(path) as cache:
        assert rows(path) == 3 * count
        for i in range(count):
            assert cache.read(request_key({"shared": i})).result() == {"content": f"shared {i}"}
            assert cache.read(request_key({"own": ["b", i]})).result() == {"content": f"b {i}"}


def test_what_was_written_before_kill_9_is_there(tmp_path):
    path = tmp_path / "answers.sqlite"
    process = writer(path, "a", 100_000)
    seen = -1
    while seen < 40:
        seen = int(process.stdout.readline())
    os.kill(process.pid, signal.SIGKILL)
    rest = process.communicate()[0].split(b"\n")
    seen = max([seen, *(int(line) for line in rest[:-1])])
    with AnswerCache(path) as cache:
        assert all(cache.read(request_key({"own": ["a", i]})).result() for i in range(seen + 1))


def test_threads_share_one_object(tmp_path):
    path = tmp_path / "a.sqlite"
    with AnswerCache(path) as cache:
        threads = [
            threading.Thread(
                target=lambda n=n: [cache.write(f"{n}/{i}", {"i": i}).result() for i in range(50)]
            )
            for n in range(4)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert rows(path) == 200


def test_unreadable_rows_count_as_missing_and_are_replaced(tmp_path):
    path = tmp_path / "a.sqlite"
    with AnswerCache(path) as cache:
        cache.write("good", {"x": 1}).result()
    database = sqlite3.connect(path)
    altered = f"{'0' * 16} {{}}"
    for key, reply in (
        *(("cut", '{"x": '), ("list", "[1]"), ("blob", b"\xff\xfe")),
        *(("altered", altered), ("without a digest", '{"x": 3}')),
    ):
        database.execute("INSERT INTO answers VALUES (?, ?, ?)", (key, reply, time.time()))
    database.commit()
    database.close()
    with AnswerCache(path) as cache:
        assert [cache.read(key).result() for key in ("cut", "list", "blob")] == [None] * 3
        assert cache.read("altered").result() is None
        assert cache.read("without a digest").result() == {"x": 3}
        assert cache.read("good").result() == {"x": 1}
        cache.write("cut", {"x": 2}).result()
        assert cache.read("cut").result() == {"x": 2}


def foreign_database(path):
    database = sqlite3.connect(path)
    database.execute("CREATE TABLE notes (text)")
    database.commit()
    database.close()


def newer_database(path):
    AnswerCache(path).close()
    database = sqlite3.connect(path)
    database.execute(f"PRAGMA user_version = {CACHE_VERSION + 1}")
    database.commit()
    database.close()


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda path: path.mkdir(), "is a folder"),
        (lambda path: path.write_text("a diary"), "cannot be used: file is not a database"),
        (lambda path: path.write_bytes(b"SQLite format 3\x00" + b"junk" * 200), "cannot be used"),
        (foreign_database, "of another program"),
        (newer_database, f"has version {CACHE_VERSION + 1}; this release reads {CACHE_VERSION}"),
    ],
    ids=["folder", "text", "junk", "foreign", "newer"],
)
def test_files_that_are_not_ours_are_refused_and_untouched(make, message, tmp_path):
    path = tmp_path / "thing"
    make(path)
    before = path.read_bytes() if path.is_file() else None
    with pytest.raises(CacheError, match=message):
        AnswerCache(path)
    assert before is None or path.read_bytes() == before


def test_a_place_that_cannot_be_written_is_refused(tmp_path):
    (tmp_path / "file").write_text("x")
    with pytest.raises(CacheError, match=r"answer cache .* cannot be used"):
        AnswerCache(tmp_path / "file" / "answers.sqlite")


def test_closing_twice_is_fine(tmp_path):
    cache = AnswerCache(tmp_path / "a")
    cache.close()
    cache.close()


@pytest.mark.slow
def test_many_processes_may_create_the_file_at_once(tmp_path):
    for round_number in range(30):
        path = tmp_path / f"{round_number}.sqlite"
        writers = [writer(path, name, 2) for name in "abcd"]
        for process in writers:
            process.communicate(timeout=60)
        assert [process.returncode for process in writers] == [0] * 4
        assert rows(path) == 2 + 8
