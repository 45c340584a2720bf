"""Scores of free answers against numbers by hand and against SQuAD's script, written out slowly."""

from __future__ import annotations

import re
import string
from collections import Counter

import pytest
from hypothesis import assume, example, given
from hypothesis import strategies as st

from fungi_hf.icl.metrics import METRICS, exact, f1, normalise, normalised, tokens

PIECES = ["a", "an", "the", "A", "The", "cat", "cats", "sat.", "U.S.", "1,000", "'tis", "!", "$5"]
WORDS = st.lists(st.sampled_from(PIECES))
TEXTS = st.one_of(WORDS.map(" ".join), st.text(string.printable, max_size=20))


def squad_normal(text):
    """What SQuAD's evaluation compares: lower case, no punctuation, no articles, single blanks."""
    text = "".join(letter for letter in text.lower() if letter not in set(string.punctuation))
    return " ".join(re.sub(r"\b(a|an|the)\b", " ", text).split())


def squad_f1(answer, target):
    said, wanted = squad_normal(answer).split(), squad_normal(target).split()
    left, same = list(wanted), 0
    for word in said:
        if word in left:
            left.remove(word)
            same += 1
    if not same:
        return 0.0
    precision, recall = same / len(said), same / len(wanted)
    return 2 * precision * recall / (precision + recall)


@given(TEXTS, st.lists(TEXTS, min_size=1, max_size=3))
@example("the cat", ["The cat!", "dog"])
def test_scores_are_those_of_squad(answer, targets):
    # Texts of nothing but articles and punctuation differ on purpose, see below.
    assume(all(map(squad_normal, [answer, *targets])))
    assert normalise(answer) == squad_normal(answer)
    match = any(squad_normal(answer) == squad_normal(target) for target in targets)
    assert normalised(answer, targets) == match
    assert f1(answer, targets) == pytest.approx(max(squad_f1(answer, one) for one in targets))


@given(st.text(max_size=30), st.lists(st.text(max_size=30), min_size=1, max_size=3))
def test_any_texts_have_scores_in_order(answer, targets):
    scores = [METRICS[name](answer, targets) for name in ("exact", "normalised", "f1")]
    assert all(0 <= score <= 1 for score in scores)
    if answer.strip():
        assert normalise(answer)
        assert scores == sorted(scores)  # a stricter metric gives no more
        assert f1(answer, [answer]) == normalised(answer, [answer]) == 1
    assert f1(answer, targets) == max(f1(answer, [one]) for one in targets)
    assert f1(answer, targets) == max(f1(one, [answer]) for one in targets)


@pytest.mark.parametrize(
    ("text", "normal"),
    [
        ("  The  Eiffel\tTower! ", "eiffel tower"),
        ("U.S.A.", "usa"),
        ("An apple, a pear and the plum", "apple pear and plum"),
        ("theatre", "theatre"),
        ("Straße", "strasse"),
        ("\uff21\uff22\uff23 \u2460", "abc 1"),  # full-width letters, a digit in a circle
        ("e\u0301te\u0301", "\u00e9t\u00e9"),
        ("«Oui», dit-il…", "oui ditil"),
        ("A", "a"),  # an answer to a question with choices
        ("The, a!", "the a"),
        ("?!", "?!"),
        ("-5", "5"),
        ("3.14", "314"),
        ("", ""),
        ("  ", ""),
    ],
)
def test_normal_forms(text, normal):
    assert normalise(text) == normal


@pytest.mark.parametrize(
    ("metric", "answer", "targets", "score"),
    [
        (exact, "Paris", ["London", "Paris"], 1),
        (exact, " Paris\n", ["Paris"], 1),
        (exact, "paris", ["Paris"], 0),
        (exact, "Paris.", ["Paris"], 0),
        (normalised, "the paris!", ["Paris"], 1),
        (normalised, "Paris, France", ["Paris"], 0),
        (normalised, "A", ["B", "A"], 1),
        (normalised, "the", ["A"], 0),
        (f1, "Paris, France", ["Paris"], 2 / 3),
        (f1, "in the old town of Bern", ["Bern", "the old town"], 2 * 2 / (5 + 2)),
        (f1, "no no no", ["no no yes"], 2 * 2 / 6),
        (f1, "London", ["Paris"], 0),
        (f1, "东京都", ["东京"], 2 * 2 / 5),
        (f1, "", ["Paris"], 0),
    ],
)
def test_scores_by_hand(metric, answer, targets, score):
    assert metric(answer, targets) == pytest.approx(score)


def test_letters_of_scripts_without_blanks_are_tokens():
    assert tokens("Tokyo は東京 2020") == ["tokyo", "は", "東", "京", "2020"]
    assert Counter(tokens("the cat, the hat"))["the"] == 0
