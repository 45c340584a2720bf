"""A run of 5,000 rows: memory, rate, and what a kill, Ctrl-C and a second job do to it.

Claims: the client's memory does not grow with the rows that are answered; a killed or interrupted
run loses nothing that was answered, sends the rest alone and ends in the bytes of an undisturbed
run; a second job on the folder is refused. The loopback server is a process of its own.
Run: python -m benchmarks.icl_rows
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import resource
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks import timing
from fungi_hf.icl import ChatLLM, DemoSelector, FakeOpenAIServer, PromptBuilder
from fungi_hf.icl.llm import Limits
from fungi_hf.icl.plan import make_plan
from fungi_hf.icl.run import Run, run_here
from fungi_hf.icl.sources import load_examples, load_labels

if TYPE_CHECKING:
    from collections.abc import Iterator

MODULE = "benchmarks.icl_rows"
# Whoever runs in the background ignores SIGINT, and so would its children.
PROGRAM = (
    "import signal, sys; signal.signal(signal.SIGINT, signal.default_int_handler); "
    "from fungi_hf.cli import main; sys.exit(main())"
)
N_LABELS, N_TRAIN, K, LATENCY_S, CONCURRENCY, POINTS = 77, 500, 20, 0.01, 16, 10


def write_files(folder: Path, rows: int) -> None:
    """Write labels, labelled texts and queries."""
    labels = [f"intent number {i}" for i in range(N_LABELS)]
    (folder / "labels.json").write_text(json.dumps(labels))
    for name, size in (("train", N_TRAIN), ("test", rows)):
        lines = [
            json.dumps({"text": f"{name} {i} about subject {i % N_LABELS}", "label": i % N_LABELS})
            for i in range(size)
        ]
        (folder / f"{name}.jsonl").write_text("\n".join(lines))


def serve() -> None:
    """Print the address, then the number of requests for every line that is read."""
    with FakeOpenAIServer("majority", latency=LATENCY_S) as server:
        print(server.url, flush=True)
        for _ in sys.stdin:
            print(len(server.log), flush=True)


class Server:
    """The loopback server in a process of its own."""

    def __init__(self) -> None:
        command = [sys.executable, "-m", MODULE, "--serve"]
        pipe = subprocess.PIPE
        self._process = subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True)
        assert self._process.stdout is not None
        self.url = self._process.stdout.readline().strip()

    def sent(self) -> int:
        """Give the number of requests so far."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write("\n")
        self._process.stdin.flush()
        return int(self._process.stdout.readline())

    def close(self) -> None:
        """End the process."""
        self._process.communicate()


@contextlib.contextmanager
def serving() -> Iterator[Server]:
    server = Server()
    try:
        yield server
    finally:
        server.close()


def resident_mb() -> float:
    """Give this process's resident memory in MiB; where there is no /proc, its peak."""
    statm = Path("/proc/self/statm")
    if statm.exists():
        pages = int(statm.read_text().split()[1])
        return round(pages * resource.getpagesize() / 2**20, 2)
    return timing.peak_memory_mb()


