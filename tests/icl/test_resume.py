"""A killed run continues, pays nothing twice, and ends in the same bytes."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time

import pytest

from fungi_hf.icl import FakeOpenAIServer
from fungi_hf.icl.run import EvalResult
from tests.icl import kill_program

CONCURRENCY = 8


def start(server, folder, cache, rows, answers="labels"):
    arguments = [server.url, folder, cache, rows, CONCURRENCY, answers]
    return subprocess.Popen(
        [sys.executable, "-m", "tests.icl.kill_program", *map(str, arguments)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def finish(process):
    output, errors = process.communicate(timeout=120)
    assert process.returncode == 0, errors
    requests, accuracy = output.split()
    return int(requests), float(accuracy)


def kill_when(process, server, sent):
    deadline = time.monotonic() + 60
    while len(server.log) < sent and time.monotonic() < deadline:
        time.sleep(0.001)
    os.kill(process.pid, signal.SIGKILL)
    process.communicate()
    assert process.returncode == -signal.SIGKILL


def here(server, folder, cache, rows, answers="labels"):
    """The same run in this process; gives the requests it sent."""
    arguments = (server.url, folder, str(cache), rows, CONCURRENCY, answers)
    return kill_program.main(*arguments).requests


def undisturbed(server, tmp_path, rows, answers="labels"):
    here(server, tmp_path / "calm", "none", rows, answers)
    return (tmp_path / "calm" / "results.jsonl").read_bytes()


def killed_run(server, tmp_path, rows, points, cache, answers="labels"):
    """Kill the run when each number of requests was answered, then let it finish."""
    folder = tmp_path / "killed"
    for point in points:
        base = len(server.log)
        kill_when(start(server, folder, cache, rows, answers), server, base + point)
        time.sleep(0.1)  # requests that were in flight reach the log
    partial = EvalResult.load(folder)
    assert not partial.complete
    finished = len(partial.rows)
    assert finished > 0
    assert here(server, folder, cache, rows, answers) <= rows - finished
    assert here(server, folder, cache, rows, answers) == 0
    return (folder / "results.jsonl").read_bytes(), len(server.log)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("cache", "answers"),
    [
        pytest.param(False, "labels", id="journal alone", marks=pytest.mark.slow),
        pytest.param(True, "labels", id="cache"),
        pytest.param(False, "text", id="free answers"),
    ],
)
def test_a_killed_run_resumes(cache, answers, tmp_path):
    rows = 60
    with FakeOpenAIServer(latency=0.02) as server:
        expected = undisturbed(server, tmp_path, rows, answers)
        assert len(server.log) == rows
        path = tmp_path / "answers.sqlite" if cache else "none"
        got, total = killed_run(server, tmp_path, rows, [25], path, answers)
        assert got == expected
        assert total - rows <= rows + CONCURRENCY


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(3))
def test_three_kills_at_random_points_of_500_rows(seed, tmp_path):
    rows, random_points = 500, random.Random(seed)
    points = [random_points.randrange(20, 150) for _ in range(3)]
    with FakeOpenAIServer(latency=0.01) as server:
        expected = undisturbed(server, tmp_path, rows)
        got, total = killed_run(server, tmp_path, rows, points, tmp_path / "answers.sqlite")
        assert got == expected
        assert total - rows <= rows + len(points) * CONCURRENCY


@pytest.mark.slow
def test_two_runs_at_once_share_a_cache(tmp_path):
    rows = 40
    with FakeOpenAIServer(latency=0.01) as server:
        expected = undisturbed(server, tmp_path, rows)
        cache = tmp_path / "answers.sqlite"
        both = [start(server, tmp_path / name, cache, rows) for name in ("a", "b")]
        sent = [finish(process)[0] for process in both]
        assert sum(sent) == len(server.log) - rows <= 2 * rows
        for name in ("a", "b"):
            assert (tmp_path / name / "results.jsonl").read_bytes() == expected
        assert here(server, tmp_path / "c", cache, rows) == 0


def test_an_interrupted_run_writes_what_is_done(tmp_path):
    rows = 60
    with FakeOpenAIServer(latency=0.03) as server:
        process = start(server, tmp_path / "run", "none", rows)
        while len(server.log) < 20:
            time.sleep(0.001)
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=60)
        assert "KeyboardInterrupt" in errors
        written = (tmp_path / "run" / "results.jsonl").read_bytes().splitlines()
        partial = EvalResult.load(tmp_path / "run")
        assert 12 <= len(written) == len(partial.rows) < rows
        assert here(server, tmp_path / "run", "none", rows) == rows - len(partial.rows)
