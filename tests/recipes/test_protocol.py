"""The recipes' accuracies equal a loop over rows, with dot products and with distances."""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
import pytest

from recipes import protocol

RNG = np.random.default_rng(0)
LABELS = np.repeat(np.arange(3), 10)
TRAIN = {name: RNG.normal(size=(30, 4)) + LABELS[:, None] for name in ("a", "b")}
TEST = {name: RNG.normal(size=(12, 4)) + np.arange(12)[:, None] % 3 for name in ("a", "b")}
COMBINATIONS = [["a"], ["b"], ["a", "b"]]


def label(query: Any, rows: Any, labels: Any, metric: str) -> int:
    near = rows @ query if metric == "dot" else -((rows - query) ** 2).sum(1)
    votes = Counter(labels[np.argsort(-near, kind="stable")[: protocol.N_NEIGHBORS]].tolist())
    return min(votes, key=lambda name: (-votes[name], name))


@pytest.mark.parametrize("metric", ["dot", "euclidean"])
def test_accuracies_equal_a_loop(metric: Any) -> None:
    truth = np.arange(12) % 3
    found = protocol.accuracies(TRAIN, TEST, LABELS, truth, COMBINATIONS, metric=metric)
    alone = protocol.leave_one_out(TRAIN, LABELS, COMBINATIONS, metric=metric)

    for names in COMBINATIONS:
        rows, queries = (np.hstack([blocks[n] for n in names]) for blocks in (TRAIN, TEST))
        right = [label(q, rows, LABELS, metric) == t for q, t in zip(queries, truth, strict=True)]
        assert found["+".join(names)]["full"] == np.mean(right)
        others = [np.arange(30) != row for row in range(30)]
        hits = [
            label(rows[row], rows[kept], LABELS[kept], metric) == LABELS[row]
            for row, kept in enumerate(others)
        ]
        assert alone["+".join(names)] == np.mean(hits)
