from __future__ import annotations

import numpy as np
import pytest
from sklearn.metrics import average_precision_score, ndcg_score

from fungi_hf.errors import (
    ConfigError,
    FingerprintMismatchError,
    InputError,
    InputTypeError,
    LabelError,
    ShapeError,
)
from fungi_hf.evaluation import Relevance, RetrievalProtocol, evaluate_retrieval
from fungi_hf.evaluation.retrieval import average_precision, discounted_gain_at, precision_at
from tests.evaluation.blocks import features, labelled

WIDTHS = {"embedding": 6, "kl": 4}


def test_average_precision_by_hand():
    ranks = np.array([0, 2, 5])
    assert average_precision(ranks) == pytest.approx((1 / 1 + 2 / 3 + 3 / 6) / 3)
    # Halves of j / r (1 at rank 0) and (j + 1) / (r + 1).
    wanted = ((1 + 1) + (1 / 2 + 2 / 3) + (2 / 5 + 3 / 6)) / 6
    assert average_precision(ranks, "trapezoid") == pytest.approx(wanted)
    assert average_precision(np.array([3]), "trapezoid") == pytest.approx((0 + 1 / 4) / 2)


def test_precision_by_hand():
    ranks = np.array([0, 2, 5])
    assert precision_at(ranks, 5) == pytest.approx(2 / 5)
    assert precision_at(ranks, 10) == pytest.approx(3 / 10)
    assert precision_at(ranks, 10, "trapezoid") == pytest.approx(3 / 6)
    assert precision_at(ranks, 1, "trapezoid") == 1


def test_discounted_gain_by_hand():
    gains, ideal = np.array([0, 3.0, 1, 0, 2]), np.array([3.0, 1, 2])
    wanted = (3 / np.log2(3) + 1 / 2) / (3 + 2 / np.log2(3) + 1 / 2)
    assert discounted_gain_at(gains, ideal, 3) == pytest.approx(wanted)


def test_same_labels_equal_scikit_learn():
    pool, pool_labels = labelled(80, WIDTHS)
    queries, labels = labelled(15, WIDTHS, seed=1)
    relevance = Relevance.same_label(labels, pool_labels)
    results = {one.name: one for one in evaluate_retrieval(pool, queries, relevance)}
    assert list(results) == ["embedding", "kl", "embedding+kl"]
    unit = [
        rows.array / np.linalg.norm(rows.array, axis=1, keepdims=True) for rows in (queries, pool)
    ]
    scores = unit[0] @ unit[1].T
    truth = (labels[:, None] == pool_labels[None]).astype(int)
    one = results["embedding+kl"].metrics
    wanted = np.mean([average_precision_score(t, s) for t, s in zip(truth, scores, strict=True)])
    assert one["map"] == pytest.approx(wanted)
    assert one["ndcg@10"] == pytest.approx(ndcg_score(truth, scores, k=10))
    top = np.argsort(-scores, axis=1)[:, :5]
    assert one["mp@5"] == pytest.approx(np.take_along_axis(truth, top, 1).mean())
    assert results["kl"].against_baseline["low"] <= results["kl"].against_baseline["difference"]


def test_a_row_does_not_find_itself():
    rows = np.array([[1.0, 0], [1, 0.1], [0, 1], [0.1, 1]])
    same = Relevance.same_label([0, 0, 1, 1], [0, 0, 1, 1], same_rows=True)
    one = evaluate_retrieval(rows, rows, same)[0]
    assert one.metrics["map"] == 1
    assert one.metrics["mp@1"] == 1
    assert one.metrics["mp@5"] == pytest.approx(1 / 5)
    assert one.per_class == {}


