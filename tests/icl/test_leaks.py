"""Copies of a query are found by id, text, clip and vector, and by nothing else."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fungi_hf.errors import DemoConfigError, InputError, InputTypeError
from fungi_hf.icl import DemoSelector, Examples
from fungi_hf.icl.audio import AudioClip
from fungi_hf.icl.leaks import LeakGuard, text_key, token_key


def test_the_default_key_ignores_case_space_and_unicode_forms():
    assert text_key("  My\tCARD \n was  lost") == "my card was lost"
    assert text_key("ｃａｒｄ ﬁne") == text_key("Card FINE")
    assert text_key("STRASSE") == text_key("straße")
    assert text_key("lost card.") != text_key("lost card")


def test_the_token_key_ignores_punctuation_too():
    assert token_key("My card - was LOST!?") == "my card was lost"
    assert token_key("我的卡") != token_key("你的卡")
    assert token_key("???") == "???"
    assert token_key("!!!") != token_key("???")


def test_rows_are_compared_by_explicit_ids_only():
    rng = np.random.default_rng(0)
    features, other = rng.normal(size=(5, 3)), rng.normal(size=(5, 3))
    named = Examples(features=features, ids=[0, 1, 2, 3, 4])
    assert LeakGuard().copies(named, Examples(features=other)) == {}
    assert (
        LeakGuard().copies(
            Examples(features=features), Examples(features=other, ids=[0, 1, 2, 3, 4])
        )
        == {}
    )
    both = LeakGuard().copies(named, Examples(features=other, ids=["1", 9, 1, 7, 8]))
    assert both == {2: (1,)}  # "1" is not 1


def test_the_pool_object_itself_is_leave_one_out_and_an_equal_one_is_not():
    rows = np.random.default_rng(0).normal(size=(6, 3))
    pool = Examples(features=rows, contents=[f"text {i}" for i in range(6)])
    assert LeakGuard().copies(pool, pool) == {row: (row,) for row in range(6)}
    unlike = Examples(features=rows, contents=[f"query {i}" for i in range(6)])
    assert LeakGuard().copies(pool, unlike) == {}


def test_vectors_are_compared_by_default_only_where_contents_are_not_texts():
    rows = np.array([[1.0, 2.0], [0.0, 1.0], [-0.0, 1.0]])
    queries = np.array([[1.0, 2.0 + 1e-12], [0.0, 1.0]])
    pool, asked = Examples(features=rows), Examples(features=queries)
    assert LeakGuard().copies(pool, asked) == {0: (0,), 1: (1, 2)}
    assert LeakGuard(vectors=False).copies(pool, asked) == {}
    texts = Examples(features=rows, contents=["a", "b", "c"])
    asked_texts = Examples(features=queries, contents=["d", "e"])
    assert LeakGuard().copies(texts, asked_texts) == {}
    assert LeakGuard(vectors=True).copies(texts, asked_texts) == {0: (0,), 1: (1, 2)}


def test_equal_clips_are_copies():
    tone = AudioClip(np.sin(np.arange(100.0)), 8000)
    pool = Examples(features=np.eye(2), contents=[tone, AudioClip(np.ones(3), 8000)])
    asked = Examples(
        features=-np.eye(2), contents=[AudioClip(tone.samples, 8000), AudioClip(tone.samples, 9000)]
    )
    assert LeakGuard().copies(pool, asked) == {0: (0,)}


@pytest.mark.parametrize(
    "strategy", ["knn", "bm25", "hybrid", "mmr", "dpp", "stratified", "random"]
)
def test_no_strategy_shows_a_copy_and_the_next_rank_moves_up(strategy):
    rng = np.random.default_rng(3)
    words = ["card", "lost", "fee", "rate"]
    texts = [" ".join(rng.choice(words, 3)) for _ in range(30)]  # many copies
    pool = Examples(
        features=rng.normal(size=(30, 4)), contents=texts, targets=rng.integers(0, 3, 30)
    )
    for queries in (pool, Examples(features=rng.normal(size=(9, 4)), contents=texts[:9])):
        demos = DemoSelector(strategy, 6, n_shared=2).fit(pool).select(queries)
        assert demos.indices.shape == (len(queries), 6)
        for query, rows in enumerate(demos.indices.tolist()):
            assert texts[query] not in [texts[row] for row in rows]
            assert len(set(rows)) == 6
            assert len({texts[row] for row in rows}) == 6
    knn = DemoSelector("knn", 6, leaks="keep", repeats="keep").fit(pool).select(pool)
    assert (knn.indices[:, 0] == np.arange(30)).all()


def test_keep_counts_and_error_refuses():
    pool = Examples(contents=["one", "two", "three"], targets=[0, 1, 1])
    asked = Examples(contents=["zero one", "ONE", "two "])
    kept = DemoSelector("bm25", 2, leaks="keep").fit(pool).select(asked)
    assert (kept.n_leaks, kept.excluded) == (2, {})
    assert kept.indices[1, 0] == 0
    with pytest.raises(InputError, match=r"2 of 3 queries are in the pool, query rows 1, 2"):
        DemoSelector("bm25", 2, leaks="error").fit(pool).select(asked)
    dropped = DemoSelector("bm25", 2).fit(pool).select(asked)
    assert dropped.excluded == {1: (0,), 2: (1,)}
    assert "n_leaks=2" in repr(dropped)


def test_a_guard_that_leaves_too_few_rows_says_for_which_query():
    pool = Examples(contents=["one", "one", "two"], targets=[0, 0, 1])
    with pytest.raises(
        DemoConfigError, match=r"k is 2, but the leak guard leaves query row 0 only 1 of 2 rows"
    ):
        DemoSelector("bm25", 2).fit(pool).select(Examples(contents=["two", "one"]))
    capped = DemoSelector("bm25", 2, max_per_class=1).fit(pool)
    with pytest.raises(DemoConfigError, match=r"max_per_class=1 leaves query row 0 only 1"):
        capped.select(Examples(contents=["two", "three two"]))


def test_own_keys_and_bad_settings():
    guard = LeakGuard(text_key=lambda text: text[:1])
    assert guard.copies(Examples(contents=["apple"]), Examples(contents=["avocado", "b"])) == {
        0: (0,)
    }
    with pytest.raises(
        DemoConfigError, match="leaks is 'drp'; choose one of 'drop', 'error', 'keep'"
    ):
        DemoSelector("knn", 1, leaks="drp")
    with pytest.raises(DemoConfigError, match="text_key is 'token'; choose one of 'tokens'"):
        LeakGuard(text_key="token")
    with pytest.raises(DemoConfigError, match="vectors is 1"):
        LeakGuard(vectors=1)
    with pytest.raises(InputTypeError, match="leaks is bool"):
        DemoSelector("knn", 1, leaks=True)


@pytest.mark.parametrize("strategy", ["knn", "bm25", "hybrid", "mmr", "dpp", "random"])
def test_repeats_are_shown_once_unless_they_are_kept(strategy):
    texts = ["lost card", "Lost  CARD", "lost card ", "pay", "account", "lost fee", "pay"]
    rng = np.random.default_rng(0)
    features = rng.normal(size=(len(texts), 4))
    pool = Examples(features=features, contents=texts, targets=list("aabbcca"), ids=list("qrstuvw"))
    asked = Examples(features=features[:1] + 0.1, contents=["my lost card"])
    seen = {}
    for repeats in ("drop", "keep"):
        found = DemoSelector(strategy, 3, repeats=repeats).fit(pool).select(asked)
        seen[repeats] = found.indices
        assert found.pool is pool
        if repeats == "drop":
            assert set(found.indices[0].tolist()) <= {0, 3, 4, 5}
    everything = DemoSelector("knn", 7, repeats="keep").fit(pool).select(asked)
    assert sorted(everything.indices[0].tolist()) == list(range(7))
    with pytest.raises(DemoConfigError, match="has 4 rows without the 3 repeats; k must not"):
        DemoSelector(strategy, 5).fit(pool)


@settings(max_examples=60, deadline=None)
@given(
    texts=st.lists(st.sampled_from(["a", "A", "b", "c ", "c", "d", "e"]), min_size=6, max_size=20),
    seed=st.integers(0, 99),
)
def test_dropping_repeats_is_choosing_from_the_first_rows(texts, seed):
    """The slow truth: a pool that never held the repeats."""
    first = list({text_key(text): row for row, text in reversed(list(enumerate(texts)))}.values())
    first = sorted(first)
    rng = np.random.default_rng(seed)
    features, targets = rng.normal(size=(len(texts), 3)), rng.integers(0, 2, len(texts))
    pool = Examples(features=features, contents=texts, targets=targets)
    bare = pool.take(first)
    asked = Examples(features=rng.normal(size=(4, 3)), contents=["a", "x", "e", "c"])
    k = min(2, len(first) - 1)
    if k < 1:
        return
    got = DemoSelector("knn", k).fit(pool).select(asked)
    wanted = DemoSelector("knn", k, repeats="keep").fit(bare).select(asked)
    assert (got.indices == np.array(first)[wanted.indices]).all()
    assert np.array_equal(got.scores, wanted.scores)
