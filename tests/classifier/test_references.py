"""Heads, folds and figures against scikit-learn and loops; labels there and back."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from sklearn.linear_model import LogisticRegression

from fungi_hf.classifier import labels
from fungi_hf.classifier.evidence import Voting, leave_one_out
from fungi_hf.classifier.folds import N_FOLDS, deal_folds, probe
from fungi_hf.classifier.heads import LinearHead, NeighborsHead, head_from
from fungi_hf.errors import LabelError, StateError
from fungi_hf.evaluation import LINEAR_PROTOCOLS

QUICK = settings(max_examples=40, deadline=None)


def problem(seed: int, n: int, n_classes: int, width: int) -> tuple[Any, Any, Any]:
    """Rows of small whole numbers, so that equal cosines are common; none is zero."""
    rng = np.random.default_rng(seed)
    codes = np.concatenate([np.arange(n_classes), rng.integers(0, n_classes, n - n_classes)])
    rows = rng.integers(-2, 3, (n, width)) + codes[:, None] % 2
    rows[~rows.any(axis=1), 0] = 1
    queries = rng.integers(-2, 3, (7, width))
    queries[~queries.any(axis=1), 0] = 1
    return rows.astype(np.float32), codes.astype(np.int64), queries.astype(np.float32)


def brute_votes(rows: Any, codes: Any, query: Any, k: int, n_classes: int, weighted: bool) -> Any:
    """Votes of the k nearest rows by cosine; equal ones by row."""
    exact, one = rows.astype(np.float64), query.astype(np.float64)
    cosines = [float(row @ one / np.linalg.norm(row) / np.linalg.norm(one)) for row in exact]
    nearest = sorted(range(len(rows)), key=lambda i: (-round(cosines[i], 9), i))[:k]
    votes = np.zeros(n_classes)
    for i in nearest:
        votes[codes[i]] += max(0.0, float(np.float32(cosines[i]))) if weighted else 1
    if not votes.any():
        for i in nearest:
            votes[codes[i]] += 1
    return votes


SHAPES = {
    "seed": st.integers(0, 10_000),
    "n": st.integers(6, 25),
    "n_classes": st.integers(2, 5),
    "width": st.integers(1, 6),
}


@QUICK
@given(**SHAPES, k=st.integers(1, 6), weighted=st.booleans())
def test_neighbours_vote_as_a_brute_force_does(seed, n, n_classes, width, k, weighted) -> None:
    rows, codes, queries = problem(seed, n, n_classes, width)
    if weighted:  # no right angles, whose cosine is rounded to a tiny weight or to none
        queries += np.random.default_rng(seed).uniform(0.1, 0.2, queries.shape).astype(np.float32)
    head = NeighborsHead(rows, codes, k, "similarity" if weighted else "uniform")
    votes = np.stack([brute_votes(rows, codes, q, k, n_classes, weighted) for q in queries])
    shares = head.shares(queries)
    np.testing.assert_allclose(shares, votes / votes.sum(1, keepdims=True), rtol=0, atol=1e-6)
    np.testing.assert_allclose(shares.sum(1), 1, rtol=0, atol=1e-12)
    clear = np.sort(votes, 1)[:, -1] - np.sort(votes, 1)[:, -2] > 1e-6
    assert (head.codes(queries) == votes.argmax(1))[clear | (not weighted)].all()


@QUICK
@given(**SHAPES, strength=st.sampled_from([1e-6, 1e-4, 1e-2, 1.0]))
def test_a_linear_head_is_scikit_learns_before_and_after_saving(
    seed, n, n_classes, width, strength
) -> None:
    rows, codes, queries = problem(seed, n, n_classes, width)
    head, _ = LinearHead.fit(rows, codes, strength)
    again = head_from("linear", head.arrays(), n_classes, {})
    model = LogisticRegression(C=1 / (strength * n), max_iter=1000).fit(
        rows.astype(np.float64), codes
    )
    wanted = model.predict_proba(queries.astype(np.float64))
    for one in (head, again):
        np.testing.assert_allclose(one.shares(queries), wanted, rtol=0, atol=1e-12)
        assert one.codes(queries).tolist() == model.predict(queries.astype(np.float64)).tolist()


@QUICK
@given(**SHAPES, k=st.integers(1, 6), n_groups=st.integers(2, 30))
def test_no_row_is_judged_by_its_own_group(seed, n, n_classes, width, k, n_groups) -> None:
    rows, codes, _ = problem(seed, n, n_classes, width)
    groups = np.random.default_rng(seed).integers(0, n_groups, n)
    voting = Voting(n_neighbors=k, weights="uniform")
    found = leave_one_out(rows, codes, groups, voting, np.arange(n))
    for row in range(n):
        others = np.flatnonzero(groups != groups[row])
        if not len(others):
            assert not found[row]
            continue
        votes = brute_votes(rows[others], codes[others], rows[row], k, n_classes, weighted=False)
        assert found[row] == (votes.argmax() == codes[row])


@QUICK
@given(
    codes=st.lists(st.integers(0, 3), min_size=5, max_size=60),
    n_groups=st.none() | st.integers(1, 20),
)
def test_folds_are_even_and_keep_groups_whole(codes, n_groups) -> None:
    codes = np.array(codes)
    n = len(codes)
    groups = np.arange(n)
    if n_groups is not None:
        groups = np.random.default_rng(0).integers(0, n_groups, n)
    folds = deal_folds(codes, groups)
    assert set(folds) <= set(range(N_FOLDS))
    for group in set(groups.tolist()):
        assert len(set(folds[groups == group].tolist())) == 1
    if len(set(groups.tolist())) == n:
        counts = [np.bincount(folds[codes == c], minlength=N_FOLDS) for c in set(codes.tolist())]
        counts.append(np.bincount(folds, minlength=N_FOLDS))
        assert all(one.max() - one.min() <= 1 for one in counts)


def test_the_strength_is_that_of_most_held_out_rows() -> None:
    rng = np.random.default_rng(3)
    codes = np.arange(60) % 3
    rows = (np.eye(3)[codes] + rng.normal(0, 0.9, (60, 3))).astype(np.float32)
    groups = np.arange(60)
    found = probe(rows, codes, groups)
    folds = deal_folds(codes, groups)
    right = {}
    for strength in LINEAR_PROTOCOLS["fungi"].strengths:
        predicted = np.empty(60, int)
        for fold in range(N_FOLDS):
            out = folds == fold
            model = LogisticRegression(C=1 / (strength * (~out).sum()), max_iter=1000)
            predicted[out] = model.fit(rows[~out].astype(float), codes[~out]).predict(rows[out])
        right[strength] = predicted == codes
    assert found is not None
    assert found.rows.tolist() == list(range(60))
    assert found.right.sum() == max(one.sum() for one in right.values())
    assert found.right.tolist() == right[found.strength].tolist()


def test_too_few_rows_leave_nothing_to_hold_out() -> None:
    rows = np.eye(2, dtype=np.float32)
    assert probe(rows, np.array([0, 1]), np.arange(2)) is None
    many = np.random.default_rng(0).normal(size=(2003, 2)).astype(np.float32)
    found = probe(many, (many[:, 0] > 0).astype(np.int64), np.arange(2003))
    assert found is not None
    assert len(found.rows) in (400, 401)


PLAIN = st.one_of(
    st.lists(st.text(max_size=6), min_size=2, max_size=9),
    st.lists(st.integers(-(2**70), 2**70), min_size=2, max_size=9),
    st.lists(st.booleans(), min_size=2, max_size=9),
    st.lists(st.tuples(st.integers(0, 3), st.text(max_size=2)), min_size=2, max_size=9),
)


@QUICK
@given(y=PLAIN)
@example(y=["", "\x00"])
def test_labels_are_kept_and_come_back_from_json(y) -> None:
    if len(set(y)) < 2:
        with pytest.raises(LabelError, match="only the class"):
            labels.encode(y, len(y))
        return
    classes, codes = labels.encode(y, len(y))
    assert labels.plain(classes) == sorted(set(y))
    assert labels.plain(classes[codes]) == y
    again = labels.from_json(json.loads(json.dumps(labels.to_json(classes))))
    assert (again.dtype, labels.plain(again)) == (classes.dtype, labels.plain(classes))


@pytest.mark.parametrize("dtype", ["int8", "uint16", "int64", "float32", "bool", "U7", "O"])
def test_the_dtype_of_an_array_stays(dtype: str) -> None:
    y = np.array([1, 0, 1]).astype("U7" if dtype == "U7" else dtype)
    classes, codes = labels.encode(y, 3)
    assert classes.dtype == y.dtype
    assert (classes[codes] == y).all()


class Unordered:
    """Hashable, without an order."""


def test_labels_without_an_order_keep_that_of_their_rows() -> None:
    one, other = Unordered(), Unordered()
    classes, codes = labels.encode([other, one, other], 3)
    assert labels.plain(classes) == [other, one]
    assert codes.tolist() == [0, 1, 0]
    with pytest.raises(LabelError, match="is a Unordered, which JSON cannot hold: fit with"):
        labels.to_json(classes)


@pytest.mark.parametrize(
    "data",
    [
        {},
        {"dtype": "<U1", "values": ["a"]},
        {"dtype": "<U1", "values": ["a", "a"]},
        {"dtype": "no", "values": ["a", "b"]},
        {"dtype": "<i4", "values": ["a", "b"]},
        {"dtype": "<M8", "values": [1, 2]},
        {"dtype": "|O", "values": [{"a": 1}, {}]},
        {"dtype": "|O", "values": [None, "a"]},
        {"dtype": "<U1", "values": 3},
    ],
)
def test_foreign_labels_are_refused(data) -> None:
    with pytest.raises(StateError):
        labels.from_json(data)


BAD_ARRAYS = [
    ("neighbors", {"gallery": np.ones((3, 2))}, "has the arrays"),
    ("neighbors", {"gallery": np.ones((3, 2)), "codes": np.zeros(2)}, r"\[N, F\] finite"),
    ("neighbors", {"gallery": np.full((3, 2), np.nan), "codes": np.zeros(3)}, "finite"),
    ("neighbors", {"gallery": np.ones((3, 2)), "codes": np.zeros(3)}, "numbers of 2 classes"),
    ("linear", {"coefficients": np.ones((3, 2)), "intercept": np.zeros(3)}, "not of 2 classes"),
]


@pytest.mark.parametrize(
    ("name", "arrays", "words"), BAD_ARRAYS, ids=[one[2] for one in BAD_ARRAYS]
)
def test_foreign_arrays_are_refused(name, arrays, words) -> None:
    with pytest.raises(StateError, match=words):
        head_from(name, arrays, 2, {"n_neighbors": 1, "weights": "uniform"})
