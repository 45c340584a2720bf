"""Rows per second of `evaluate` against the loopback server, one by one and 32 at a time.

Claim: with 50 ms latency, 1,000 rows with 20 demonstrations are at least 8 times faster at
concurrency 32 than at 1 (whose time is taken from fewer rows), and never more than 32 requests
are in flight. Run: python -m benchmarks.icl_throughput
"""

from __future__ import annotations

import argparse
import json
import platform
import time
from pathlib import Path

import openai

from fungi_hf.icl import ChatLLM, DemoSelector, Examples, LabelSpace, PromptBuilder, evaluate
from fungi_hf.icl.llm import Limits
from fungi_hf.icl.server.fake_server import FakeOpenAIServer

N_LABELS, K, LATENCY_S = 77, 20, 0.05
LABELS = LabelSpace([f"intent number {i}" for i in range(N_LABELS)])


def measure(rows: int, concurrency: int, latency: float = LATENCY_S):
    train = Examples(
        contents=[f"text {i} about subject {i % N_LABELS} and more words" for i in range(500)],
        targets=[i % N_LABELS for i in range(500)],
    )
    queries = Examples(
        contents=[f"query {i} about subject {i % N_LABELS}" for i in range(rows)],
        targets=[i % N_LABELS for i in range(rows)],
    )
    selector = DemoSelector("bm25", k=K).fit(train)
    with FakeOpenAIServer("majority", latency=latency) as server:
        llm = ChatLLM("fake", base_url=server.url, limits=Limits(concurrency=concurrency))
        warm = queries.take([0])
        evaluate(selector, PromptBuilder(LABELS), llm, warm)
        started = time.perf_counter()
        result = evaluate(selector, PromptBuilder(LABELS), llm, queries)
        seconds = time.perf_counter() - started
        assert result.complete
        assert server.max_in_flight <= concurrency
        return {
            "rows": rows,
            "concurrency": concurrency,
            "seconds": round(seconds, 3),
            "rows_per_second": round(rows / seconds, 1),
            "max_in_flight": server.max_in_flight,
        }


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=1000)
    parser.add_argument("--rows-one-by-one", type=int, default=200)
    parser.add_argument(
        "--out", type=Path, default=Path(__file__).parent / "results" / "icl_throughput.json"
    )
    options = parser.parse_args()
    one = measure(options.rows_one_by_one, 1)
    many = measure(options.rows, 32)
    record = {
        "claim": "concurrency 32 is at least 8 times faster than 1",
        "latency_s": LATENCY_S,
        "demonstrations": K,
        "one_by_one": one,
        "concurrent": many,
        "speed_up": round(many["rows_per_second"] / one["rows_per_second"], 1),
        "openai": openai.__version__,
        "python": platform.python_version(),
    }
    options.out.parent.mkdir(exist_ok=True)
    options.out.write_text(json.dumps(record, indent=1) + "\n")
    print(json.dumps(record, indent=1))
    assert record["speed_up"] >= 8


if __name__ == "__main__":
    main()
