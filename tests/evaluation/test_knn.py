from __future__ import annotations

import json
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
from sklearn.decomposition import PCA
from sklearn.metrics import accuracy_score, balanced_accuracy_score, roc_auc_score
from sklearn.model_selection import StratifiedShuffleSplit
from sklearn.neighbors import KNeighborsClassifier

from fungi_hf.errors import (
    ConfigError,
    FeatureError,
    FingerprintMismatchError,
    InputError,
    InputTypeError,
    LabelError,
    ShapeError,
    StateError,
)
from fungi_hf.evaluation import (
    KNN_PROTOCOLS,
    EvaluationResult,
    KNNProtocol,
    change_per_class,
    evaluate_knn,
    knn_protocol,
)
from fungi_hf.evaluation.grams import combination_neighbors
from fungi_hf.evaluation.inputs import choose_combinations
from fungi_hf.evaluation.knn import draw_shots
from fungi_hf.neighbors import KNNClassifier, comparison, topk
from fungi_hf.neighbors.base import METRICS
from fungi_hf.neighbors.vectors import read_rows
from tests.evaluation.blocks import features, labelled
from tests.neighbors import brute

WIDTHS = {"embedding": 6, "kl": 4, "simclr": 5}


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("kind", ["unit", "ties", "scales"])
@pytest.mark.parametrize("small", [0, 300])
def test_combinations_have_the_neighbours_of_their_concatenation(metric, kind, small, monkeypatch):
    monkeypatch.setattr(comparison, "_SMALL", small)
    monkeypatch.setattr(topk, "QUERY_ROWS", 16)
    monkeypatch.setattr(topk, "POOL_ROWS", 64)
    rng = np.random.default_rng(0)
    train, test = rng.standard_normal((300, 15)), rng.standard_normal((40, 15))
    if kind == "ties":
        train, test = rng.integers(-1, 2, (300, 15)), rng.integers(-1, 2, (40, 15))
    if kind == "scales":
        train[:, :6] *= 1e-4
        train[::3] *= 50
    train, test = (np.asarray(rows, np.float32) for rows in (train, test))
    train[5, 6:10] = 0  # a zero block
    test[3, :6] = 0
    layout = features(train, WIDTHS).layout
    combinations = choose_combinations(layout, None)
    assert len(combinations) == 7
    exclude = {0: [1, 2], 39: range(200)}
    found = combination_neighbors(
        read_rows(train, "train"),
        read_rows(test, "test"),
        layout,
        combinations,
        20,
        metric,
        exclude,
    )
    for some, near in found.items():
        columns = np.concatenate([np.arange(15)[layout[name]] for name in some])
        indices, scores = brute.search(test[:, columns], train[:, columns], 20, metric, exclude)
        np.testing.assert_array_equal(near.indices, indices)
        np.testing.assert_allclose(near.scores, scores, rtol=1e-5, atol=1e-6)


def test_the_published_protocol_is_scikit_learn_on_every_combination():
    train, y = labelled(200, WIDTHS, noise=1.2)
    test, truth = labelled(90, WIDTHS, seed=1, noise=1.2)
    results = evaluate_knn(train, y, test, truth, protocol="paper")
    assert [one.name for one in results] == [
        "embedding", "kl", "simclr", "embedding+kl", "embedding+simclr", "kl+simclr",
        "embedding+kl+simclr",
    ]  # fmt: skip
    for one in results:
        columns = np.concatenate([np.arange(15)[train.layout[name]] for name in one.blocks])
        model = KNeighborsClassifier(20).fit(train.array[:, columns], y)
        predicted = model.predict(test.array[:, columns])
        assert one.metrics["accuracy"] == pytest.approx(accuracy_score(truth, predicted))
        wanted = balanced_accuracy_score(truth, predicted)
        assert one.metrics["mean_per_class"] == pytest.approx(wanted)
        assert "auc" not in one.metrics
        assert one.notes == (f"PCA to 512 skipped: 200 rows, width {len(columns)}",)
        assert one.settings["n_neighbors"] == 20
        assert (one.n_train, one.n_test, one.fingerprint) == (200, 90, "one")


