from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from sklearn.neighbors import KNeighborsClassifier

from fungi_hf.errors import (
    ConfigError,
    FeatureError,
    FingerprintMismatchError,
    InputError,
    InputTypeError,
    LabelError,
    NotFittedError,
    ShapeError,
)
from fungi_hf.neighbors import ExactIndex, KNNClassifier
from fungi_hf.neighbors.classifier import count_votes, decide
from tests.neighbors import brute


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize("metric", ["cosine", "euclidean"])
def test_uniform_votes_equal_scikit_learn(seed, metric):
    rng = np.random.default_rng(seed)
    n, k, n_classes = rng.integers(30, 300), int(rng.integers(1, 25)), rng.integers(2, 9)
    X, y = rng.standard_normal((n, 5)), rng.integers(0, n_classes, n) * 3 - 4
    T = rng.standard_normal((80, 5))
    ours = KNNClassifier(k, metric=metric).fit(X, y)
    theirs = KNeighborsClassifier(k, metric=metric).fit(X, y)
    np.testing.assert_array_equal(ours.predict(T), theirs.predict(T))
    np.testing.assert_allclose(ours.predict_proba(T), theirs.predict_proba(T))
    np.testing.assert_array_equal(ours.classes_, theirs.classes_)
    found = ours.index.search(T, k)
    wanted_distances, wanted = theirs.kneighbors(T)
    np.testing.assert_array_equal(found.indices, wanted)
    np.testing.assert_allclose(found.distances, wanted_distances, rtol=1e-5, atol=1e-6)
    labels = rng.choice(ours.classes_, 80)
    assert ours.score(T, labels) == theirs.score(T, labels)


def slow_similarity_vote(scores, labels, tie):
    votes = {}
    for score, label in zip(scores, labels, strict=True):
        votes[label] = votes.get(label, 0) + max(score, 0)
    best = max(round(vote, 9) for vote in votes.values())
    tied = [label for label in labels if round(votes[label], 9) == best]
    return tied[0] if tie == "nearest" else min(tied)


@pytest.mark.parametrize("tie", ["smallest", "nearest"])
@pytest.mark.parametrize("metric", ["cosine", "dot"])
def test_similarity_votes_equal_a_loop(tie, metric):
    rng = np.random.default_rng(0)
    X, T = rng.integers(-2, 3, (150, 3)) + 0.5, rng.integers(-2, 3, (60, 3)) + 0.5
    y = rng.choice(["b", "a", "c"], 150)
    predicted = KNNClassifier(6, weights="similarity", metric=metric, tie=tie).fit(X, y).predict(T)
    indices, scores = brute.search(T, X, 6, metric)
    wanted = [slow_similarity_vote(s, y[i], tie) for s, i in zip(scores, indices, strict=True)]
    np.testing.assert_array_equal(predicted, wanted)


def test_ties_go_to_the_smallest_label_or_to_the_nearest_row():
    X, y = [[1.0, 0.1], [1.0, 0.2], [1.0, 0.3], [1.0, 0.4]], ["z", "a", "z", "a"]
    query = [[1.0, 0.0]]
    assert KNNClassifier(4).fit(X, y).predict(query) == ["a"]
    assert KNNClassifier(4, tie="nearest").fit(X, y).predict(query) == ["z"]
    assert KNNClassifier(3, tie="nearest").fit(X, y).predict(query) == ["z"]


def test_similarity_weights_by_hand():
    codes = np.array([[0, 1, 1], [2, 0, -1], [1, 0, 0]])
    scores = np.array([[0.9, 0.3, 0.2], [-0.1, -0.2, -np.inf], [-4.0, -9.0, -1.0]])
    votes = count_votes(codes, scores, 3, "similarity", "cosine")
    # The second query has no positive similarity: its two neighbours count one each.
    np.testing.assert_allclose(votes, [[0.9, 0.5, 0], [1, 0, 1], [2, 1, 0]])
    votes = count_votes(codes[2:], scores[2:], 3, "similarity", "euclidean")
    np.testing.assert_allclose(votes, [[1 / 4 + 1 / 2, 1 / 3, 0]])
    np.testing.assert_array_equal(decide(np.array([[1.0, 1, 2]]), codes[:1], "nearest"), [2])


def test_leave_one_out_equals_a_loop():
    rng = np.random.default_rng(1)
    X, y = rng.standard_normal((60, 4)), rng.choice(["u", "v", "w"], 60)
    wanted = [
        KNNClassifier(5).fit(np.delete(X, i, 0), np.delete(y, i)).predict(X[i : i + 1])[0]
        for i in range(60)
    ]
    np.testing.assert_array_equal(KNNClassifier(5).fit(X, y).leave_one_out(), wanted)


def test_leave_one_out_also_leaves_out_named_rows():
    X = np.array([[1.0, 0], [1, 0.01], [0, 1], [0.01, 1]])
    knn = KNNClassifier(1).fit(X, [0, 1, 2, 2])
    np.testing.assert_array_equal(knn.leave_one_out(), [1, 0, 2, 2])
    np.testing.assert_array_equal(knn.leave_one_out(exclude={0: [1], 1: []}), [2, 0, 2, 2])
    with pytest.raises(InputError, match="no neighbours for row 0"):
        knn.leave_one_out(exclude={0: [1, 2, 3]})


