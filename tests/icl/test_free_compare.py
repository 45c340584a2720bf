"""Runs of free answers side by side: the tests that fit their scores."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from fungi_hf.errors import ComparisonError
from fungi_hf.icl import compare
from fungi_hf.icl.results import EvalResult, RowResult


def free(points, metric="f1"):
    rows = [
        RowResult(id=i, gold=("x",), status="ok", label="y", score=one)
        for i, one in enumerate(points)
    ]
    return EvalResult(all_rows=tuple(rows), n_rows=len(rows), config={"metric": metric})


def test_graded_scores_are_compared_by_flips_of_signs():
    a, b = [0.9, 0.5, 1.0, 0.7, 0.3, 0.8, 0.6, 0.2], [0.5, 0.6, 0.4, 0.2, 0.3, 0.4, 0.5, 0.1]
    found = compare(free(a), free(b))
    moved = np.array(a) - b
    signs = np.array(list(itertools.product((1, -1), repeat=8)))
    p = np.mean(np.abs(signs @ moved) >= abs(moved.sum()) - 1e-9)
    assert found.p == pytest.approx(p, abs=0.01)
    assert found.delta == pytest.approx(moved.mean())
    assert (found.mean_a, found.mean_b) == pytest.approx((0.625, 0.375))
    assert (found.gained, found.lost) == ((0, 2, 3, 5, 6, 7), (1,))
    rng = np.random.default_rng(0)
    means = moved[rng.integers(0, 8, (20_000, 8))].mean(axis=1)
    assert found.interval == pytest.approx(tuple(np.percentile(means, [2.5, 97.5])), abs=0.01)
    assert found.smallest_delta == pytest.approx(2.8 * np.sqrt(np.mean(moved**2) / 8))
    text = str(found)
    assert "f1          0.6250 against 0.3750" in text
    assert "sign flips  p = 0.0" in text
    back = compare(free(b), free(a))
    assert (back.delta, back.p) == (pytest.approx(-found.delta), found.p)


def test_scores_of_0_and_1_are_compared_by_mcnemar():
    a, b = [1.0] * 9 + [0.0] * 3, [0.0] * 7 + [1.0] * 3 + [0.0] * 2
    found = compare(free(a, "exact"), free(b, "exact"))
    assert (found.test, len(found.gained), len(found.lost)) == ("McNemar", 7, 1)
    assert found.p == pytest.approx(2 * (1 + 8) / 2**8)


def test_metrics_must_be_the_same():
    with pytest.raises(ComparisonError, match="run a is scored by f1, run b by exact"):
        compare(free([1.0]), free([1.0], "exact"))
    with pytest.raises(ComparisonError, match="run a is scored by f1, run b by labels"):
        compare(free([1.0]), EvalResult(all_rows=(), n_rows=0))
