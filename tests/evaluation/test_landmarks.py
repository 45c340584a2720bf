"""Landmark retrieval against values worked by hand and against a slow reference."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from fungi_hf.errors import InputError, InputTypeError
from fungi_hf.evaluation import (
    RETRIEVAL_PROTOCOLS,
    Landmarks,
    Relevance,
    build_report,
    evaluate_landmarks,
    evaluate_retrieval,
)
from fungi_hf.evaluation.report.documents import EvaluationDocument
from fungi_hf.evaluation.report.tables import group_results
from tests.evaluation.blocks import features

PAPER = RETRIEVAL_PROTOCOLS["paper-landmarks"]
# The dot product ranks a to h for the query p, and h to a for q and r.
DATABASE = np.array([[8.0, 1], [7, 2], [6, 3], [5, 4], [4, 5], [3, 6], [2, 7], [1, 8]])
QUERIES = np.array([[1.0, 0], [0, 1], [-1, 0]])
a, b, c, d, e, f, g, h = range(8)
TRUTH = Landmarks(
    database=list("abcdefgh"),
    queries=["p", "q", "r"],
    easy=[[b, d], [h], [e]],
    hard=[[f], [c, a], []],
    junk=[[a, e], [g], []],
)

BY_HAND = {
    # p: junk a, e, f; ranking b c d g h, positives b, d at ranks 0, 2.
    # q: junk g, c, a; ranking h f e d b, positive h at rank 0.
    # r: no junk; ranking h g f e d c b a, positive e at rank 3.
    "easy": {
        "map": [((1 + 1) + (1 / 2 + 2 / 3)) / 4, 1, (0 / 3 + 1 / 4) / 2],
        "mp@1": [1, 1, 0],
        "mp@5": [2 / 3, 1, 1 / 4],
        "mp@10": [2 / 3, 1, 1 / 4],
    },
    # p: junk a, e; ranking b c d f g h, positives b, d, f at ranks 0, 2, 3.
    # q: junk g; ranking h f e d c b a, positives h, c, a at ranks 0, 4, 6.
    # r: as above.
    "medium": {
        "map": [
            ((1 + 1) + (1 / 2 + 2 / 3) + (2 / 3 + 3 / 4)) / 6,
            ((1 + 1) + (1 / 4 + 2 / 5) + (2 / 6 + 3 / 7)) / 6,
            (0 / 3 + 1 / 4) / 2,
        ],
        "mp@1": [1, 1, 0],
        "mp@5": [3 / 4, 2 / 5, 1 / 4],
        "mp@10": [3 / 4, 3 / 7, 1 / 4],
    },
    # p: junk a, e, b, d; ranking c f g h, positive f at rank 1.
    # q: junk g, h; ranking f e d c b a, positives c, a at ranks 3, 5.
    # r: nothing to find, left out.
    "hard": {
        "map": [(0 / 1 + 1 / 2) / 2, ((0 / 3 + 1 / 4) + (1 / 5 + 2 / 6)) / 4],
        "mp@1": [0, 0],
        "mp@5": [1 / 2, 1 / 5],
        "mp@10": [1 / 2, 2 / 6],
    },
}


@pytest.mark.parametrize("level", BY_HAND)
def test_each_level_by_hand(level):
    (one,) = evaluate_landmarks(DATABASE, QUERIES, TRUTH, levels=[level])
    wanted = BY_HAND[level]
    assert {name: one.metrics[name] for name in wanted} == pytest.approx(
        {name: np.mean(values) for name, values in wanted.items()}
    )
    scores = one.scores[0]
    assert scores[~np.isnan(scores)] == pytest.approx(wanted["map"])
    left_out = "1 queries without a relevant row are left out"
    assert (left_out in one.notes) == (level == "hard")
    assert "PCA to 512 skipped: 8 rows, width 2" in one.notes


def test_levels_have_records_of_their_own():
    blocks = [features(rows, {"embedding": 1, "kl": 1}) for rows in (DATABASE, QUERIES)]
    records = evaluate_landmarks(*blocks, TRUTH)
    assert [(one.protocol, one.settings["level"], one.name) for one in records] == [
        (f"paper-landmarks-{level}", level, name)
        for level in ("easy", "medium", "hard")
        for name in ("embedding", "kl", "embedding+kl")
    ]
    assert [len(group) for group in group_results(records)] == [3, 3, 3]
    page = build_report(records)
    assert all(f"protocol paper-landmarks-{level}" in page for level in BY_HAND)
    document = EvaluationDocument(results=tuple(records))
    assert EvaluationDocument.from_dict(document.to_dict()).results == document.results


def test_levels_together_are_those_one_by_one():
    together = evaluate_landmarks(DATABASE, QUERIES, TRUTH, levels=["hard", "easy", "hard"])
    alone = [
        evaluate_retrieval(DATABASE, QUERIES, TRUTH.relevance(level), protocol="paper-landmarks")[0]
        for level in ("hard", "easy")
    ]
    assert together == alone
    same = Relevance.landmarks(TRUTH.easy, TRUTH.hard, TRUTH.junk, level="hard")
    assert (same.level, same.gains[0], same.junk[0]) == ("hard", {f: 1}, [b, d, a, e])


def test_components_are_those_of_the_database_and_keep_their_lengths():
    # Two axes carry the database: +-6 on the first, +-2 on the second, +-0.1 on the third.
    pairs = [[6, 0, 0], [1, 1, 0], [0, 2, 0], [1, -1, 0], [0.5, 0, 0.1], [0.5, 0, -0.1]]
    mean = np.array([10.0, 0, 0])
    database = np.concatenate([pairs, np.negative(pairs)]) + mean
    query = np.array([[2.0, 1, 1000]]) + mean
    truth = Landmarks(database=[*"abcdefghijkl"], queries=["q"], easy=[[1]], hard=[[]], junk=[[]])

    def score(**changes):
        rule = replace(PAPER, **{"pca": 2, **changes})
        return evaluate_landmarks(database, query, truth, levels=["easy"], protocol=rule)[0]

    # Centred, on two components: (2, 1) . (6, 0) = 12, (2, 1) . (1, 1) = 3: rank 1.
    assert score().metrics["map"] == pytest.approx((0 + 1 / 2) / 2)
    assert score().notes == ()
    # Of unit length (1, 1) would win: 3 / sqrt(10) = 0.95 against 2 / sqrt(5) = 0.89.
    assert score(metric="cosine").metrics["map"] == 1
    # Without components the third axis decides: 226, 214, then 192 and 133: rank 3.
    assert score(pca=None).metrics["map"] == pytest.approx((0 + 1 / 4) / 2)


def slow(ranking, positive, junk, k):
    """Walk down a ranking: the area under precision and recall, and the precision at k."""
    ranking = [row for row in ranking if row not in junk]
    area, hits, before = 0.0, 0, 1.0
    for seen, row in enumerate(ranking):
        if row in positive:
            before = hits / seen if seen else 1.0
            hits += 1
            area += (before + hits / (seen + 1)) / 2 / len(positive)
    last = max(place for place, row in enumerate(ranking, 1) if row in positive)
    depth = min(last, k)
    return area, sum(row in positive for row in ranking[:depth]) / depth


@settings(max_examples=40, deadline=None)
@given(st.data())
def test_scores_are_those_of_a_slow_reference(data):
    n_rows, n_queries = data.draw(st.integers(2, 14)), data.draw(st.integers(1, 4))
    order = [data.draw(st.permutations(range(n_rows))) for _ in range(n_queries)]
    kinds = st.lists(st.sampled_from("EHJN"), min_size=n_rows, max_size=n_rows)
    marks = [data.draw(kinds) for _ in range(n_queries)]
    level = data.draw(st.sampled_from(["easy", "medium", "hard"]))
    positive, junk = {"easy": ("E", "JH"), "medium": ("EH", "J"), "hard": ("H", "JE")}[level]
    found = [{i for i, mark in enumerate(own) if mark in positive} for own in marks]
    left = [{i for i, mark in enumerate(own) if mark in junk} for own in marks]
    assume(any(found))
    # The database's column of a query holds its scores: most for the row that stands first.
    database = np.zeros((n_rows, n_queries))
    for query, rows in enumerate(order):
        database[rows, query] = np.arange(n_rows, 0, -1)
    easy, hard, junks = (
        [[i for i, mark in enumerate(own) if mark == kind] for own in marks] for kind in "EHJ"
    )
    relevance = Relevance.landmarks(easy, hard, junks, level=level)
    one = evaluate_retrieval(
        database, np.eye(n_queries), relevance, protocol=replace(PAPER, pca=None)
    )[0]
    for k in (1, 5, 10):
        wanted = [
            slow(rows, own, without, k)
            for rows, own, without in zip(order, found, left, strict=True)
            if own
        ]
        assert one.metrics["map"] == pytest.approx(np.mean([area for area, _ in wanted]))
        assert one.metrics[f"mp@{k}"] == pytest.approx(np.mean([share for _, share in wanted]))


def test_what_cannot_be_judged_says_so():
    nothing = replace(TRUTH, hard=[[], [], []])
    with pytest.raises(InputError, match="level 'hard': none of the 3 queries has a relevant row"):
        evaluate_landmarks(DATABASE, QUERIES, nothing)
    assert len(evaluate_landmarks(DATABASE, QUERIES, nothing, levels=["easy", "medium"])) == 2
    for levels in ([], "easy"):
        with pytest.raises(InputError, match="give a sequence of easy, medium, hard"):
            evaluate_landmarks(DATABASE, QUERIES, TRUTH, levels=levels)
    with pytest.raises(InputTypeError, match="landmarks is a Relevance; it must be a Landmarks"):
        evaluate_landmarks(DATABASE, QUERIES, TRUTH.relevance("easy"))
