"""Intervals and paired tests equal known numbers and second ways of computing them."""

from __future__ import annotations

import itertools
import math
from dataclasses import replace

import numpy as np
import pytest

from fungi_hf.errors import ComparisonError, InputError, InputTypeError
from fungi_hf.icl import compare
from fungi_hf.icl.results import EvalResult, RowResult
from fungi_hf.statistics import (
    bootstrap_difference,
    holm,
    mcnemar_p,
    smallest_difference,
    wilson_interval,
)

from .banking import oracle


def row(key, gold, correct, status="ok"):
    return RowResult(id=key, gold=gold, status=status, label=gold if correct else "another")


def run(rows, *, complete=True):
    return EvalResult(all_rows=tuple(rows), n_rows=len(rows) + (not complete))


def changed(result, at, **changes):
    rows = list(result.rows)
    rows[at] = replace(rows[at], **changes)
    return run(rows)


def runs(both: int, gained: int, lost: int, neither: int) -> tuple[EvalResult, EvalResult]:
    right = (
        [(True, True)] * both
        + [(True, False)] * gained
        + [(False, True)] * lost
        + [(False, False)] * neither
    )
    first = run([row(i, i % 3, a) for i, (a, _) in enumerate(right)])
    second = run([row(i, i % 3, b) for i, (_, b) in enumerate(right)][::-1])
    return first, second


def test_known_numbers():
    assert wilson_interval(2772, 3080) == pytest.approx((0.8889, 0.9101), abs=5e-5)
    assert wilson_interval(0, 10) == pytest.approx((0.0, 0.2775), abs=5e-5)
    assert mcnemar_p(10, 25) == pytest.approx(0.01667, abs=5e-6)
    assert mcnemar_p(31, 62) == pytest.approx(0.00171, abs=5e-6)
    assert mcnemar_p(0, 0) == 1.0
    assert smallest_difference(77, 77, 3080) == pytest.approx(0.0113, abs=5e-5)


@pytest.mark.parametrize("name", list(oracle()["paired_mcnemar_exact"]))
def test_mcnemar_equals_stored_numbers(name):
    entry = oracle()["paired_mcnemar_exact"][name]
    assert mcnemar_p(entry["only_first"], entry["only_second"]) == pytest.approx(
        entry["p"], abs=1e-6
    )


def test_mcnemar_equals_enumeration():
    for b, c in itertools.product(range(7), range(7)):
        n = b + c
        tail = [k for k in range(n + 1) if min(k, n - k) <= min(b, c)]
        p = sum(math.comb(n, k) for k in tail) / 2**n
        assert mcnemar_p(b, c) == mcnemar_p(c, b) == pytest.approx(min(1.0, p), abs=1e-15)


def test_mcnemar_does_not_overflow():
    assert mcnemar_p(40, 60) == pytest.approx(0.0568879, abs=1e-6)
    assert mcnemar_p(5_000, 5_000) == 1.0
    assert 0 < mcnemar_p(4_900, 5_100) < 0.05


def test_wilson_inverts_the_score_test():
    for right, n in [(1, 7), (50, 100), (999, 1000), (10, 10)]:
        for bound in wilson_interval(right, n):
            if 1e-9 < bound < 1 - 1e-9:
                z = (right / n - bound) / math.sqrt(bound * (1 - bound) / n)
                assert abs(z) == pytest.approx(1.959964, abs=1e-6)


def test_the_bootstrap_resamples_rows():
    b, c, n = 62, 31, 3080
    low, high = bootstrap_difference(b, c, n)
    assert bootstrap_difference(b, c, n) == (low, high)
    few = [bootstrap_difference(b, c, n, seed=seed, draws=50) for seed in range(5)]
    assert len(set(few)) > 1
    differences = np.array([1] * b + [-1] * c + [0] * (n - b - c))
    rng = np.random.default_rng(0)
    means = [differences[rng.integers(0, n, n)].mean() for _ in range(4_000)]
    assert (low, high) == pytest.approx(tuple(np.percentile(means, [2.5, 97.5])), abs=5e-4)


