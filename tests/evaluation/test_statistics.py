from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import binomtest

from fungi_hf.errors import ComparisonError, FeatureError, InputError
from fungi_hf.statistics import (
    bootstrap_interval,
    holm,
    mcnemar,
    mcnemar_p,
    paired_difference,
    wilson_interval,
)


def outcomes(b, c, both=100, neither=50):
    one = np.repeat([True, False, True, False], [b, c, both, neither])
    two = np.repeat([False, True, True, False], [b, c, both, neither])
    return one, two


@pytest.mark.parametrize(
    ("b", "c", "p"), [(10, 25, 0.01667), (31, 62, 0.00171), (0, 0, 1), (5, 5, 1)]
)
def test_mcnemar_by_hand(b, c, p):
    test = mcnemar(*outcomes(b, c))
    assert test.p == pytest.approx(p, abs=5e-6)
    assert test.p == mcnemar_p(b, c) == mcnemar_p(c, b)
    assert test.difference == pytest.approx((c - b) / (b + c + 150))


@pytest.mark.parametrize(("b", "c"), [(3, 9), (700, 800), (5000, 5200), (1, 3000)])
def test_mcnemar_is_the_exact_binomial_test(b, c):
    assert mcnemar(*outcomes(b, c)).p == pytest.approx(binomtest(b, b + c).pvalue, rel=1e-9)


def test_wilson_by_hand():
    assert wilson_interval(2772, 3080) == pytest.approx((0.8889, 0.9101), abs=5e-5)
    assert wilson_interval(0, 10) == pytest.approx((0, 0.2775), abs=5e-5)
    wanted = binomtest(37, 51).proportion_ci(method="wilson")
    assert wilson_interval(37, 51) == pytest.approx((wanted.low, wanted.high))


def test_bootstrap_intervals_have_the_width_of_the_normal_one():
    rng = np.random.default_rng(0)
    for values in ((rng.random(800) < 0.3).astype(float), rng.standard_normal(800)):
        low, high = bootstrap_interval(values, n_samples=5000)
        half = 1.96 * values.std() / 800**0.5
        assert low == pytest.approx(values.mean() - half, abs=0.1 * half)
        assert high == pytest.approx(values.mean() + half, abs=0.1 * half)
        assert bootstrap_interval(values, n_samples=5000) == (low, high)


def test_bootstrap_covers_as_often_as_it_says():
    rng = np.random.default_rng(1)
    draws = rng.random((400, 150)) < 0.7
    ends = [bootstrap_interval(row, n_samples=400) for row in draws]
    assert 0.91 <= np.mean([low <= 0.7 <= high for low, high in ends]) <= 0.98


def test_draws_of_a_row_are_resampled_together():
    rows = np.random.default_rng(0).random(200)
    assert bootstrap_interval(np.stack([rows] * 5)) == bootstrap_interval(rows)


def test_paired_difference_uses_mcnemar_for_one_draw_and_sign_flips_otherwise():
    one, two = outcomes(10, 25)
    found = paired_difference(one, two)
    assert found["p"] == mcnemar(one, two).p
    assert found["low"] < found["difference"] < found["high"]
    flips = paired_difference(np.stack([one, one]), np.stack([two, two]))
    assert flips["p"] == pytest.approx(found["p"], abs=0.006)
    assert paired_difference(one * 0.5, one * 0.5)["p"] == 1


def test_sign_flips_reject_as_often_as_they_say():
    rng = np.random.default_rng(2)
    p = [
        paired_difference(rng.random((2, 60)), rng.random((2, 60)), n_samples=300)["p"]
        for _ in range(200)
    ]
    assert np.mean(np.array(p) <= 0.05) <= 0.1


def test_holm_by_hand():
    assert holm([0.04, 0.01, 0.03]) == pytest.approx([0.06, 0.03, 0.06])
    assert holm([]) == []


@pytest.mark.parametrize(
    ("call", "error", "words"),
    [
        (lambda: mcnemar([1, 0], [1]), ComparisonError, r"shapes \(2,\) and \(1,\)"),
        (lambda: mcnemar([0.5], [1]), ComparisonError, "right or wrong"),
        (lambda: paired_difference([1], [1, 0]), ComparisonError, "same rows"),
        (lambda: bootstrap_interval([]), InputError, "at least one row"),
        (lambda: bootstrap_interval([np.nan]), FeatureError, "1 NaN"),
        (lambda: bootstrap_interval([1.0], n_samples=0), InputError, "n_samples is 0"),
        (lambda: wilson_interval(3, 2), InputError, "3 right of 2"),
    ],
)
def test_bad_input_says_what_is_wrong(call, error, words):
    with pytest.raises(error, match=words):
        call()
