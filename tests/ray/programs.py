"""Programs that tests start, and waiting for what they do."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).parents[2]


def environment(settings):
    """That of the process with settings; None unsets."""
    found = {**os.environ, "PYTHONPATH": str(ROOT), **settings}
    return {name: value for name, value in found.items() if value is not None}


def driver(*words, **settings):
    command = [sys.executable, "-m", "tests.ray.drivers", *map(str, words)]
    env = environment(settings)
    return subprocess.Popen(command, cwd=ROOT, env=env, stdout=subprocess.PIPE, text=True)


def until(condition, seconds=120):
    deadline = time.monotonic() + seconds
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.05)
    assert condition()
