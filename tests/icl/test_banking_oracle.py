"""Retrieval on Banking-77 gives the stored numbers exactly."""

from __future__ import annotations

import functools
import hashlib
import re

import numpy as np
import pytest

from fungi_hf.icl import DemoSelector, Examples
from fungi_hf.icl.leaks import LeakGuard
from fungi_hf.icl.strategies import BM25, DPP, KNN, MMR, Hybrid, Random, Stratified

from .banking import gold, names, oracle, split


@functools.cache
def select(k: int = 20, cap: int | None = None, leaks: str = "keep", text_key: str = "default"):
    guard = LeakGuard(leaks, text_key=text_key)
    return (
        DemoSelector("bm25", k, max_per_class=cap, leaks=guard, repeats="keep")
        .fit(split("train"))
        .select(split("test"))
    )


def counts(demos) -> dict[str, int]:
    return {
        "covered": int(demos.covered(gold()).sum()),
        "majority_correct": int((demos.vote("majority") == gold()).sum()),
        "weighted_correct": int((demos.vote("weighted") == gold()).sum()),
    }


def known(entry: dict) -> dict[str, int]:
    return {name: entry[name] for name in ("covered", "majority_correct", "weighted_correct")}


def test_the_repository_holds_the_data_that_the_numbers_are_about():
    train, test = split("train"), split("test")
    assert (len(train), len(test), len(names())) == (10_003, 3_080, 77)
    assert oracle()["dataset"]["train"] == len(train)


slow = pytest.mark.slow


@pytest.mark.parametrize(
    "k",
    [
        1,
        pytest.param(3, marks=slow),
        pytest.param(5, marks=slow),
        10,
        20,
        pytest.param(40, marks=slow),
    ],
)
def test_bm25_counts(k):
    demos = select(k)
    assert counts(demos) == known(oracle()["bm25_knn"][str(k)])
    labels = np.array(split("train").targets)[demos.indices]
    distinct = np.mean([len(set(row)) for row in labels.tolist()])
    assert distinct == pytest.approx(oracle()["bm25_knn"][str(k)]["labels_per_query"], abs=0.01)


def test_bm25_rows_have_the_stored_digest():
    indices = select(20).indices
    digest = hashlib.sha256(np.ascontiguousarray(indices).astype("<i4").tobytes()).hexdigest()
    assert digest == oracle()["top20_sha256"]["value"]
    for row, expected in oracle()["first_rows_top20"].items():
        assert indices[int(row)].tolist() == expected


def test_reciprocal_rank_vote():
    right = (select(20).vote("reciprocal_rank") == gold()).sum()
    assert right == oracle()["bm25_knn"]["20"]["reciprocal_rank_correct"]


@pytest.mark.parametrize("cap", [1, pytest.param(2, marks=slow), pytest.param(3, marks=slow), 5])
def test_caps_walk_the_whole_ranking(cap):
    demos = select(20, cap)
    assert counts(demos) == known(oracle()["bm25_cap_k20"][str(cap)])
    labels = np.array(split("train").targets)[demos.indices]
    assert max(np.bincount(row).max() for row in labels) == cap


def test_stratified_with_few_places_is_a_cap_of_one_and_depends_on_the_query():
    demos = (
        DemoSelector(Stratified(BM25()), 20, leaks="keep", repeats="keep")
        .fit(split("train"))
        .select(split("test"))
    )
    np.testing.assert_array_equal(demos.indices, select(20, 1).indices)
    labels = np.array(split("train").targets)[demos.indices]
    assert len({frozenset(row) for row in labels.tolist()}) > 3_000
    assert int(demos.covered(gold()).sum()) == 3_066


def test_the_guard_finds_the_stored_pairs_and_does_not_change_the_counts():
    demos = select(20, leaks="drop")
    pairs = [[query, row] for query, rows in demos.excluded.items() for row in rows]
    assert pairs == oracle()["leaks"]["pairs_test_train"]
    assert demos.n_leaks == oracle()["leaks"]["test_rows"] == 7
    assert counts(demos) == known(oracle()["leaks"]["bm25_k20_after_dropping"])
    shown = sum(row in select(20).indices[query] for query, row in pairs)
    assert shown == oracle()["leaks"]["shown_at_k20"]
    assert not any(row in demos.indices[query] for query, row in pairs)


