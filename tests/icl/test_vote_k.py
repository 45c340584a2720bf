"""Rows to annotate equal a plain greedy that adds up every vote again."""

from __future__ import annotations

import numpy as np
import pytest

from fungi_hf.errors import DemoConfigError, FeatureError
from fungi_hf.icl import vote_k_pool

from . import references


def naive(features, size, k, rho):
    scores = references.similarities(features, features)
    near = [references.ranking(row, {i})[:k] for i, row in enumerate(scores)]
    taken = []
    for _ in range(size):

        def votes(u):
            return round(
                sum(
                    float(rho) ** -sum(w in taken for w in near[v])
                    for v in range(len(near))
                    if v not in taken and u in near[v]
                ),
                9,
            )

        left = [u for u in range(len(near)) if u not in taken]
        taken.append(max(left, key=lambda u: (votes(u), -u)))
    return taken


@pytest.mark.parametrize("seed", range(12))
def test_equals_the_plain_greedy(seed):
    rng = np.random.default_rng(seed)
    n = int(rng.integers(5, 40))
    features = rng.integers(-2, 3, (n, 3)) + 0.01 if seed % 2 else rng.normal(size=(n, 3))
    k, size = int(rng.integers(1, n)), int(rng.integers(1, n + 1))
    rho = float(rng.choice([1.5, 10.0]))
    assert vote_k_pool(features, size, k=k, rho=rho).tolist() == naive(features, size, k, rho)


def test_spreads_over_clusters():
    rng = np.random.default_rng(0)
    centres = np.eye(4) * 10
    features = np.repeat(centres, 25, axis=0) + rng.normal(size=(100, 4))
    taken = vote_k_pool(features, 4, k=20)
    assert sorted(taken // 25) == [0, 1, 2, 3]
    np.testing.assert_array_equal(taken, vote_k_pool(features, 8, k=20)[:4])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"size": 0}, "size must be an integer >= 1; got 0"),
        ({"size": 11}, "size is 11, the pool has 10 rows"),
        ({"size": 2.0}, r"size must be .* got 2\.0"),
        ({"size": True}, "size must be .* got True"),
        ({"size": 2, "k": 10}, "k is 10, but a row of a pool of 10 has 9 neighbours"),
        ({"size": 2, "k": 0}, "k must be an integer >= 1; got 0"),
        ({"size": 2, "rho": 1}, "rho must be a number > 1; got 1"),
        ({"size": 2, "rho": float("inf")}, "rho must be .* got inf"),
        ({"size": 2, "rho": "10"}, "rho must be .* got '10'"),
        ({"size": 2}, "k is 150"),
    ],
)
def test_bad_settings(options, message):
    features = np.random.default_rng(0).normal(size=(10, 2))
    with pytest.raises(DemoConfigError, match=message):
        vote_k_pool(features, **{"k": 3, **options} if options != {"size": 2} else options)


def test_bad_features():
    with pytest.raises(FeatureError, match="1 of 2 rows with NaN"):
        vote_k_pool([[1.0], [np.nan]], 1, k=1)
