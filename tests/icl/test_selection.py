"""Selected rows equal those of a float64 brute force, ties and copies included."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fungi_hf.icl import DemoSelector, Examples
from fungi_hf.icl.strategies import BM25, DPP, KNN, MMR, Hybrid, Stratified

from . import references

WORDS = ["card", "lost", "pay", "top", "up", "fee", "rate", "pin"]
pytestmark = pytest.mark.filterwarnings("ignore:.*share no token:UserWarning")
few = settings(max_examples=60, deadline=None, derandomize=True)


@dataclasses.dataclass
class Problem:
    pool: Examples
    queries: Examples
    labels: list[int]
    k: int
    cap: int | None
    excluded: list[set[int]]


@st.composite
def problems(draw, ties: bool = True, capped: bool = True) -> Problem:
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    n, width = draw(st.integers(6, 50)), draw(st.integers(1 if ties else 2, 9))
    n_queries = draw(st.integers(1, 6))

    def matrix(rows):
        if ties and draw(st.booleans()):
            return rng.integers(-2, 3, (rows, width)).astype(np.float64)
        return rng.normal(size=(rows, width))

    def texts(rows):
        return [" ".join(rng.choice(WORDS, rng.integers(1, 6))) for _ in range(rows)]

    features, queries = matrix(n), matrix(n_queries)
    if ties:
        copies = rng.integers(0, n, n // 3)
        features[rng.integers(0, n, n // 3)] = features[copies]
    labels = rng.integers(0, draw(st.integers(2, 6)), n).tolist()
    leave_one_out = draw(st.booleans())
    # Ids are the only rule at work here, so that the reference needs none of the others.
    shared = {int(q): int(r) for q, r in enumerate(rng.integers(0, n, n_queries))}
    ids = [f"pool {row}" for row in range(n)]
    pool = Examples(
        features=features,
        contents=[f"{t} {i}" for i, t in enumerate(texts(n))],
        targets=labels,
        ids=ids,
    )
    asked_ids = [ids[shared[q]] if leave_one_out else f"query {q}" for q in range(n_queries)]
    asked_ids = [i if asked_ids.index(i) == q else f"query {q}" for q, i in enumerate(asked_ids)]
    asked = Examples(
        features=queries,
        contents=[f"{t} q{i}" for i, t in enumerate(texts(n_queries))],
        ids=asked_ids,
    )
    excluded = [{ids.index(i)} if i in ids else set() for i in asked_ids]
    cap = draw(st.none() | st.integers(1, 4)) if capped else None
    supply = min(
        sum(
            min(cap or n, sum(labels[r] == label for r in range(n) if r not in out))
            for label in set(labels)
        )
        for out in excluded
    )
    return Problem(pool, asked, labels, draw(st.integers(1, min(8, supply))), cap, excluded)


def chosen(problem: Problem, strategy, **options) -> list[list[int]]:
    selector = DemoSelector(strategy, problem.k, max_per_class=problem.cap, **options)
    demos = selector.fit(problem.pool).select(problem.queries)
    return demos.indices.tolist()


def zero_free(problem: Problem) -> Problem:
    """Move all-zero rows away from zero: they are tested apart, with their warning."""
    for examples in (problem.pool, problem.queries):
        features = examples.features
        features[~features.any(axis=1), 0] = 1.0
    return problem


def orders(problem: Problem, metric: str = "cosine"):
    scores = references.similarities(problem.queries.features, problem.pool.features, metric)
    return scores, [
        references.ranking(s, out) for s, out in zip(scores, problem.excluded, strict=True)
    ]


@few
@given(problems(), st.sampled_from(["cosine", "dot", "euclidean"]))
def test_knn_equals_brute_force(problem, metric):
    zero_free(problem)
    _, ranked = orders(problem, metric)
    expected = [references.first(order, problem.k, problem.labels, problem.cap) for order in ranked]
    assert chosen(problem, KNN(metric)) == expected


@few
@given(problems(), st.sampled_from([0.0, 0.3, 0.5, 0.7, 1.0]), st.integers(1, 30))
def test_mmr_equals_brute_force(problem, lam, more):
    zero_free(problem)
    near, ranked = orders(problem)
    alike = references.similarities(problem.pool.features, problem.pool.features)
    options = {"lam": lam, "candidates": problem.k + more}
    expected = [
        references.mmr(
            s, alike, order, problem.k, **options, labels=problem.labels, cap=problem.cap
        )
        for s, order in zip(near, ranked, strict=True)
    ]
    assert chosen(problem, MMR(**options)) == expected


@few
@given(problems(), st.sampled_from([0.01, 0.1, 1.0, 50.0]), st.integers(1, 30))
def test_dpp_equals_the_naive_greedy(problem, scale, more):
    zero_free(problem)
    near, ranked = orders(problem)
    alike = references.similarities(problem.pool.features, problem.pool.features)
    options = {"scale": scale, "candidates": problem.k + more}
    expected = [
        references.dpp(
            s, alike, order, problem.k, **options, labels=problem.labels, cap=problem.cap
        )
        for s, order in zip(near, ranked, strict=True)
    ]
    assert chosen(problem, DPP(**options)) == expected


@few
@given(problems(), st.booleans())
def test_stratified_equals_brute_force(problem, by_words):
    zero_free(problem)
    if by_words:
        scores = references.bm25(problem.queries.contents, problem.pool.contents)
        ranked = [references.ranking(s, o) for s, o in zip(scores, problem.excluded, strict=True)]
    else:
        _, ranked = orders(problem)
    expected = [
        references.stratified(order, problem.k, problem.labels, problem.cap) for order in ranked
    ]
    assert chosen(problem, Stratified(BM25() if by_words else KNN())) == expected


@few
@given(problems(), st.integers(1, 40), st.sampled_from([None, (1.0, 3.0)]))
def test_rank_fusion_equals_brute_force(problem, depth, weights):
    zero_free(problem)
    _, by_features = orders(problem)
    words = references.bm25(problem.queries.contents, problem.pool.contents)
    expected = []
    for q, out in enumerate(problem.excluded):
        lists = [by_features[q], references.ranking(words[q], out)]
        fused = references.rrf(lists, len(problem.pool), depth, weights or (1.0, 1.0))
        expected.append(
            references.first(references.ranking(fused, out), problem.k, problem.labels, problem.cap)
        )
    assert chosen(problem, Hybrid(depth=depth, weights=weights)) == expected


@few
@given(problems(), st.integers(1, 40), st.sampled_from([0.0, 0.25, 1.0]))
def test_convex_fusion_equals_brute_force(problem, depth, alpha):
    zero_free(problem)
    near, by_features = orders(problem)
    words = references.bm25(problem.queries.contents, problem.pool.contents)
    expected = []
    for q, out in enumerate(problem.excluded):
        lists = [by_features[q], references.ranking(words[q], out)]
        fused = references.convex([near[q], words[q]], lists, len(problem.pool), depth, alpha)
        expected.append(
            references.first(references.ranking(fused, out), problem.k, problem.labels, problem.cap)
        )
    assert chosen(problem, Hybrid(depth=depth, fusion="convex", alpha=alpha)) == expected


@few
@given(problems())
def test_bm25_equals_brute_force(problem):
    scores = references.bm25(problem.queries.contents, problem.pool.contents)
    ranked = [references.ranking(s, o) for s, o in zip(scores, problem.excluded, strict=True)]
    expected = [references.first(order, problem.k, problem.labels, problem.cap) for order in ranked]
    demos = (
        DemoSelector("bm25", problem.k, max_per_class=problem.cap)
        .fit(problem.pool)
        .select(problem.queries)
    )
    assert demos.indices.tolist() == expected
    np.testing.assert_allclose(
        demos.scores, np.take_along_axis(scores, demos.indices, axis=1), rtol=1e-6
    )


@few
@given(problems(ties=False))
def test_mmr_with_lam_one_is_knn(problem):
    assert chosen(problem, MMR(lam=1.0, candidates=problem.k + 1)) == chosen(problem, KNN())


@few
@given(problems(ties=False, capped=False), st.randoms(use_true_random=False))
def test_permuting_the_pool_permutes_the_rows(problem, random):
    # BM25 rankings tie often; features of continuous random numbers do not.
    moved = list(range(len(problem.pool)))
    random.shuffle(moved)
    pool = problem.pool.take(moved)
    for strategy in (KNN(), MMR(), DPP(), Stratified()):
        here = chosen(problem, strategy)
        there = chosen(dataclasses.replace(problem, pool=pool), strategy)
        assert [[moved[row] for row in rows] for rows in there] == here, strategy