def client(url: str, folder: Path) -> None:
    """Run all rows in this process; print memory, one figure each tenth of the rows, and rate."""
    labels = load_labels(folder / "labels.json")
    train, test = (load_examples(folder / f"{name}.jsonl") for name in ("train", "test"))
    llm = ChatLLM("fake", base_url=url, limits=Limits(concurrency=CONCURRENCY))
    loaded = resident_mb()
    plan = make_plan(DemoSelector("bm25", k=K).fit(train), PromptBuilder(labels), llm, test)
    step, seen = max(1, len(test) // POINTS), {}
    planned = resident_mb()

    def watch(progress: Any) -> None:
        if progress.fresh % step == 0:
            seen[progress.fresh] = resident_mb()

    started = time.perf_counter()
    result = run_here(Run(plan, folder / "calm", watch))
    seconds = time.perf_counter() - started
    assert result.complete
    found = {
        "loaded_mb": loaded,
        "planned_mb": planned,
        "resident_mb": seen,
        "seconds": round(seconds, 2),
    }
    print(json.dumps({**found, "rows_per_second": round(len(test) / seconds, 1)}))


def start(url: str, folder: Path, name: str) -> subprocess.Popen[str]:
    """Start `fungi-hf icl run` with the folder `name`."""
    command = [sys.executable, "-c", PROGRAM, "icl", "run", "--model=fake"]
    command += [f"--{part}={folder / part}.jsonl" for part in ("train", "test")]
    command += [f"--labels={folder / 'labels.json'}", "--strategy=bm25", f"--k={K}"]
    command += [f"--base-url={url}", f"--concurrency={CONCURRENCY}", f"--out={folder / name}"]
    pipe = subprocess.PIPE
    return subprocess.Popen(command, stdout=pipe, stderr=pipe, text=True)


def finished(folder: Path) -> int:
    """Give the rows that are on disk."""
    path = folder / "journal.jsonl"
    return path.read_bytes().count(b"\n") if path.exists() else 0


def wait_for(folder: Path, rows: int, process: subprocess.Popen[str]) -> None:
    while finished(folder) < rows:
        assert process.poll() is None, "the run ended too early"
        time.sleep(0.005)


def disturbed(server: Server, folder: Path, rows: int, sign: signal.Signals) -> dict[str, Any]:
    """Signal a run at half its rows, and let the same command finish it."""
    own, before = folder / sign.name, server.sent()
    process = start(server.url, folder, sign.name)
    wait_for(own, rows // 2, process)
    os.kill(process.pid, sign)
    _, words = process.communicate()
    time.sleep(0.5)  # requests in flight reach the server's log
    kept, sent = finished(own), server.sent() - before
    again = start(server.url, folder, sign.name)
    _, errors = again.communicate()
    assert again.returncode == 0, errors
    return {
        "exit_code": process.returncode,
        "last_words": last_line(words, folder) if sign == signal.SIGINT else None,
        "rows_on_disk": kept,
        "requests_before": sent,
        "requests_after": server.sent() - before - sent,
        "same_bytes": results(own) == results(folder / "calm"),
    }


def two_jobs(server: Server, folder: Path, rows: int) -> dict[str, Any]:
    """Start a second job on the folder of the first."""
    before = server.sent()
    first = start(server.url, folder, "shared")
    wait_for(folder / "shared", rows // 10, first)
    first.send_signal(signal.SIGSTOP)  # it still holds the folder when the second looks
    second = start(server.url, folder, "shared")
    _, words = second.communicate()
    first.send_signal(signal.SIGCONT)
    _, errors = first.communicate()
    assert first.returncode == 0, errors
    return {
        "second_exit_code": second.returncode,
        "second_says": last_line(words, folder),
        "first_exit_code": first.returncode,
        "requests": server.sent() - before,
        "same_bytes": results(folder / "shared") == results(folder / "calm"),
    }


def last_line(words: str, folder: Path) -> str:
    return words.strip().splitlines()[-1].replace(str(folder), "FOLDER")


def results(folder: Path) -> bytes:
    return (folder / "results.jsonl").read_bytes()


def measure(rows: int) -> dict[str, Any]:
    """Do all runs, each of them on the same rows."""
    with serving() as server, tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_files(folder, rows)
        calm = timing.in_fresh_process(MODULE, "--client", server.url, str(folder))
        memory = list(calm["resident_mb"].values())
        return {
            "rows": rows,
            "demonstrations": K,
            "latency_s": LATENCY_S,
            "concurrency": CONCURRENCY,
            "undisturbed": calm,
            "growth_mb": round(memory[-1] - memory[0], 2),
            "kill": disturbed(server, folder, rows, signal.SIGKILL),
            "ctrl_c": disturbed(server, folder, rows, signal.SIGINT),
            "two_jobs": two_jobs(server, folder, rows),
        }


def check(record: dict[str, Any]) -> None:
    """Assert the claims; none is a matter of speed."""
    rows = record["rows"]
    assert record["kill"]["exit_code"] == -signal.SIGKILL
    assert record["ctrl_c"]["exit_code"] == 130
    for name in ("kill", "ctrl_c"):
        found = record[name]
        assert found["same_bytes"]
        assert found["requests_after"] == rows - found["rows_on_disk"]
        assert found["requests_before"] - found["rows_on_disk"] <= CONCURRENCY
    assert record["two_jobs"]["second_exit_code"] not in (0, None)
    assert record["two_jobs"]["requests"] == rows
    assert record["two_jobs"]["same_bytes"]


def main() -> None:
    """Write benchmarks/results/icl_rows.json."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=5000)
    parser.add_argument("--serve", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--client", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.serve:
        serve()
    elif options.client:
        client(options.client[0], Path(options.client[1]))
    else:
        record = measure(options.rows)
        timing.write("icl_rows" if options.rows == 5000 else "icl_rows_quick", record)
        check(record)


if __name__ == "__main__":
    main()
