"""Clusters that are there or not; these tests run before the others start theirs."""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path

from tests.ray.programs import driver, environment, until


def test_a_cluster_that_is_started_here_leaves_no_token(tmp_path):
    """Ray writes one into the home of whoever starts it, unless it is told not to."""
    clean = {"HOME": str(tmp_path), "RAY_TMPDIR": short(tmp_path), "RAY_ADDRESS": ""}
    for name in ("RAY_USAGE_STATS_ENABLED", "RAY_AUTH_MODE"):
        clean[name] = None
    said, _ = driver("local", **clean).communicate(timeout=120)
    assert said.split()[1:] == ["0", "disabled"]
    assert not list(tmp_path.rglob("*token*"))
    clean["RAY_AUTH_MODE"] = "token"  # what the user says holds
    said, _ = driver("local", **clean).communicate(timeout=120)
    assert said.split()[2] == "token"


def short(path):
    """A folder with a short name, since names of sockets have 107 bytes."""
    return tempfile.mkdtemp(prefix="ray-", dir=path.parents[2])


def test_a_cluster_of_ray_start_is_joined_by_its_token(tmp_path):
    settings = {"HOME": str(tmp_path), "RAY_TMPDIR": short(tmp_path), "RAY_ADDRESS": ""}
    settings |= dict.fromkeys(("RAY_USAGE_STATS_ENABLED", "RAY_AUTH_MODE"))
    command = [sys.executable, "-m", "ray.scripts.scripts"]
    env = environment(settings)
    (tmp_path / ".ray").mkdir()
    (tmp_path / ".ray" / "auth_token").write_text("0" * 64)
    start = [*command, "start", "--head", "--port=0", "--num-cpus=7", "--block"]
    start += ["--include-dashboard=false", "--disable-usage-stats"]
    head = subprocess.Popen(start, env=env, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        until(lambda: list(Path(settings["RAY_TMPDIR"]).rglob("ray_current_cluster")))
        said, _ = driver("local", **settings).communicate(timeout=120)
    finally:
        head.terminate()  # all that it has started ends with it
        head.wait(60)
    assert said.split() == ["7", "None", "token"]
