"""Claims of the selection strategies one by one: fills, copies, zero rows, arrays, seeds."""

from __future__ import annotations

import numpy as np
import pytest

from fungi_hf.icl import DemoSelector, Examples, diversity
from fungi_hf.icl.strategies import DPP, KNN, MMR, Random, Stratified

from . import references

pytestmark = pytest.mark.filterwarnings("ignore:.*share no token:UserWarning")


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
    with pytest.warns(UserWarning, match="1 of 2 rows of queries are all zeros") as caught:
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
