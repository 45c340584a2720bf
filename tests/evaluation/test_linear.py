from __future__ import annotations

import sys

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression

from fungi_hf.errors import (
    ConfigError,
    InputTypeError,
    LabelError,
    OptionalDependencyError,
    ShapeError,
)
from fungi_hf.evaluation import LinearProtocol, evaluate_linear
from fungi_hf.evaluation.linear import split_validation
from tests.evaluation.blocks import labelled

WIDTHS = {"embedding": 6, "kl": 4}
FAST = LinearProtocol(name="fast", strengths=(1e-3, 1e-1))


def test_the_strength_is_chosen_on_held_out_rows_and_the_fit_takes_all():
    train, y = labelled(150, WIDTHS, noise=1.5)
    test, truth = labelled(80, WIDTHS, seed=1, noise=1.5)
    result = evaluate_linear(train, y, test, truth, protocol=FAST)[-1]
    kept, held = split_validation(y, 0.2, 42)
    assert len(held) == 4 * 8 - 2
    assert len(np.intersect1d(kept, held)) == 0
    scores = []
    for strength in FAST.strengths:
        model = LogisticRegression(C=1 / (strength * len(kept)), max_iter=1000)
        scores.append(model.fit(train.array[kept], y[kept]).score(train.array[held], y[held]))
    best = FAST.strengths[int(np.argmax(scores))]
    model = LogisticRegression(C=1 / (best * 150), max_iter=1000).fit(train.array, y)
    assert result.metrics["accuracy"] == pytest.approx(model.score(test.array, truth), abs=0.013)
    assert result.metrics["validation_accuracy"] == pytest.approx(max(scores), abs=0.04)
    assert f"strength {best:g}" in result.notes
    assert result.n_train == 150
    assert result.against_baseline["p"] <= 1


def test_a_given_validation_set_is_used_and_not_trained_on():
    train, y = labelled(100, WIDTHS)
    held, held_y = labelled(40, WIDTHS, seed=2)
    result = evaluate_linear(
        train, y, *labelled(40, WIDTHS, seed=1), protocol=FAST, validation=(held, held_y)
    )[0]
    assert result.n_train == 100


def test_several_seeds_hold_out_different_rows():
    train, y = labelled(150, WIDTHS, noise=2.5)
    test, truth = labelled(60, WIDTHS, seed=1, noise=2.5)
    rule = LinearProtocol(strengths=(1e-3, 1.0), n_seeds=3, seed=5)
    one = evaluate_linear(train, y, test, truth, protocol=rule, combinations=[["kl"]])[0]
    assert one.seeds == (5, 6, 7)
    assert one.scores.shape == (3, 60)
    alone = [
        evaluate_linear(
            train, y, test, truth, protocol=LinearProtocol(strengths=(1e-3, 1.0), seed=seed),
            combinations=[["kl"]],
        )[0].metrics["validation_accuracy"]
        for seed in one.seeds
    ]  # fmt: skip
    assert len(set(alone)) > 1
    assert one.metrics["validation_accuracy"] == pytest.approx(np.mean(alone))
    assert one.spread["validation_accuracy"] == pytest.approx(np.std(alone, ddof=1))


def test_the_published_rule_takes_prefixes_without_an_intercept():
    train, y = labelled(100, {**WIDTHS, "simclr": 3})
    results = evaluate_linear(
        train, y, *labelled(40, {**WIDTHS, "simclr": 3}, seed=1), protocol="paper"
    )
    assert [one.name for one in results] == ["embedding", "embedding+kl", "embedding+kl+simclr"]
    assert results[0].settings["intercept"] is False
    assert results[0].settings["strengths"] == (5e-6, 1.2875e-4, 2.525e-4, 3.7625e-4, 5e-4)
    assert "PCA to 512 skipped: 80 rows, width 6" in results[0].notes