def test_landmark_judgements_and_formula():
    # Ranking by dot product for the query (1): rows 0, 1, 2, 3, 4.
    pool, query = np.array([[5.0], [4], [3], [2], [1]]), np.array([[1.0]])
    rule = RetrievalProtocol(name="x", metric="dot", formula="trapezoid", cutoffs=(1, 5))
    medium = Relevance.landmarks([[1]], [[4]], [[0]], level="medium")
    one = evaluate_retrieval(pool, query, medium, protocol=rule)[0]
    # Without junk row 0 the positives stand at ranks 0 and 3.
    assert one.metrics["map"] == pytest.approx(((1 + 1) + (1 / 3 + 2 / 4)) / 4)
    assert one.metrics["mp@5"] == pytest.approx(2 / 4)
    hard = Relevance.landmarks([[1]], [[4]], [[0]], level="hard")
    one = evaluate_retrieval(pool, query, hard, protocol=rule)[0]
    # Row 1 is junk too: the positive stands at rank 2 of 3.
    assert one.metrics["map"] == pytest.approx((0 + 1 / 3) / 2)


def test_graded_judgements():
    pool, query = np.array([[3.0], [2], [1]]), np.array([[1.0]])
    rule = RetrievalProtocol(metric="dot", cutoffs=(2,))
    one = evaluate_retrieval(pool, query, Relevance(gains=[{1: 2.0, 2: 1.0}]), protocol=rule)[0]
    assert one.metrics["ndcg@2"] == pytest.approx((2 / np.log2(3)) / (2 + 1 / np.log2(3)))


def test_queries_without_a_relevant_row_are_left_out_and_noted():
    pool, queries = np.eye(3), np.eye(3)[:2]
    one = evaluate_retrieval(pool, queries, Relevance.same_label([0, 9], [0, 1, 2]))[0]
    assert one.metrics["map"] == 1
    assert one.notes == ("1 queries without a relevant row are left out",)


def test_queries_whose_relevant_rows_are_junk_are_left_out_and_noted():
    pool, queries = np.eye(3), np.eye(3)
    mixed = Relevance(gains=[{0: 1}, {1: 1}, {}], junk=[[0], [0], []])
    one = evaluate_retrieval(pool, queries, mixed)[0]
    assert one.metrics["map"] == 1
    assert one.notes == ("2 queries without a relevant row are left out",)
    with pytest.raises(InputError, match=r"none of the 3 queries .* that is not junk"):
        evaluate_retrieval(pool, queries, Relevance(gains=[{0: 1}] * 3, junk=[[0]] * 3))


@pytest.mark.parametrize(
    ("gains", "junk", "error", "words"),
    [
        (
            {1.5: 1.0},
            [],
            InputTypeError,
            r"gains of query 0: a pool row must be an integer from 0 to 2; got 1\.5",
        ),
        (
            {"1": 1.0},
            [],
            InputTypeError,
            "gains of query 0: a pool row must be an integer from 0 to 2; got '1'",
        ),
        (
            {True: 1.0},
            [],
            InputTypeError,
            "gains of query 0: a pool row must be an integer from 0 to 2; got True",
        ),
        ([0], [], InputTypeError, "gains of query 0 are a list; give a mapping"),
        (None, [], InputTypeError, "gains of query 0 are a NoneType; give a mapping"),
        (
            {1: "a"},
            [],
            InputTypeError,
            "query 0: the gain of row 1 must be a number above 0; got 'a'",
        ),
        ({1: float("nan")}, [], InputError, "the gain of row 1 must be a number above 0; got nan"),
        ({-1: 1.0}, [], InputError, "a pool row must be an integer from 0 to 2; got -1"),
        (
            {0: 1.0},
            [1.5],
            InputTypeError,
            r"junk of query 0: a pool row must be an integer from 0 to 2; got 1\.5",
        ),
        ({0: 1.0}, "1", InputTypeError, "junk of query 0 are a str; give pool rows"),
        ({0: 1.0}, {1: 1}, InputTypeError, "junk of query 0 are a dict; give pool rows"),
        ({0: 1.0}, 1, InputTypeError, "junk of query 0 are a int; give pool rows"),
    ],
)
def test_odd_judgements_say_what_is_wrong(gains, junk, error, words):
    with pytest.raises(error, match=words):
        evaluate_retrieval(np.eye(3), np.eye(3)[:1], Relevance(gains=[gains], junk=[junk]))


