"""The ridge judge equals a fit without each group; evidence tells a gain from luck."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from fungi_hf.tuning import ridge
from fungi_hf.tuning.evidence import REPEATS, held_out_gain
from fungi_hf.tuning.ridge import STRENGTHS, ridge_leave_out


def by_fits(blocks, weights, codes, groups):
    """One ridge regression a group and strength, with an intercept that is a feature."""
    rows = np.concatenate([w**0.5 * blocks[name].astype(np.float64) for name, w in weights], axis=1)
    scale = (rows**2).sum() / len(rows)
    rows = np.concatenate([rows, np.full((len(rows), 1), scale**0.5)], axis=1)
    targets = np.where(codes[:, None] == np.arange(codes.max() + 1), 1.0, -1.0)
    best = np.zeros(len(codes), bool)
    for strength in STRENGTHS[::-1]:
        right = np.zeros(len(codes), bool)
        for group in np.unique(groups):
            out = groups == group
            if out.all():
                continue  # nothing is left to fit
            left, wanted = rows[~out], targets[~out]
            penalty = strength * scale * np.eye(rows.shape[1])
            fitted = np.linalg.solve(left.T @ left + penalty, left.T @ wanted)
            right[out] = (rows[out] @ fitted).argmax(1) == codes[out]
        if right.sum() > best.sum():
            best = right
    return best


@settings(deadline=None, max_examples=25)
@example(10, 6, 2, 3)  # all rows are of one group
@given(st.integers(0, 2**16), st.integers(6, 30), st.integers(2, 4), st.sampled_from([0, 3, 5]))
def test_it_equals_a_fit_without_each_group(seed, n, n_classes, n_groups):
    rng = np.random.default_rng(seed)
    blocks = {name: rng.standard_normal((n, 4)).astype(np.float32) for name in "ab"}
    codes = np.concatenate([np.arange(n_classes), rng.integers(0, n_classes, n - n_classes)])
    groups = rng.integers(0, n_groups, n) if n_groups else np.arange(n)
    combinations = [[("a", 1.0)], [("a", 1.0), ("b", 0.25)]]
    found = ridge_leave_out(blocks, combinations, codes, groups)
    for some, right in zip(combinations, found, strict=True):
        np.testing.assert_array_equal(right, by_fits(blocks, some, codes, groups))


def test_a_linear_signal_is_found_that_neighbours_miss():
    rng = np.random.default_rng(0)
    rows = rng.standard_normal((200, 60)).astype(np.float32)
    codes = (rows[:, 0] > 0).astype(int)
    (right,) = ridge_leave_out({"a": rows}, [[("a", 1.0)]], codes, np.arange(200))
    assert right.mean() > 0.8
    (chance,) = ridge_leave_out({"a": rows}, [[("a", 1.0)]], rng.permutation(codes), np.arange(200))
    assert chance.mean() < 0.65
    assert tuple(sorted(STRENGTHS)) == ridge.STRENGTHS


def best_of(shares):
    return int(shares.mean(1).argmax())


def by_loops(shares, groups, choose, seed):
    from fungi_hf.seeding import numpy_generator

    n, numbers = shares.shape[1], np.unique(groups)
    gains = np.zeros(n)
    for repeat in range(REPEATS):
        generator = numpy_generator(seed, "tuning", "halves", str(repeat))
        order = generator.permutation(len(numbers))
        first = set(numbers[order[: (len(numbers) + 1) // 2]].tolist())
        for side in (True, False):
            mine = [i for i in range(n) if (groups[i] in first) == side]
            others = [i for i in range(n) if (groups[i] in first) != side]
            place = choose(shares[:, mine])
            for i in others:
                gains[i] += (shares[place, i] - shares[0, i]) / REPEATS
    sums = [sum(gains[i] - gains.mean() for i in range(n) if groups[i] == g) for g in numbers]
    return gains.mean(), np.sqrt(sum(one**2 for one in sums)) / n


@settings(deadline=None, max_examples=20)
@given(st.integers(0, 2**16), st.integers(4, 25), st.integers(2, 6), st.sampled_from([0, 4]))
def test_held_out_gains_equal_loops(seed, n, n_candidates, n_groups):
    rng = np.random.default_rng(seed)
    shares = (rng.random((n_candidates, n)) < 0.6).astype(float)
    groups = np.arange(n) if not n_groups else np.arange(n) % n_groups
    found = held_out_gain(shares, groups, best_of, seed)
    gain, error = by_loops(shares, groups, best_of, seed)
    assert found.gain == pytest.approx(gain, abs=1e-12)
    assert found.error == pytest.approx(error, abs=1e-12)
    assert found.n_candidates == n_candidates


def test_the_best_of_many_equal_candidates_gains_nothing():
    """Its gain on all rows is luck; in one of twenty tasks at most it looks like more."""
    rng, sure, lucky = np.random.default_rng(1), 0, 0
    for seed in range(60):
        shares = (rng.random((200, 400)) < 0.7).astype(float)
        found = held_out_gain(shares, np.arange(400), best_of, seed)
        sure += found.gain > 0 and found.p < 0.05
        ahead = shares[best_of(shares)] - shares[0]
        lucky += ahead.mean() > 1.645 * ahead.std() / 20
    assert lucky > 30  # a test of the winner alone calls half of them better or more
    assert sure <= 6


def test_a_gain_that_is_there_is_found():
    rng = np.random.default_rng(2)
    shares = (rng.random((200, 400)) < 0.7).astype(float)
    shares[7] = rng.random(400) < 0.85
    found = held_out_gain(shares, np.arange(400), best_of, 0)
    assert found.gain > 0.08
    assert found.p < 1e-3