def test_labels_may_be_strings_integers_booleans_or_whole_floats():
    X = np.eye(4)
    for y in (["a", "b", "a", "b"], [3, -1, 3, -1], [True, False] * 2, np.array([0.0, 1.0] * 2)):
        predicted = KNNClassifier(1).fit(X, y).predict(X)
        np.testing.assert_array_equal(predicted, np.asarray(y))


def test_labels_unseen_in_fit_count_as_wrong():
    knn = KNNClassifier(1).fit(np.eye(2), ["a", "b"])
    assert knn.score(np.eye(2), ["a", "new"]) == 0.5


def test_any_index_will_do_and_features_carry_their_fingerprint():
    index = ExactIndex("dot")
    rows = SimpleNamespace(array=np.eye(3, dtype=np.float32), fingerprint="one")
    knn = KNNClassifier(1, index=index).fit(rows, [0, 1, 1])
    assert knn.metric == "dot"
    assert knn.index is index
    np.testing.assert_array_equal(knn.predict(rows), [0, 1, 1])
    with pytest.raises(FingerprintMismatchError, match=r"'two'.*'one'"):
        knn.predict(SimpleNamespace(array=np.eye(3, dtype=np.float32), fingerprint="two"))


def fit(y, n=4, **options):
    return KNNClassifier(1, **options).fit(np.eye(n), y)


@pytest.mark.parametrize(
    ("call", "error", "words"),
    [
        (
            lambda: KNNClassifier(True),
            InputTypeError,
            "n_neighbors must be an integer >= 1; got True",
        ),
        (lambda: KNNClassifier(3.0), InputTypeError, "an integer >= 1; got 3.0"),
        (lambda: KNNClassifier(0), InputError, "n_neighbors must be an integer >= 1; got 0"),
        (lambda: KNNClassifier(weights="uniformly"), ConfigError, "'uniformly'; choose one of 'un"),
        (lambda: KNNClassifier(tie="x"), ConfigError, "tie is 'x'; choose one of"),
        (lambda: KNNClassifier(metric="l2"), ConfigError, "metric is 'l2'; choose one of"),
        (lambda: KNNClassifier(index=3), ConfigError, "index is a int"),
        (
            lambda: KNNClassifier(metric="dot", index=ExactIndex()),
            ConfigError,
            "metric is 'dot', but the index compares by 'cosine'",
        ),
        (
            lambda: KNNClassifier(5).fit(np.eye(4), [0, 1, 0, 1]),
            InputError,
            "training rows: 4.*from 1 to 4; got 5",
        ),
        (lambda: fit([0, 1, 1]), ShapeError, "y has 3 labels for 4 rows"),
        (lambda: fit([1, 1, 1, 1]), LabelError, "only the class"),
        (lambda: fit([0, 1, None, 1]), LabelError, r"1 missing labels \(None or NaN\): rows 2"),
        (lambda: fit(["a", "b", None, "a"]), LabelError, "rows 2"),
        (lambda: fit([0, 1, float("nan"), 1.0]), LabelError, "rows 2"),
        (lambda: fit(np.array([0, 1, np.nan, 1])), LabelError, "rows 2"),
        (lambda: fit(pd.Series(["a", "b", pd.NA, "a"])), LabelError, "rows 2"),
        (lambda: fit(None), LabelError, "y is a NoneType"),
        (lambda: fit([0, 1, "a", 1]), LabelError, "mixes integers and strings"),
        (lambda: fit([0.5, 1, 2, 3]), LabelError, "mixes fractions and integers"),
        (lambda: fit([0.5, 1.5, 2.5, 3.5]), LabelError, "holds fractions, e.g. 0.5"),
        (lambda: fit([[0], [1], [0], [0, 1]]), LabelError, "several labels.*multi-label"),
        (lambda: fit(np.eye(4)), LabelError, r"shape \(4, 4\); multi-label"),
        (lambda: fit("abab"), LabelError, "y is a str"),
        (lambda: fit([object()] * 4), LabelError, "object objects"),
        (lambda: fit([2**70, 1, 1, 1]), LabelError, "64 bits"),
        (lambda: KNNClassifier(1).fit([[np.nan], [1]], [0, 1]), FeatureError, "rows 0"),
        (lambda: KNNClassifier(1).fit([1.0, 2.0], [0, 1]), ShapeError, r"shape \(2,\)"),
        (lambda: KNNClassifier(1).predict(np.eye(2)), NotFittedError, "call fit"),
        (lambda: KNNClassifier(1).leave_one_out(), NotFittedError, "call fit"),
        (lambda: fit([0, 1] * 2).predict(np.ones((2, 3))), ShapeError, "3 columns.*vectors of 4"),
        (lambda: fit([0, 1] * 2).predict([[np.nan] * 4]), FeatureError, "queries has 1 of 1"),
        (lambda: fit([0, 1] * 2).score(np.eye(4), [0, 1]), ShapeError, "2 labels for 4 rows"),
        (
            lambda: fit([0, 1] * 2).score(np.eye(4), list("abab")),
            LabelError,
            "are such as 0, y labels .* 'a'",
        ),
        (lambda: fit([0, 1] * 2).score(np.ones((0, 4)), []), InputError, "0 rows"),
        (lambda: fit([0, 1] * 2).index.search(np.eye(4), 5), InputError, "from 1 to 4; got 5"),
        (
            lambda: KNNClassifier(4).fit(np.eye(4), [0, 1] * 2).leave_one_out(),
            InputError,
            "a row has 3 others.*from 1 to 3",
        ),
    ],
)
def test_bad_input_says_what_is_wrong(call, error, words):
    with pytest.raises(error, match=words):
        call()
