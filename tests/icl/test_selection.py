"""Selected rows equal those of a float64 brute force, ties and copies included."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fungi_hf.icl import DemoSelector, Examples, diversity
from fungi_hf.icl.strategies import BM25, DPP, KNN, MMR, Hybrid, Random, Stratified

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


def test_dpp_update_equals_determinants_on_random_kernels():
    rng = np.random.default_rng(5)
    for _ in range(200):
        n, width, k = int(rng.integers(8, 30)), int(rng.integers(6, 12)), int(rng.integers(2, 6))
        pool, query = rng.normal(size=(n, width)), rng.normal(size=(1, width))
        near = references.similarities(query, pool)[0]
        order = references.ranking(near)
        scale = float(rng.choice([0.05, 0.1, 0.5]))
        expected = references.dpp(
            near, references.similarities(pool, pool), order, k, scale=scale, candidates=n
        )
        selector = DemoSelector(DPP(scale, candidates=n), k).fit(Examples(features=pool))
        assert selector.select(Examples(features=query)).indices[0].tolist() == expected


def test_dpp_never_takes_a_copy_while_others_add_volume():
    rng = np.random.default_rng(0)
    rows = rng.normal(size=(12, 16))
    pool = Examples(features=np.vstack([rows[:1], rows]))  # rows 0 and 1 are equal
    picked = DemoSelector(DPP(), 12).fit(
        Examples(features=np.vstack([pool.features, rows[:1] + 1]))
    )
    indices = picked.select(Examples(features=rows[:1] * 2 + 0.01)).indices[0].tolist()
    assert 0 in indices
    assert 1 not in indices


def test_dpp_fills_from_the_ranking_once_nothing_adds_volume():
    pool = Examples(features=np.repeat(np.eye(2), 6, axis=0))
    demos = DemoSelector(DPP(1.0), 5).fit(pool).select(Examples(features=[[1.0, 0.9]]))
    assert demos.indices.tolist() == [[0, 1, 2, 3, 6]]


def test_all_zero_rows_have_similarity_zero_and_one_warning_with_the_count():
    pool = Examples(features=[[0.0, 0.0], [-1.0, 0.0], [1.0, 0.0]])
    with pytest.warns(UserWarning, match="1 of 3 rows of .* are all zeros"):
        selector = DemoSelector("knn", 3, leaks="keep").fit(pool)
    demos = selector.select(Examples(features=[[1.0, 0.0]]))
    assert demos.indices.tolist() == [[2, 0, 1]]
    assert demos.scores.tolist() == [[1.0, 0.0, -1.0]]
    with pytest.warns(UserWarning, match="1 of 2 queries have all-zero") as caught:
        zero = selector.select(Examples(features=[[0.0, 0.0], [1.0, 0.0]]))
    assert len(caught) == 1
    assert zero.indices[0].tolist() == [0, 1, 2]


def test_kinds_of_arrays_give_the_same_rows_and_stay_as_they_are():
    torch = pytest.importorskip("torch")
    rng = np.random.default_rng(0)
    base = rng.integers(-8, 9, (40, 6)).astype(np.float32) / 8
    query = rng.integers(-8, 9, (5, 6)).astype(np.float32) / 8
    read_only = base.copy()
    read_only.flags.writeable = False
    kinds = [
        base,
        base.astype(np.float16),
        base.astype(np.float64),
        np.asfortranarray(base),
        np.repeat(base, 2, axis=1)[:, ::2],
        read_only,
        torch.from_numpy(base.copy()),
        torch.from_numpy(base).to(torch.bfloat16),
        torch.from_numpy(base).requires_grad_(),
        base.tolist(),
        base.astype(">f4"),
    ]

    def plain(kind):
        return kind.detach().float().numpy() if hasattr(kind, "detach") else np.array(kind)

    expected = DemoSelector("knn", 7).fit(Examples(features=base)).select(Examples(features=query))
    for kind in kinds:
        before = plain(kind).copy()
        demos = DemoSelector("knn", 7).fit(Examples(features=kind)).select(Examples(features=query))
        assert demos.indices.tolist() == expected.indices.tolist(), type(kind)
        np.testing.assert_array_equal(before, plain(kind))


@pytest.mark.slow
@pytest.mark.parametrize(
    "strategy", [KNN(), MMR(), DPP(), Stratified()], ids=lambda s: type(s).__name__
)
def test_wide_features_of_banking_size_equal_brute_force(strategy):
    rng = np.random.default_rng(1)
    pool = rng.normal(size=(10_003, 768)).astype(np.float32)
    queries = rng.normal(size=(3_080, 768)).astype(np.float32)
    pool[5_000:5_050] = pool[:50]
    labels = rng.integers(0, 77, 10_003).tolist()
    demos = (
        DemoSelector(strategy, 20)
        .fit(Examples(features=pool, targets=labels))
        .select(Examples(features=queries))
    )
    checked = range(3_080) if isinstance(strategy, KNN) else range(0, 3_080, 100)
    near = references.similarities(queries, pool)
    for q in checked:
        order = np.lexsort((np.arange(10_003), -np.round(near[q], 9))).tolist()
        if isinstance(strategy, KNN):
            expected = order[:20]
        elif isinstance(strategy, Stratified):
            expected = references.stratified(order, 20, labels)
        else:
            held = order[:100]
            place = {row: i for i, row in enumerate(held)}
            small = references.similarities(pool[held], pool[held])
            # The references see the candidates alone, numbered by row so that ties fall alike.
            by_row = sorted(held)
            index = [place[row] for row in by_row]
            alike, own = small[np.ix_(index, index)], near[q][by_row]
            local = [by_row.index(row) for row in held]
            twin = references.mmr if isinstance(strategy, MMR) else references.dpp
            options = {"lam": 0.7} if isinstance(strategy, MMR) else {"scale": 0.1}
            picked = twin(own, alike, local, 20, candidates=100, **options)
            expected = [by_row[i] for i in picked]
        assert demos.indices[q].tolist() == expected, q


def test_random_rows_depend_on_seed_and_content_alone():
    pool = Examples(contents=[f"text {i}" for i in range(50)], targets=list(range(50)))
    queries = Examples(contents=["a", "b", "a"])
    demos = DemoSelector("random", 8).fit(pool).select(queries)
    assert demos.indices[0].tolist() == demos.indices[2].tolist() != demos.indices[1].tolist()
    assert all(len(set(rows)) == 8 for rows in demos.indices.tolist())
    alone = DemoSelector("random", 8).fit(pool).select(Examples(contents=["b"]))
    assert alone.indices[0].tolist() == demos.indices[1].tolist()
    other = DemoSelector("random", 8, seed=1).fit(pool).select(queries)
    assert other.indices.tolist() != demos.indices.tolist()
    shared = DemoSelector(Random(shared=True), 8).fit(pool).select(queries)
    assert len({tuple(rows) for rows in shared.indices.tolist()}) == 1


def test_random_rows_are_ranked_by_similarity_where_there_are_features():
    rng = np.random.default_rng(0)
    pool = Examples(features=rng.normal(size=(30, 4)), targets=list(range(30)))
    demos = DemoSelector("random", 10).fit(pool).select(Examples(features=rng.normal(size=(3, 4))))
    assert (np.diff(demos.scores, axis=1) <= 0).all()
    assert demos.vote("weighted").shape == (3,)


def test_shared_rows_open_every_prompt_and_are_not_retrieved_again():
    rng = np.random.default_rng(0)
    pool = Examples(features=rng.normal(size=(40, 4)), targets=rng.integers(0, 4, 40))
    queries = Examples(features=rng.normal(size=(9, 4)))
    for strategy in ("knn", "mmr", "dpp", "stratified", "random"):
        for order in ("nearest_last", "nearest_first", "alternate", "shuffled"):
            demos = (
                DemoSelector(strategy, 7, n_shared=3, order=order, max_per_class=5)
                .fit(pool)
                .select(queries)
            )
            openings = {tuple(shown.row for shown in demos[q][:3]) for q in range(9)}
            assert len(openings) == 1
            assert all(len(set(rows)) == 7 for rows in demos.indices.tolist())
    plain = DemoSelector("knn", 4).fit(pool).select(queries)
    some = DemoSelector("knn", 7, n_shared=3).fit(pool).select(queries)
    shared = set(some.indices[0, 4:].tolist())
    ranked = DemoSelector("knn", 12).fit(pool).select(queries)
    for q in range(9):
        expected = [row for row in ranked.indices[q].tolist() if row not in shared][:4]
        assert some.indices[q, :4].tolist() == expected
    assert plain.indices.shape == (9, 4)


def test_per_label_gives_every_label_the_same_number_of_rows():
    rng = np.random.default_rng(0)
    labels = np.repeat([0, 1, 2], [4, 5, 30])
    pool = Examples(features=rng.normal(size=(39, 3)), targets=labels)
    demos = (
        DemoSelector(Stratified(per_label=2))
        .fit(pool)
        .select(Examples(features=rng.normal(size=(5, 3))))
    )
    assert demos.indices.shape == (5, 6)
    for rows in demos.indices:
        assert np.bincount(labels[rows]).tolist() == [2, 2, 2]


@pytest.mark.parametrize("n", [1, 2, 63, 65, 100, 129, 256, 257])
@pytest.mark.parametrize("width", [1, 7, 768, 5000])
def test_products_in_parts_are_the_whole_product(n, width):
    rows = np.random.default_rng(n).standard_normal((n, width))
    np.testing.assert_allclose(diversity._products(rows), rows @ rows.T, rtol=1e-12, atol=1e-10)
