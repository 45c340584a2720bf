"""Prompt orders hold for every strategy, and are the same in every process."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from fungi_hf.icl import DemoSelector, Examples
from fungi_hf.icl.demos import ranks_in_order

STRATEGIES = ["knn", "bm25", "hybrid", "mmr", "dpp", "stratified", "random"]
PROGRAM = """
import bare
import numpy as np
from fungi_hf.icl import DemoSelector, Examples
rng = np.random.default_rng(0)
texts = [f"w{i % 7} text {i}" for i in range(60)]
asked = [f"w{i % 7} query {i}" for i in range(8)]
pool = Examples(features=rng.normal(size=(60, 5)), contents=texts, targets=rng.integers(0, 4, 60))
queries = Examples(features=rng.normal(size=(8, 5)), contents=asked)
for strategy in ("knn", "bm25", "hybrid", "mmr", "dpp", "stratified", "random"):
    for order in ("alternate", "shuffled"):
        demos = DemoSelector(strategy, 9, order=order, n_shared=2).fit(pool).select(queries)
        print(strategy, order, [[shown.row for shown in demos[q]] for q in range(8)])
"""


@pytest.fixture(scope="module")
def data() -> tuple[Examples, Examples]:
    rng = np.random.default_rng(0)
    words = ["card", "lost", "fee", "rate", "pin", "top"]
    pool = Examples(
        features=rng.normal(size=(80, 6)),
        contents=[f"{' '.join(rng.choice(words, 4))} {i}" for i in range(80)],
        targets=rng.integers(0, 5, 80),
    )
    queries = Examples(
        features=rng.normal(size=(25, 6)),
        contents=[f"{' '.join(rng.choice(words, 4))} q{i}" for i in range(25)],
    )
    return pool, queries


@pytest.mark.parametrize("cap", [None, 3])
@pytest.mark.parametrize("strategy", STRATEGIES)
def test_nearest_comes_last_by_default(strategy, cap, data):
    pool, queries = data
    demos = DemoSelector(strategy, 11, max_per_class=cap).fit(pool).select(queries)
    assert demos.order == "nearest_last"
    assert (np.diff(np.round(demos.scores.astype(float), 6), axis=1) <= 0).all()
    for shown in demos:
        assert [d.rank for d in shown] == list(range(10, -1, -1))
        assert shown[-1].score == max(d.score for d in shown)


@pytest.mark.parametrize(
    ("order", "expected"),
    [
        ("nearest_last", [5, 4, 3, 2, 1, 0]),
        ("nearest_first", [0, 1, 2, 3, 4, 5]),
        ("alternate", [1, 3, 5, 4, 2, 0]),
    ],
)
def test_fixed_orders(order, expected):
    assert ranks_in_order(order, 6, 0, 0, [b"a", b"b"]).tolist() == [expected, expected]


def test_alternate_with_an_odd_number_and_with_one():
    assert ranks_in_order("alternate", 5, 0, 0, [b""]).tolist() == [[1, 3, 4, 2, 0]]
    assert ranks_in_order("alternate", 1, 0, 0, [b""]).tolist() == [[0]]


def test_shuffles_follow_seed_and_content():
    ranks = ranks_in_order("shuffled", 12, 0, 7, [b"a", b"b", b"a"])
    assert ranks[0].tolist() == ranks[2].tolist() != ranks[1].tolist()
    assert sorted(ranks[1].tolist()) == list(range(12))
    assert ranks_in_order("shuffled", 12, 0, 8, [b"a"])[0].tolist() != ranks[0].tolist()


def test_orders_are_equal_in_other_processes():
    outputs = [
        subprocess.run(
            [sys.executable, "-c", PROGRAM],
            capture_output=True,
            text=True,
            check=True,
            env={**os.environ, "PYTHONHASHSEED": seed, "PYTHONPATH": str(Path(__file__).parent)},
        ).stdout
        for seed in ("1", "2")
    ]
    assert outputs[0] == outputs[1]
    assert len(outputs[0].splitlines()) == 14


def test_the_set_does_not_depend_on_the_order(data):
    pool, queries = data
    sets = [
        DemoSelector("mmr", 7, order=order).fit(pool).select(queries).indices.tolist()
        for order in ("nearest_last", "nearest_first", "alternate", "shuffled")
    ]
    assert all(rows == sets[0] for rows in sets)