def test_pca_is_fitted_on_the_training_rows_of_each_combination():
    train, y = labelled(120, WIDTHS)
    test, truth = labelled(60, WIDTHS, seed=1)
    rule = KNNProtocol(name="x", metric="euclidean", pca=5, n_neighbors=7)
    results = {one.name: one for one in evaluate_knn(train, y, test, truth, protocol=rule)}
    pca = PCA(5, svd_solver="full").fit(train.array)
    model = KNeighborsClassifier(7).fit(pca.transform(train.array), y)
    wanted = model.score(pca.transform(test.array), truth)
    assert results["embedding+kl+simclr"].metrics["accuracy"] == pytest.approx(wanted)
    assert results["embedding+kl+simclr"].notes == ()
    assert results["kl"].notes == ("PCA to 5 skipped: 120 rows, width 4",)


def test_two_classes_have_an_auc():
    train, y = labelled(80, WIDTHS, 2, noise=4)
    test, truth = labelled(60, WIDTHS, 2, seed=1, noise=4)
    one = evaluate_knn(train, y, test, truth, combinations=[["kl"]])[0]
    columns = slice(6, 10)
    knn = KNNClassifier(20).fit(train.array[:, columns], y)
    wanted = roc_auc_score(truth, knn.predict_proba(test.array[:, columns])[:, 1])
    assert one.metrics["auc"] == pytest.approx(wanted)
    assert 0.3 < wanted < 0.95


def test_five_shot_draws_are_balanced_and_seeded():
    train, y = labelled(200, WIDTHS, noise=1)
    test, truth = labelled(80, WIDTHS, seed=1, noise=1)
    results = evaluate_knn(train, y, test, truth, protocol="fungi-5-shot")
    full = results[-1]
    accuracies = []
    for seed in range(42, 47):
        rows = draw_shots(y, 5, "balanced", seed)
        np.testing.assert_array_equal(np.bincount(y[rows]), [5, 5, 5, 5])
        accuracies.append(
            KNNClassifier(5, weights="similarity")
            .fit(train.array[rows], y[rows])
            .score(test.array, truth)
        )
    assert full.metrics["accuracy"] == pytest.approx(np.mean(accuracies))
    assert full.spread["accuracy"] == pytest.approx(np.std(accuracies, ddof=1))
    assert len(set(accuracies)) > 1
    assert full.seeds == (42, 43, 44, 45, 46)
    assert full.n_train == 20
    low, high = full.intervals["accuracy"]
    assert low < full.metrics["accuracy"] < high
    assert full.scores.shape == (5, 80)


def test_published_few_shot_rules():
    labels = np.array([1, 0, 0, 1, 1, 0, 2, 2, 1, 2, 0, 2])
    np.testing.assert_array_equal(draw_shots(labels, 2, "first", 0), [0, 1, 2, 3, 6, 7])
    many = np.repeat([0, 1, 2], [100, 50, 10])
    splitter = StratifiedShuffleSplit(n_splits=1, train_size=15, random_state=42)
    wanted = np.sort(next(splitter.split(np.zeros((160, 1)), many))[0])
    np.testing.assert_array_equal(draw_shots(many, 5, "proportional", 42), wanted)
    assert np.bincount(many[wanted]).tolist() == [9, 5, 1]


@pytest.mark.parametrize("protocol", ["paper-vision-5-shot", "paper-text-5-shot"])
def test_published_few_shot_protocols_shrink_k_and_say_so(protocol):
    train, y = labelled(100, WIDTHS, 2)
    one = evaluate_knn(train, y, *labelled(50, WIDTHS, 2, seed=1), protocol=protocol)[0]
    assert one.n_train == 10
    assert "n_neighbors 20 -> 10: all rows" in one.notes
    assert one.seeds == (42,)


@pytest.mark.parametrize(
    ("protocol", "n_shots"), [("paper-text-5-shot", 5), ("paper-text-9-shot", 9)]
)
def test_published_few_shot_text_is_scikit_learn_throughout(protocol, n_shots):
    train, y = labelled(300, WIDTHS, noise=1.5)
    test, truth = labelled(90, WIDTHS, seed=1, noise=1.5)
    y = np.where(np.arange(300) % 3 == 0, 0, y)  # uneven classes: the draw is proportional
    splitter = StratifiedShuffleSplit(n_splits=1, train_size=4 * n_shots, random_state=42)
    rows = np.sort(next(splitter.split(np.zeros((300, 1)), y))[0])
    for one in evaluate_knn(train, y, test, truth, protocol=protocol):
        columns = np.concatenate([np.arange(15)[train.layout[name]] for name in one.blocks])
        model = KNeighborsClassifier(20).fit(train.array[rows][:, columns], y[rows])
        assert one.metrics["accuracy"] == pytest.approx(model.score(test.array[:, columns], truth))
        assert (one.n_train, one.protocol) == (4 * n_shots, protocol)


