"""Servers of other authors as child processes on this machine: started, awaited, ended."""

from __future__ import annotations

import contextlib
import http.client as http_client
import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).parents[2]
# Whoever wants to leave the machine meets a proxy that nobody serves.
NOWHERE = "http://127.0.0.1:9"
ENVIRONMENT = {
    "HF_HUB_OFFLINE": "1",
    "TRANSFORMERS_OFFLINE": "1",
    "OMP_NUM_THREADS": "1",
    "HTTP_PROXY": NOWHERE,
    "HTTPS_PROXY": NOWHERE,
    "NO_PROXY": "127.0.0.1,localhost",
    "PYTHONUNBUFFERED": "1",
}


def free_port() -> int:
    """A port that nobody listened on a moment ago."""
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return found.getsockname()[1]


def program(name: str) -> str:
    """A program of the environment that runs the tests."""
    return str(Path(sys.executable).parent / name)


def environment(**more: str) -> dict[str, str]:
    """This process's environment without proxies, keys and endpoints of its own."""
    dropped = ("_PROXY", "_API_KEY", "_BASE_URL")
    kept = {k: v for k, v in os.environ.items() if not k.upper().endswith(dropped)}
    return {**kept, **ENVIRONMENT, "PYTHONPATH": str(ROOT), **more}


def http(port, method, path, body=None):
    """One request on this machine; gives status and bytes."""
    connection = http_client.HTTPConnection("127.0.0.1", port, timeout=10)
    try:
        data = None if body is None else json.dumps(body)
        connection.request(method, path, data, {"Content-Type": "application/json"})
        answer = connection.getresponse()
        return answer.status, answer.read()
    finally:
        connection.close()


@contextlib.contextmanager
def serving(command, port, log, *, alive="/health", timeout=120.0, **more):
    """Run a server until the block ends; gives its address, e.g. "http://127.0.0.1:4000".

    The process leads a session of its own, so that whatever it starts ends with it.
    """
    with log.open("wb") as words:
        process = subprocess.Popen(
            command,
            stdout=words,
            stderr=subprocess.STDOUT,
            env=environment(**more),
            cwd=log.parent,
            start_new_session=True,
        )
    try:
        _wait_for(process, port, alive, log, timeout)
        yield f"http://127.0.0.1:{port}"
    finally:
        _end(process)
    assert not _members(process.pid), "the server left a process behind"


def _wait_for(process, port, path, log, timeout):
    deadline = time.monotonic() + timeout
    while time.monotonic() < deadline:
        if process.poll() is not None:
            raise RuntimeError(f"the server ended: {log.read_text(errors='replace')[-3000:]}")
        with contextlib.suppress(OSError):
            if http(port, "GET", path)[0] == 200:
                return
        time.sleep(0.1)
    raise RuntimeError(f"no server after {timeout} s: {log.read_text(errors='replace')[-3000:]}")


def _end(process):
    for sign, patience in ((signal.SIGTERM, 10), (signal.SIGKILL, 10)):
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, sign)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(patience)
    deadline = time.monotonic() + 5
    while _members(process.pid) and time.monotonic() < deadline:
        time.sleep(0.05)


def _members(group):
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return False
    return True