def test_a_stopped_solver_is_noted():
    rule = LinearProtocol(strengths=(1e-6,), max_iterations=1)
    train, y = labelled(60, WIDTHS)
    result = evaluate_linear(train, y, *labelled(40, WIDTHS, seed=1), protocol=rule)[0]
    assert "the solver stopped at 1 iterations before converging" in result.notes


def test_two_string_classes_have_an_auc():
    train, y = labelled(60, WIDTHS, 2)
    test, truth = labelled(40, WIDTHS, 2, seed=1)
    names = np.array(["no", "yes"])
    result = evaluate_linear(train, names[y], test, names[truth], protocol=FAST)[0]
    assert 0.5 < result.metrics["auc"] <= 1


def test_bad_input_says_what_is_wrong(monkeypatch):
    train, y = labelled(40, WIDTHS)
    test, truth = labelled(20, WIDTHS, seed=1)
    with pytest.raises(LabelError, match="only the class"):
        evaluate_linear(train, y * 0, test, truth)
    with pytest.raises(LabelError, match="no class has two rows"):
        evaluate_linear(train, np.arange(40), test, truth)
    with pytest.raises(ShapeError, match="test labels has 19"):
        evaluate_linear(train, y, test, truth[1:])
    with pytest.raises(
        ConfigError, match="unknown linear protocol 'papers'; choose one of 'paper'"
    ):
        evaluate_linear(train, y, test, truth, protocol="papers")
    with pytest.raises(ConfigError, match=r"strengths: each must be a number > 0; got 0\.0"):
        LinearProtocol(strengths=(0.0,))
    with pytest.raises(InputTypeError, match="strengths is a float; it must be a tuple"):
        LinearProtocol(strengths=0.1)
    with pytest.raises(ConfigError, match="validation_share must be a number > 0 and < 1; got 1"):
        LinearProtocol(validation_share=1)
    with pytest.raises(InputTypeError, match="validation is a SimpleNamespace; give a pair"):
        evaluate_linear(train, y, test, truth, validation=test)
    with pytest.raises(LabelError, match="none of the 20 validation labels, such as 7, is among"):
        evaluate_linear(train, y, test, truth, validation=(test, [7] * 20))
    monkeypatch.setitem(sys.modules, "sklearn.linear_model", None)
    with pytest.raises(OptionalDependencyError, match=r"fungi-hf\[evaluation\]"):
        evaluate_linear(train, y, test, truth)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"strengths": (float("nan"),)}, "strengths: each must be a number > 0; got nan"),
        ({"strengths": (float("inf"),)}, "strengths: each must be a number > 0; got inf"),
        ({"strengths": ("a",)}, "strengths: each must be a number > 0; got 'a'"),
        ({"strengths": ()}, "strengths are empty; at least one is needed"),
        ({"validation_share": "a"}, "validation_share must be a number > 0 and < 1; got 'a'"),
        (
            {"validation_share": float("nan")},
            "validation_share must be a number > 0 and < 1; got nan",
        ),
        ({"tolerance": -1}, "tolerance must be a number >= 0; got -1"),
        ({"tolerance": "a"}, "tolerance must be a number >= 0; got 'a'"),
        ({"intercept": "x"}, "intercept must be True or False; got 'x'"),
        ({"prefixes_only": 1}, "prefixes_only must be True or False; got 1"),
    ],
)
def test_a_wrong_protocol_says_what_is_wrong(changes, words):
    with pytest.raises(ConfigError, match=words):
        LinearProtocol(**changes)


def test_unseen_validation_labels_are_noted():
    train, y = labelled(40, WIDTHS)
    test, truth = labelled(20, WIDTHS, seed=1)
    chosen_by = (test, np.where(np.arange(20) < 5, 7, truth))
    one = evaluate_linear(train, y, test, truth, protocol=FAST, validation=chosen_by)[0]
    assert one.notes[0].startswith("5 validation rows have labels unseen in training")