def test_published_few_shot_vision_is_the_first_rows_of_each_class():
    train, y = labelled(300, WIDTHS, noise=1.5)
    test, truth = labelled(90, WIDTHS, seed=1, noise=1.5)
    rows = np.sort(np.concatenate([np.flatnonzero(y == label)[:6] for label in range(4)]))
    for one in evaluate_knn(train, y, test, truth, protocol="paper-vision-6-shot"):
        columns = np.concatenate([np.arange(15)[train.layout[name]] for name in one.blocks])
        model = KNeighborsClassifier(20).fit(train.array[rows][:, columns], y[rows])
        assert one.metrics["accuracy"] == pytest.approx(model.score(test.array[:, columns], truth))


def test_protocols_are_named_with_any_number_of_shots():
    assert knn_protocol("paper") is KNN_PROTOCOLS["paper"]
    ten = knn_protocol("fungi-10-shot")
    assert ten == replace(KNN_PROTOCOLS["fungi-5-shot"], name="fungi-10-shot", n_shots=10)
    for name in ("fungi-0-shot", "fungi-x-shot", "paper-5-shot", "5-shot", "", None):
        with pytest.raises(ConfigError, match="unknown kNN protocol"):
            knn_protocol(name)


def test_records_compare_with_the_embedding_and_survive_json():
    train, y = labelled(120, WIDTHS, noise=1)
    test, truth = labelled(100, WIDTHS, seed=1, noise=1)
    results = {one.name: one for one in evaluate_knn(train, y, test, truth)}
    base, kl = results["embedding"], results["kl"]
    assert base.against_baseline == {}
    gap = kl.metrics["accuracy"] - base.metrics["accuracy"]
    assert kl.against_baseline["difference"] == pytest.approx(gap)
    assert kl.against_baseline["low"] <= gap <= kl.against_baseline["high"]
    changes = change_per_class(kl, base)
    assert set(changes) == {"0", "1", "2", "3"}
    assert np.mean(list(changes.values())) == pytest.approx(gap)
    again = EvaluationResult.from_dict(json.loads(kl.to_json()))
    assert again == replace(kl, scores=None, settings=again.settings)
    with pytest.raises(StateError, match="unknown keys: extra"):
        EvaluationResult.from_dict({**kl.to_dict(), "extra": 1})
    with pytest.raises(StateError, match="record is None"):
        EvaluationResult.from_dict({})


def test_unseen_test_labels_are_wrong_and_noted():
    train, y = labelled(60, WIDTHS)
    test, truth = labelled(20, WIDTHS, seed=1)
    truth = np.where(np.arange(20) < 5, 99, truth)
    one = evaluate_knn(train, y, test, truth)[0]
    assert one.per_class["99"] == 0
    assert one.metrics["accuracy"] <= 0.75
    assert one.notes == ("5 test rows have labels unseen in training, always wrong: 99",)


def test_string_labels_give_the_same_accuracy():
    train, y = labelled(60, WIDTHS)
    test, truth = labelled(20, WIDTHS, seed=1)
    names = np.array(["d", "c", "b", "a"])
    odd = KNNProtocol(n_neighbors=1)
    one = evaluate_knn(train, y, test, truth, protocol=odd)[-1]
    other = evaluate_knn(train, list(names[y]), test, list(names[truth]), protocol=odd)[-1]
    assert one.metrics == other.metrics


def test_a_class_with_one_sample_is_fine_for_the_full_set():
    train, y = labelled(60, WIDTHS)
    y = np.where(np.arange(60) == 0, 9, y)
    assert evaluate_knn(train, y, *labelled(20, WIDTHS, seed=1))[0].n_train == 60


def test_a_plain_array_is_one_block():
    train, y = labelled(60, WIDTHS)
    test, truth = labelled(20, WIDTHS, seed=1)
    results = evaluate_knn(train.array, y, test.array, truth)
    assert [one.name for one in results] == ["features"]


