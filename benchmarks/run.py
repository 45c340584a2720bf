"""Run every benchmark, one process each, and say which failed: `make bench`."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

NOT_SCRIPTS = {"__init__", "run", "timing", "text_models", "ray_overhead"}  # the last needs Ray


def main() -> None:
    """Run them in name order."""
    failed = []
    for path in sorted(Path(__file__).parent.glob("*.py")):
        if path.stem in NOT_SCRIPTS:
            continue
        print(f"== {path.stem}", flush=True)
        if subprocess.run(
            [sys.executable, "-m", f"benchmarks.{path.stem}"], check=False
        ).returncode:
            failed.append(path.stem)
    if failed:
        raise SystemExit(f"failed: {', '.join(failed)}")


if __name__ == "__main__":
    main()
