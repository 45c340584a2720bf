"""What a person sees of a run on a terminal: rows, failures, tokens and rate."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import pty
import re
import struct
import termios
import threading

from fungi_hf.icl.run import EvalResult
from fungi_hf.icl.server.fake_server import FakeOpenAIServer, Fault
from tests.icl.chat_kit import NAMES, task
from tests.icl.test_commands import call

ROWS = 40
SEEN = re.compile(
    r"(?P<percent>\d+)%\|[^|]*\| (?P<rows>\d+)/40 \[\d\d:\d\d<[^,]+, "
    r" *(?P<rate>[\d.]+)(?:row/s|s/row), failed=(?P<failed>\d+), tokens=(?P<tokens>\d+)\]"
)


@contextlib.contextmanager
def terminal(columns):
    """Make standard error a terminal; gives a list of what was drawn on it."""
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
    drawn: list[bytes] = []

    def read():
        with contextlib.suppress(OSError):  # the other side is closed
            while data := os.read(ours, 4096):
                drawn.append(data)

    reader = threading.Thread(target=read)
    reader.start()
    with os.fdopen(theirs, "w", encoding="utf-8") as screen, contextlib.redirect_stderr(screen):
        yield drawn
    reader.join(10)
    os.close(ours)


def test_the_bar_shows_rows_failures_tokens_and_rate(tmp_path):
    (tmp_path / "labels.json").write_text(json.dumps(NAMES))
    for name, examples in zip(("train", "test"), task(n_test=ROWS), strict=True):
        rows = zip(examples.contents, examples.targets, strict=True)
        lines = [json.dumps({"text": text, "label": label}) for text, label in rows]
        (tmp_path / f"{name}.jsonl").write_text("\n".join(lines))
    words = [f"--{name}={tmp_path / name}.jsonl" for name in ("train", "test")]
    words += [f"--labels={tmp_path / 'labels.json'}", "--strategy=bm25", "--k=3", "--concurrency=2"]
    words += ["--max-attempts=1", f"--out={tmp_path / 'run'}"]

    def faults(number, _):
        return Fault(status=500) if number in (3, 9) else None

    with FakeOpenAIServer(faults=faults, latency=0.05) as server, terminal(100) as drawn:
        assert call("icl", "run", *words, f"--base-url={server.url}") == 1
    screen = b"".join(drawn).decode()
    seen = [match.groupdict() for match in SEEN.finditer(screen)]
    assert len(seen) >= 3  # drawn anew at most five times a second
    for name in ("rows", "failed", "tokens"):
        values = [int(one[name]) for one in seen]
        assert values == sorted(values)
    usage = EvalResult.load(tmp_path / "run").usage
    last = {"rows": f"{ROWS}", "failed": "2", "tokens": f"{usage.total_tokens}", "percent": "100"}
    assert seen[-1] | last == seen[-1]
    assert all(float(one["rate"]) > 0 for one in seen[1:])
    assert max(map(len, re.split(r"[\r\n]+", screen))) <= 100
