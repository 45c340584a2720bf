"""Alternated timing in one process: ratios survive a busy machine, single runs do not."""

from __future__ import annotations

import json
import os
import platform
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable

RESULTS = Path(__file__).parent / "results"


def alternate(runs: dict[str, Callable[[], object]], rounds: int = 5) -> dict[str, list[float]]:
    """Time every run once per round, after one untimed round; give seconds per run."""
    for run in runs.values():
        run()
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(rounds):
        for name, run in runs.items():
            start = time.perf_counter()
            run()
            seconds[name].append(time.perf_counter() - start)
    return seconds


def ratio(seconds: dict[str, list[float]], name: str, yardstick: str) -> float:
    """Give the median over rounds of one run's time over the yardstick's in the same round."""
    pairs = zip(seconds[name], seconds[yardstick], strict=True)
    return round(statistics.median(a / b for a, b in pairs), 3)


def median(values: list[float]) -> float:
    """Give the median, rounded to a tenth of a millisecond."""
    return round(statistics.median(values), 4)


def write(name: str, record: dict[str, Any]) -> None:
    """Print a record and write it to benchmarks/results/NAME.json with the machine beside it."""
    import torch

    record = {"benchmark": name, "machine": machine(torch.get_num_threads()), **record}
    RESULTS.mkdir(exist_ok=True)
    text = json.dumps(record, indent=2) + "\n"
    (RESULTS / f"{name}.json").write_text(text, encoding="utf-8")
    print(text)


def write_beside(name: str, record: dict[str, Any]) -> None:
    """Write as `write` does, beside what other processors have recorded there, in "runs"."""
    import torch

    own = {"machine": machine(torch.get_num_threads()), **record}
    path = RESULTS / f"{name}.json"
    before = json.loads(path.read_text(encoding="utf-8"))["runs"] if path.exists() else []
    others = [run for run in before if run["machine"]["processor"] != own["machine"]["processor"]]
    text = json.dumps({"benchmark": name, "runs": [*others, own]}, indent=2) + "\n"
    path.write_text(text, encoding="utf-8")
    print(json.dumps(own, indent=2))


def machine(threads: int) -> dict[str, Any]:
    """Say what ran: processor, cores, threads, versions."""
    import torch
    import transformers

    model = platform.processor() or platform.machine()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        lines = cpuinfo.read_text(encoding="utf-8").splitlines()
        model = next((line.split(":")[1].strip() for line in lines if "model name" in line), model)
    return {
        "processor": model,
        "cores": os.cpu_count(),
        "threads": threads,
        "python": platform.python_version(),
        "torch": torch.__version__.split("+")[0],
        "transformers": transformers.__version__,
    }


def in_fresh_process(module: str, *arguments: str) -> dict[str, Any]:
    """Run `python -m module arguments` and read the JSON on its last line of output."""
    command = [sys.executable, "-m", module, *arguments]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    found: dict[str, Any] = json.loads(done.stdout.strip().splitlines()[-1])
    return found


def peak_memory_mb() -> float:
    """Give the peak resident memory of this process in MiB (kernel's high-water mark).

    Where the kernel says it of the program alone: `ru_maxrss` begins at the parent's size.
    """
    import resource

    status = Path("/proc/self/status")
    if status.exists():
        lines = status.read_text(encoding="utf-8").splitlines()
        peak = next((line for line in lines if line.startswith("VmHWM")), None)
        if peak is not None:
            return round(int(peak.split()[1]) / 1024, 1)

    return round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024, 1)
