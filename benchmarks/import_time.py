"""What `import fungi_hf` adds to `import transformers.pipelines`.

python -m benchmarks.import_time
"""

from __future__ import annotations

import statistics
import subprocess
import sys

from benchmarks import timing

CODE = """
import time
import transformers.pipelines
start = time.perf_counter()
import fungi_hf
print(1000 * (time.perf_counter() - start))
"""


def main() -> None:
    """Write benchmarks/results/import_time.json."""
    runs = []
    for _ in range(7):
        done = subprocess.run(
            [sys.executable, "-c", CODE], check=True, capture_output=True, text=True
        )
        runs.append(round(float(done.stdout), 1))
    timing.write(
        "import_time", {"bound_ms": 150, "added_ms": runs, "median_ms": statistics.median(runs)}
    )


if __name__ == "__main__":
    main()
