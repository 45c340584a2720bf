"""What every evaluation says to labels and features that it cannot use, and to rare classes."""

from __future__ import annotations

import numpy as np
import pytest

from fungi_hf.errors import FeatureError, FungiError, InputError, LabelError, ShapeError
from fungi_hf.evaluation import (
    ClusteringProtocol,
    KNNProtocol,
    LinearProtocol,
    Relevance,
    evaluate_clustering,
    evaluate_knn,
    evaluate_linear,
    evaluate_retrieval,
)
from tests.evaluation.blocks import features, labelled

WIDTHS = {"embedding": 6, "kl": 4}
TRAIN, Y = labelled(40, WIDTHS)
TEST, TRUTH = labelled(20, WIDTHS, seed=1)
NAMES = np.array(list("abcd"))
HOLED = features(np.where(np.arange(10) == 3, np.nan, TRAIN.array), WIDTHS)
TASKS = {
    "knn": lambda *four: evaluate_knn(*four, protocol=KNNProtocol(n_neighbors=5)),
    "few-shot": lambda *four: evaluate_knn(*four, protocol="fungi-2-shot"),
    "linear": lambda *four: evaluate_linear(*four, protocol=LinearProtocol(strengths=(1e-2, 1e-1))),
    "retrieval": lambda train, y, test, truth: evaluate_retrieval(
        train, test, Relevance.same_label(truth, y)
    ),
    "clustering": lambda train, y, test, truth: evaluate_clustering(
        train, y, protocol=ClusteringProtocol(n_seeds=1, n_restarts=1)
    ),
}
REFUSED = {
    "nan": ((HOLED, Y, TEST, TRUTH), FeatureError, "40 of 40 rows with NaN"),
    "length": ((TRAIN, Y[:3], TEST, TRUTH), ShapeError, "3 "),
    "none": ((TRAIN, [None, *Y[1:]], TEST, TRUTH), LabelError, "1 missing labels"),
    "multi": ((TRAIN, [[0, 1]] * 40, TEST, TRUTH), LabelError, "multi-label data is not supported"),
    "one hot": ((TRAIN, np.eye(40), TEST, TRUTH), LabelError, "multi-label data is not supported"),
    "mixed": ((TRAIN, [0, "a"] * 20, TEST, TRUTH), LabelError, "mixes integers and strings"),
    "fractions": ((TRAIN, Y + 0.5, TEST, TRUTH), LabelError, "labels are integers or strings"),
    "two kinds": ((TRAIN, Y, TEST, NAMES[TRUTH]), LabelError, "labels must be of one kind"),
    "empty": (
        (features(np.zeros((0, 10)), WIDTHS), [], TEST, TRUTH),
        FungiError,
        "0 rows|relevant",
    ),
    "one class": ((TRAIN, Y * 0, TEST, TRUTH), LabelError, "only the class 0; at least 2"),
}
# Tasks that do not look at that side, or for which one class is a fair question.
FINE = {("clustering", "two kinds"), ("retrieval", "one class")}


@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize("case", REFUSED)
def test_unusable_input_is_refused(task, case):
    given, error, words = REFUSED[case]
    if (task, case) in FINE:
        assert TASKS[task](*given)
        return
    if (task, case) == ("retrieval", "length"):
        error, words = InputError, "there are|relevant|gains"
        given = (TRAIN, np.append(Y, Y), TEST, TRUTH)
    with pytest.raises(error, match=words):
        TASKS[task](*given)


@pytest.mark.parametrize("task", TASKS)
def test_strings_and_integers_give_the_same_figures(task):
    numbers = TASKS[task](TRAIN, Y, TEST, TRUTH)
    words = TASKS[task](TRAIN, list(NAMES[Y]), TEST, list(NAMES[TRUTH]))
    for one, other in zip(numbers, words, strict=True):
        assert one.metrics == pytest.approx(dict(other.metrics))


@pytest.mark.parametrize("task", ["knn", "linear", "retrieval", "clustering"])
def test_a_class_with_one_row_is_used_as_it_is(task):
    rare = np.where(np.arange(40) == 0, 9, Y)
    assert TASKS[task](TRAIN, rare, TEST, TRUTH)


def test_shots_beyond_a_class_are_refused_with_the_class_named():
    rare = np.where(np.arange(40) == 0, 9, Y)
    with pytest.raises(LabelError, match=r"2-shot needs 2 rows of each class; 1 of 5.*: 9 \(1\)"):
        TASKS["few-shot"](TRAIN, rare, TEST, TRUTH)
    with pytest.raises(LabelError, match=r"proportional 5-shot takes 25 of 40 .*smallest: 1"):
        evaluate_knn(TRAIN, rare, TEST, TRUTH, protocol="paper-text-5-shot")


@pytest.mark.parametrize("task", ["knn", "few-shot", "linear"])
def test_unseen_labels_are_wrong_and_noted(task):
    truth = np.where(np.arange(20) < 5, 77, TRUTH)
    for one in TASKS[task](TRAIN, Y, TEST, truth):
        assert one.metrics["accuracy"] <= 0.75
        assert any("5 test rows have labels unseen in training" in note for note in one.notes)