def test_the_token_key_finds_more():
    demos = select(20, leaks="drop", text_key="tokens")
    assert demos.n_leaks == oracle()["leaks_tokens"]["test_rows"] == 25
    assert counts(demos) == known(oracle()["leaks_tokens"]["bm25_k20_after_dropping"])


@pytest.mark.parametrize(
    ("text_key", "repeats"), [("default", 4), pytest.param("tokens", 31, marks=slow)]
)
def test_leave_one_out_shows_nobody_themselves_or_a_copy(text_key, repeats):
    train = split("train")
    guard = LeakGuard(text_key=text_key)
    groups = {rows for rows in guard.copies(train, train).values() if len(rows) > 1}
    assert sum(len(rows) - 1 for rows in groups) == repeats
    if text_key == "default":
        assert sorted(map(list, groups)) == oracle()["leaks"]["train_repeat_groups"]
    demos = DemoSelector("bm25", 5, leaks=guard).fit(train).select(train)
    assert demos.n_leaks == len(train)
    for query, rows in demos.excluded.items():
        assert query in rows
        assert not set(rows) & set(demos.indices[query].tolist())


def test_random_demonstrations_and_permuted_labels_fall_to_the_floor():
    train, test = split("train"), split("test")
    drawn = DemoSelector(Random(), 20).fit(train).select(test)
    assert (drawn.vote() == gold()).mean() <= 0.03
    permuted = np.random.default_rng(0).permutation(np.array(train.targets))
    pool = Examples(contents=train.contents, targets=permuted)
    demos = DemoSelector("bm25", 20, leaks="keep", repeats="keep").fit(pool).select(test)
    right = int((demos.vote() == gold()).sum())
    assert right == oracle()["shuffled_labels_k20"]["majority_correct"]


def tfidf() -> tuple[Examples, Examples]:
    train, test = split("train"), split("test")
    vocabulary: dict[str, int] = {}
    tokens = [[re.findall("[a-z0-9]+", t.lower()) for t in s.contents] for s in (train, test)]
    for text in tokens[0]:
        for word in text:
            vocabulary.setdefault(word, len(vocabulary))
    matrices = []
    for texts in tokens:
        matrix = np.zeros((len(texts), len(vocabulary)))
        for row, text in enumerate(texts):
            for word in text:
                if word in vocabulary:
                    matrix[row, vocabulary[word]] += 1
        matrices.append(matrix)
    held_by = (matrices[0] > 0).sum(axis=0)
    idf = np.log((1 + len(train)) / (1 + held_by)) + 1
    both = [m * idf for m in matrices]
    return tuple(
        Examples(features=m, contents=s.contents, targets=s.targets)
        for m, s in zip(both, (train, test), strict=True)
    )


@pytest.mark.slow
def test_tfidf_strategies():
    train, test = tfidf()
    cases = {
        "knn 20": (KNN(), None, 0),
        "knn 20 cap 1": (KNN(), 1, 0),
        "knn 20 cap 3": (KNN(), 3, 0),
        "knn 20 cap 5": (KNN(), 5, 0),
        "rrf bm25+tfidf 20": (Hybrid(), None, 5),
        "mmr 20 lam 0.7": (MMR(), None, 5),
        "mmr 20 lam 0.5": (MMR(0.5), None, 5),
        "dpp 20 scale 0.02": (DPP(0.02), None, 5),
        "dpp 20 scale 0.1": (DPP(0.1), None, 5),
        "dpp 20 scale 1": (DPP(1.0), None, 5),
    }
    for name, (strategy, cap, slack) in cases.items():
        options = {"leaks": "keep", "repeats": "keep"}  # as the stored counts were taken
        selector = DemoSelector(strategy, 20, max_per_class=cap, **options).fit(train)
        found, expected = counts(selector.select(test)), known(oracle()["tfidf_cosine"][name])
        assert all(abs(found[key] - expected[key]) <= slack for key in found), (name, found)