def run(**changes):
    train, y = labelled(30, WIDTHS)
    test, truth = labelled(12, WIDTHS, seed=1)
    call = {"train": train, "train_labels": y, "test": test, "test_labels": truth} | changes
    return evaluate_knn(
        call.pop("train"),
        call.pop("train_labels"),
        call.pop("test"),
        call.pop("test_labels"),
        **call,
    )


Y = np.arange(30) % 4
BAD = features(np.full((30, 15), np.nan), WIDTHS)
MULTI = [[0, 1]] * 30


@pytest.mark.parametrize(
    ("changes", "error", "words"),
    [
        ({"train_labels": np.zeros(30, int)}, LabelError, "only the class"),
        ({"train_labels": Y[:5]}, ShapeError, "train labels has 5 labels for 30 rows"),
        ({"test_labels": [0]}, ShapeError, "test labels has 1 labels for 12 rows"),
        ({"train_labels": [None, *Y[1:]]}, LabelError, "1 missing labels"),
        ({"train_labels": MULTI}, LabelError, "multi-label"),
        ({"train_labels": np.eye(30)}, LabelError, "multi-label"),
        ({"test_labels": list("abcabcabcabc")}, LabelError, "one kind"),
        ({"train": BAD}, FeatureError, "train has 30 of 30 rows with NaN"),
        (
            {"test": features(np.ones((12, 9)), {"embedding": 9})},
            ShapeError,
            "train and test features differ: 15 in .*; 9 in",
        ),
        (
            {"test": features(np.ones((12, 15)), {"a": 15})},
            ShapeError,
            "15 in embedding.*; 15 in a",
        ),
        (
            {"test": features(np.ones((12, 15)), WIDTHS, "two")},
            FingerprintMismatchError,
            "test features come from 'two'.*'one'",
        ),
        ({"test": features(np.ones((0, 15)), WIDTHS), "test_labels": []}, InputError, "0 rows"),
        ({"protocol": "papr"}, ConfigError, "unknown kNN protocol 'papr'; choose one of 'paper'"),
        (
            {"protocol": KNNProtocol(n_neighbors=31)},
            InputError,
            "31, but there are 30",
        ),
        ({"protocol": KNNProtocol(n_shots=8)}, LabelError, r"2 of 4 classes have fewer: 2 \(7\)"),
        (
            {"protocol": KNNProtocol(n_shots=8, sampling="proportional")},
            LabelError,
            "takes 32 of 30 rows",
        ),
        ({"combinations": [["kl", "klm"]]}, FeatureError, "no block 'klm'; choose one of 'kl'"),
        ({"combinations": ["kl"]}, InputTypeError, "a combination is 'kl'"),
        ({"combinations": "kl"}, InputTypeError, "combinations are 'kl'"),
        ({"combinations": []}, FeatureError, "no combination was named"),
        (
            {"combinations": 5},
            InputTypeError,
            r"combinations are 5 \(int\); give a sequence of sequences",
        ),
        ({"combinations": [5]}, InputTypeError, r"a combination is 5 \(int\); give a sequence"),
        ({"combinations": [None]}, InputTypeError, r"a combination is None \(NoneType\)"),
        ({"combinations": [[["kl"]]]}, FeatureError, r"no block \['kl'\]"),
        (
            {"train": SimpleNamespace(array=np.ones((30, 3), "f4"), layout={}, fingerprint="a")},
            FeatureError,
            "empty layout",
        ),
    ],
)
def test_bad_input_says_what_is_wrong(changes, error, words):
    with pytest.raises(error, match=words):
        run(**changes)


@pytest.mark.parametrize(
    ("changes", "error", "words"),
    [
        ({"n_neighbors": 0}, InputError, "n_neighbors must be an integer >= 1; got 0"),
        ({"n_neighbors": True}, InputTypeError, "got True"),
        ({"weights": "x"}, ConfigError, "weights is 'x'; choose one of"),
        ({"sampling": "frist"}, ConfigError, "'frist'; choose one of 'first'"),
        ({"metric": "l1"}, ConfigError, "metric is 'l1'; choose one of"),
        ({"sampling": "first", "n_shots": 5}, ConfigError, "one draw, n_draws is 5"),
        (
            {"sampling": "proportional", "n_shots": 5, "seed": 2**32 - 4},
            InputError,
            "seed must be an integer from 0 to 4294967291; got 4294967292",
        ),
    ],
)
def test_a_wrong_protocol_says_what_is_wrong(changes, error, words):
    with pytest.raises(error, match=words):
        KNNProtocol(**changes)