@pytest.mark.slow
def test_coverage_and_false_alarms():
    rng = np.random.default_rng(0)
    n, gain, loss = 1_000, 0.06, 0.04
    covered = alarms = 0
    for trial in range(2_000):
        b, c, _ = rng.multinomial(n, [gain, loss, 1 - gain - loss])
        low, high = bootstrap_difference(int(b), int(c), n, seed=trial, draws=2_000)
        covered += low <= gain - loss <= high
        b, c, _ = rng.multinomial(n, [0.05, 0.05, 0.9])
        alarms += mcnemar_p(int(b), int(c)) <= 0.05
    assert 0.93 <= covered / 2_000 <= 0.97
    assert alarms / 2_000 <= 0.055


def test_holm():
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.5, 0.9]) == [1.0, 1.0]
    assert holm([]) == []
    with pytest.raises(InputError, match=r"p_values\[1\] is 1\.5"):
        holm([0.1, 1.5])
    with pytest.raises(InputTypeError, match=r"p_values\[0\] is str"):
        holm(["0.1"])


def test_a_comparison_joins_by_id():
    found = compare(*runs(2_700, 62, 31, 287))
    assert (found.n, found.n_right_a, found.n_right_b) == (3080, 2762, 2731)
    assert found.delta == pytest.approx(31 / 3080)
    assert found.gained == tuple(range(2_700, 2_762))
    assert found.lost == tuple(range(2_762, 2_793))
    assert found.p == pytest.approx(0.00171, abs=5e-6)
    assert found.interval[0] < found.delta < found.interval[1]
    assert found.smallest_delta == pytest.approx(2.8 * math.sqrt(93 / 3080 / 3080))
    text = str(found)
    for part in (
        "3080",
        "+0.0101",
        "0.001713",
        "gained      62 (2700, 2701,",
        "lost        31",
        "0.0088",
    ):
        assert part in text


def test_the_other_way_round_changes_signs():
    a, b = runs(50, 9, 4, 37)
    there, back = compare(a, b), compare(b, a)
    assert there.delta == -back.delta
    assert (set(there.gained), set(there.lost)) == (set(back.lost), set(back.gained))
    assert there.p == back.p


def test_equal_runs():
    same = compare(*runs(5, 0, 0, 5))
    assert (same.delta, same.p, same.interval, same.smallest_delta) == (0.0, 1.0, (0.0, 0.0), 0.0)


def test_ids_must_be_the_same():
    a, b = runs(5, 1, 1, 5)
    shorter = run(b.rows[:-2])
    with pytest.raises(ComparisonError, match=r"2 only in a \(0, 1\), 0 only in b"):
        compare(a, shorter)
    common = compare(a, shorter, rows="common")
    assert (common.n, common.n_left_out) == (10, 2)
    assert "10 (2 left out)" in str(common)
    with pytest.raises(ComparisonError, match="no finished row in common"):
        compare(a, run([row("x", 0, True)]), rows="common")
    with pytest.raises(ComparisonError, match="run b has id 1 twice"):
        compare(a, run([row(1, 0, True), row(1, 0, True)]))


def test_gold_labels_must_be_the_same():
    a, b = runs(3, 0, 0, 0)
    b = changed(b, 0, gold=9)
    with pytest.raises(
        ComparisonError, match="1 rows have different gold labels: id 2 has 2 in a and 9 in b"
    ):
        compare(a, b)


def test_runs_must_be_complete():
    a, b = runs(3, 1, 0, 2)
    a = changed(a, 1, status="failed")
    assert not a.complete
    with pytest.raises(ComparisonError, match=r"run a is incomplete \(1 failed rows \(1\)\)"):
        compare(a, b)
    common = compare(a, b, rows="common")
    assert (common.n, common.n_left_out) == (5, 1)
    b = changed(b, -2, status="failed")
    assert compare(a, b, rows="common").n_left_out == 1
    with pytest.raises(ComparisonError, match="run b is incomplete"):
        compare(run(a.rows[2:]), run(b.rows[:2], complete=False))


def test_bad_arguments():
    a, b = runs(1, 1, 1, 1)
    with pytest.raises(ComparisonError, match="rows is 'some'; choose one of 'all', 'common'"):
        compare(a, b, rows="some")
    with pytest.raises(InputTypeError, match="b is float"):
        compare(a, 0.9)
    with pytest.raises(InputError, match="11 right of 10"):
        wilson_interval(11, 10)
    with pytest.raises(InputError, match="counts are -1 and 2"):
        mcnemar_p(-1, 2)
    with pytest.raises(InputError, match="3 gained and 3 lost of 5"):
        bootstrap_difference(3, 3, 5)
    with pytest.raises(InputError, match="n is 0"):
        smallest_difference(0, 0, 0)