def test_judgements_of_numpy_are_as_good():
    plain = Relevance(gains=[{0: 1.0}, {1: 2}], junk=[[2], []])
    arrays = Relevance(gains=[{np.int64(0): np.float32(1)}, {1: 2}], junk=[np.array([2]), ()])
    results = [evaluate_retrieval(np.eye(3), np.eye(3)[:2], one) for one in (plain, arrays)]
    assert results[0][0].metrics == results[1][0].metrics


def test_impossible_relevance_says_what_is_wrong():
    with pytest.raises(ShapeError, match="there are 2 query labels and 3 pool labels"):
        Relevance.same_label([0, 1], [0, 1, 1], same_rows=True)
    with pytest.raises(ConfigError, match="level is 'eays'; choose one of 'easy', 'hard'"):
        Relevance.landmarks([[0]], [[1]], [[2]], level="eays")
    with pytest.raises(ConfigError, match="level is 'all'; choose one of 'easy', 'hard'"):
        Relevance(gains=[{0: 1.0}], level="all")
    with pytest.raises(ShapeError, match="1 easy, 2 hard and 1 junk lists"):
        Relevance.landmarks([[0]], [[1], [1]], [[2]])
    with pytest.raises(InputTypeError, match="a landmark row must be an integer"):
        Relevance.landmarks([[0.5]], [[1]], [[2]])
    with pytest.raises(InputTypeError, match="relevance gains are a dict; give a sequence"):
        evaluate_retrieval(np.eye(3), np.eye(3)[:1], Relevance(gains={0: 1.0}))


def test_pca_is_skipped_with_a_note():
    pool, labels = labelled(30, WIDTHS)
    same = Relevance.same_label(labels, labels, same_rows=True)
    results = evaluate_retrieval(pool, pool, same, protocol="paper-landmarks")
    assert results[0].notes == ("PCA to 512 skipped: 30 rows, width 6",)
    rule = RetrievalProtocol(pca=3)
    assert evaluate_retrieval(pool, pool, same, protocol=rule)[0].notes == ()


def test_bad_input_says_what_is_wrong():
    eye = np.eye(3)
    with pytest.raises(ShapeError, match="relevance has 2 gains for 3 queries"):
        evaluate_retrieval(eye, eye, Relevance(gains=[{0: 1}] * 2))
    with pytest.raises(
        InputError, match="gains of query 0: a pool row must be an integer from 0 to 2; got 3"
    ):
        evaluate_retrieval(eye, eye, Relevance(gains=[{3: 1}] * 3))
    with pytest.raises(InputError, match="the gain of row 1 must be a number above 0; got 0"):
        evaluate_retrieval(eye, eye, Relevance(gains=[{1: 0}] * 3))
    with pytest.raises(InputError, match="none of the 3 queries"):
        evaluate_retrieval(eye, eye, Relevance(gains=[{}] * 3))
    with pytest.raises(ShapeError, match=r"pool and queries differ: 3 in features.*; 2 in"):
        evaluate_retrieval(eye, np.eye(2), Relevance(gains=[{0: 1}] * 2))
    with pytest.raises(FingerprintMismatchError, match="queries come from 'two'"):
        evaluate_retrieval(
            features(eye, {"a": 3}), features(eye, {"a": 3}, "two"), Relevance(gains=[{0: 1}] * 3)
        )
    with pytest.raises(ConfigError, match="unknown retrieval protocol 'x'"):
        evaluate_retrieval(eye, eye, Relevance(gains=[{0: 1}] * 3), protocol="x")
    with pytest.raises(ConfigError, match="formula is 'x'; choose one of"):
        RetrievalProtocol(formula="x")
    with pytest.raises(LabelError, match="missing labels"):
        Relevance.same_label([None], [0])
    with pytest.raises(InputTypeError, match="relevance is a dict; it must be a Relevance"):
        evaluate_retrieval(eye, eye, {})
    with pytest.raises(InputTypeError, match="cutoffs is a int; it must be a tuple"):
        RetrievalProtocol(cutoffs=5)
