"""The classifier by scikit-learn's conventions: what it learns from, gives and refuses."""

from __future__ import annotations

import importlib
import pickle
import sys
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from sklearn.base import clone
from sklearn.exceptions import NotFittedError as TheirNotFittedError
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV, cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer
from sklearn.utils import estimator_checks

import fungi_hf
from fungi_hf import Activation, FungiClassifier, FungiConfig, FungiError, FungiExtractor
from fungi_hf.classifier.features import plain_config
from fungi_hf.errors import (
    ConfigError,
    FingerprintMismatchError,
    InputError,
    InputTypeError,
    LabelError,
    NotFittedError,
    OptionalDependencyError,
)
from fungi_hf.neighbors import KNNClassifier
from fungi_hf.tuning import TuningSearch
from tests.classifier.kit import NEW, QUICK, TRUTH, X, Y
from tests.tiny import ROUNDING, extractor_of, saved_model

PLAIN = {"objectives": (Activation(),)}
LEARNS = {"objectives": (Activation(),), "whitening": 0.5}


@pytest.fixture(scope="module")
def extractor() -> FungiExtractor:
    return extractor_of(**PLAIN)


@pytest.fixture(scope="module", params=["neighbors", "linear"])
def fitted(request, extractor) -> FungiClassifier:
    return FungiClassifier(extractor, head=request.param, n_neighbors=5).fit(X, Y)


def test_texts_go_in_and_labels_come_out(fitted) -> None:
    assert fitted.classes_.tolist() == ["lost", "pay"]
    assert fitted.predict(NEW).tolist() == TRUTH
    assert fitted.score(NEW, TRUTH) == 1
    assert fitted.score(NEW, ["pay" if one == "lost" else "new" for one in TRUTH]) == 0
    assert fitted.score(NEW[:2], ["lost", "lost"], sample_weight=[3, 1]) == 0.75
    shares = fitted.predict_proba(NEW)
    assert shares.shape == (10, 2)
    np.testing.assert_allclose(shares.sum(1), 1, rtol=0, atol=1e-12)
    assert fitted.classes_[shares.argmax(1)].tolist() == TRUTH


def test_heads_are_those_of_the_libraries_on_the_extractors_features(extractor) -> None:
    known, new = extractor(X).array, extractor(NEW).array
    near = FungiClassifier(extractor, n_neighbors=4, weights="similarity").fit(X, Y)
    reference = KNNClassifier(4, weights="similarity").fit(known, Y)
    np.testing.assert_array_equal(near.predict(NEW), reference.predict(new))
    np.testing.assert_allclose(
        near.predict_proba(NEW), reference.predict_proba(new), rtol=0, atol=1e-6
    )
    linear = FungiClassifier(extractor, head="linear").fit(X, Y)
    strength = linear.record().strength
    model = LogisticRegression(C=1 / (strength * len(X)), max_iter=1000)
    model.fit(known.astype(np.float64), Y)
    wanted = model.predict_proba(new.astype(np.float64))
    np.testing.assert_allclose(linear.predict_proba(NEW), wanted, rtol=0, atol=1e-9)


def test_order_batch_and_company_change_nothing(fitted) -> None:
    whole = fitted.predict_proba(NEW)
    np.testing.assert_allclose(fitted.predict_proba(NEW[::-1])[::-1], whole, atol=1e-4)
    alone = np.concatenate([fitted.predict_proba([one]) for one in NEW])
    np.testing.assert_allclose(alone, whole, atol=1e-4)
    small = clone(fitted).set_params(batch_size=1).fit(X, Y)
    np.testing.assert_allclose(small.predict_proba(NEW), whole, atol=1e-4)
    for inputs in (np.array(NEW), pd.Series(NEW), tuple(NEW), iter(NEW)):
        np.testing.assert_allclose(fitted.predict_proba(inputs), whole, atol=1e-4)


def test_no_config_is_tuned_on_the_training_rows(tmp_path) -> None:
    folder = saved_model(tmp_path)
    classifier = FungiClassifier(folder, search=QUICK, n_neighbors=3).fit(X, Y)
    base = FungiExtractor.from_pretrained(folder)
    tuned = base.tune(X, Y, search=QUICK)
    assert classifier.extractor_.fingerprint == tuned.fingerprint
    assert classifier.extractor_.tuning == tuned.tuning or (
        classifier.extractor_.tuning.candidates == tuned.tuning.candidates
    )
    assert classifier.extractor_.tuning.classes == {"lost": 12, "pay": 12}
    default = FungiClassifier(folder, n_neighbors=3)
    seen = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(FungiExtractor, "tune", lambda *a, **k: seen.append(k["search"]) or tuned)
        default.fit(X, Y)
    assert seen == [TuningSearch(n_neighbors=3)]


def test_a_config_an_extractor_and_a_saved_one_are_used_as_they_are(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(FungiExtractor, "tune", lambda *_, **__: pytest.fail("tuned"))
    folder = saved_model(tmp_path / "model")
    config = FungiConfig(**LEARNS)
    by_config = FungiClassifier(folder, config, n_neighbors=3).fit(X, Y)
    own = FungiExtractor.from_pretrained(folder, config).fit(X)
    assert by_config.extractor_.fingerprint == own.fingerprint
    own.save_pretrained(tmp_path / "saved")
    saved = FungiClassifier(str(tmp_path / "saved"), n_neighbors=3).fit(X, Y)
    assert saved.extractor_.fingerprint == own.fingerprint
    given = FungiClassifier(own, n_neighbors=3).fit(X[:8], Y[:8])
    assert given.extractor_ is own
    unfitted = FungiExtractor.from_pretrained(folder, config)
    learns = FungiClassifier(unfitted, n_neighbors=3).fit(X, Y)
    assert not unfitted.is_fitted
    assert learns.extractor_.fingerprint == own.fingerprint
    np.testing.assert_array_equal(learns.predict_proba(NEW), by_config.predict_proba(NEW))


def test_an_extractor_with_a_search_is_tuned_and_stays_as_it_was() -> None:
    extractor = extractor_of(**PLAIN)
    before = extractor.fingerprint
    classifier = FungiClassifier(extractor, search=QUICK, n_neighbors=3).fit(X, Y)
    assert classifier.extractor_.tuning is not None
    assert (extractor.fingerprint, extractor.tuning) == (before, None)


@pytest.mark.parametrize("head", ["linear", "neighbors"])
def test_tuning_judges_by_the_head(head) -> None:
    other = {"linear": "neighbors", "neighbors": "linear"}[head]
    search = replace(QUICK, judge=other)  # the head decides
    classifier = FungiClassifier(extractor_of(**PLAIN), search=search, head=head).fit(X, Y)
    assert classifier.extractor_.tuning.judge == head


KINDS: dict[str, Any] = {
    "whole numbers": [7, 3],
    "booleans": [True, False],
    "tuples": [("a", 1), ("b", 2)],
    "floats": [1.0, 2.0],
    "numpy": np.array([4, 9], np.int16),
    "words": ["so", "long a label"],
}


@pytest.mark.parametrize("pair", KINDS.values(), ids=KINDS)
def test_labels_of_any_kind_are_kept(extractor, pair) -> None:
    y: Any = [pair[i % 2] for i in range(len(X))]
    if isinstance(pair, np.ndarray):
        y = np.array(y, pair.dtype)
    classifier = FungiClassifier(extractor, n_neighbors=3).fit(X, y)
    found = classifier.predict(NEW)
    assert found.tolist() == [pair[i % 2] for i in range(len(NEW))]
    if isinstance(pair, np.ndarray):
        assert found.dtype == pair.dtype
    assert type(classifier(NEW[0])[0]["label"]) is type(classifier.classes_.tolist()[0])
    assert classifier.score(X, y) > 0.9


def test_scikit_learns_tools_take_it(extractor) -> None:
    classifier = FungiClassifier(extractor, n_neighbors=3)
    assert clone(classifier).model is extractor
    assert clone(classifier).get_params() == classifier.get_params()
    assert cross_val_score(classifier, X, Y, cv=3).min() > 0.7
    grid = {"head": ["neighbors", "linear"], "n_neighbors": [1, 3]}
    search = GridSearchCV(classifier, grid, cv=2).fit(np.array(X), np.array(Y))
    assert search.predict(NEW).tolist() == TRUTH
    steps = make_pipeline(
        FunctionTransformer(lambda some: [one.lower() for one in some]), classifier
    )
    assert steps.fit([one.upper() for one in X], Y).score(NEW, TRUTH) == 1
    assert "n_features_in_" not in vars(classifier.fit(X, Y))


def test_fitted_classifiers_are_pickled(fitted) -> None:
    again = pickle.loads(pickle.dumps(fitted))  # noqa: S301
    np.testing.assert_array_equal(again.predict_proba(NEW), fitted.predict_proba(NEW))


def test_half_of_the_rows_vote_at_most(extractor) -> None:
    classifier = FungiClassifier(extractor).fit(X[:6], Y[:6])
    assert classifier.record().voters == 3
    assert classifier.n_neighbors == 20


def test_nothing_is_predicted_before_fit(extractor) -> None:
    classifier = FungiClassifier(extractor)
    calls = [
        lambda: classifier.predict(NEW),
        lambda: classifier.predict_proba(NEW),
        lambda: classifier.score(NEW, TRUTH),
        lambda: classifier(NEW),
        lambda: classifier.evaluate(NEW, TRUTH),
        lambda: classifier.results_,
        classifier.make_card,
        lambda: classifier.save_pretrained("nowhere"),
        lambda: classifier.push_to_hub("user/name"),
    ]
    for call in calls:
        with pytest.raises(TheirNotFittedError, match="is not fitted; call fit") as caught:
            call()
        assert isinstance(caught.value, NotFittedError)
        assert isinstance(caught.value, FungiError)


BAD: list[tuple[str, Any, Any, dict[str, Any], type[Exception], str]] = [
    ("no input", [], [], {}, InputError, "X holds no input"),
    ("one text", "a", ["a"], {}, InputTypeError, "got one str"),
    ("a table", np.array([["a", "b"]]), ["a"], {}, InputTypeError, r"shape \(1, 2\)"),
    ("more inputs", X, Y[:3], {}, InputError, "X has 24 inputs and y 3 labels"),
    ("one class", X, ["a"] * 24, {}, LabelError, "y has only the class 'a'"),
    ("a NaN", X, [np.nan, *Y[1:]], {}, LabelError, r"1 missing labels \(None or NaN\): rows 0"),
    ("a None", X, [*Y[:-1], None], {}, LabelError, "missing labels .* rows 23"),
    ("kinds", X, [1, *Y[1:]], {}, LabelError, "mixes numbers and strings"),
    ("fractions", X, np.arange(24) / 7, {}, LabelError, "classes are no fractions"),
    ("lists", X, [["a"], *Y[1:]], {}, LabelError, "which is no label"),
    ("several a row", X, np.zeros((24, 2)), {}, LabelError, "multi-label"),
    ("no text", [3, *X[1:]], Y, {}, InputTypeError, "input 0 must be a text"),
    ("a head", X, Y, {"head": "svm"}, ConfigError, "head is 'svm'; choose one of 'linear', 'neig"),
    ("weights", X, Y, {"weights": "near"}, ConfigError, "weights is 'near'"),
    ("neighbours", X, Y, {"n_neighbors": 0}, ConfigError, "n_neighbors must be an integer >= 1"),
    ("batch", X, Y, {"batch_size": 0}, ConfigError, "batch_size"),
    ("progress", X, Y, {"progress": 1}, ConfigError, "progress must be True or False"),
    ("a dict", X, Y, {"config": {}}, ConfigError, "config must be a FungiConfig"),
    ("two configs", X, Y, {"config": FungiConfig()}, ConfigError, "the extractor brings its"),
    ("a device", X, Y, {"device": "cpu"}, ConfigError, "leave device='cpu' out"),
    ("a search", X, Y, {"search": "all"}, ConfigError, "search must be a TuningSearch"),
    ("no model", X, Y, {"model": None}, ConfigError, "model is None"),
]  # fmt: skip


@pytest.mark.parametrize(("name", "x", "y", "more", "kind", "words"), BAD, ids=[b[0] for b in BAD])
def test_wrong_arguments_are_explained(extractor, name, x, y, more, kind, words) -> None:
    del name
    classifier = FungiClassifier(**{"model": extractor, **more})
    with pytest.raises(kind, match=words) as caught:
        classifier.fit(x, y)
    assert isinstance(caught.value, FungiError)
    assert not hasattr(classifier, "classes_")


def test_configs_that_no_head_can_take_are_refused(extractor) -> None:
    both = FungiClassifier(extractor, FungiConfig(), search=QUICK)
    with pytest.raises(ConfigError, match="config says what to compute, search what to choose"):
        both.fit(X, Y)
    exact = extractor_of(objectives=("kl",), sketch="none")
    with pytest.raises(ConfigError, match="sketch='none' keeps exact factors"):
        FungiClassifier(exact).fit(X, Y)
    with pytest.raises(ConfigError, match="dense=True gives a vector for every part"):
        FungiClassifier(extractor_of(objectives=(), dense=True)).fit(X, Y)


def test_wrong_inputs_after_fit_are_explained(fitted) -> None:
    for call in (fitted.predict, fitted.predict_proba):
        with pytest.raises(InputError, match="X holds no input"):
            call([])
        with pytest.raises(InputTypeError, match="got one str"):
            call("a text")
        with pytest.raises(InputTypeError, match="input 1 must be a text"):
            call(["a", 3])
    with pytest.raises(InputError, match="X has 2 inputs and y 1 labels"):
        fitted.score(NEW[:2], ["pay"])
    with pytest.raises(LabelError, match="training labels are such as 'lost', y labels such as 1"):
        fitted.score(NEW[:2], [1, 2])
    with pytest.raises(InputError, match="name must say which rows were held out"):
        fitted.evaluate(NEW, TRUTH, name="training rows")


def test_another_model_or_other_features_are_refused() -> None:
    extractor = extractor_of(fresh=True, **PLAIN)
    classifier = FungiClassifier(extractor, n_neighbors=3).fit(X, Y)
    with pytest.raises(FingerprintMismatchError, match="the classifier was fitted on"):
        classifier.labels_of(extractor_of(objectives=())(NEW))
    with torch.no_grad():
        next(extractor.encoder.model.parameters()).mul_(1.5)
    with pytest.raises(FingerprintMismatchError, match="the model, config or fitted state is an"):
        classifier.predict(NEW)


def test_figures_name_their_rows_and_equal_a_loop(extractor) -> None:
    classifier = FungiClassifier(extractor, n_neighbors=3).fit(X, Y)
    own, near, linear = classifier.results_
    array = extractor(X).array
    right = KNNClassifier(3).fit(array, Y).leave_one_out() == np.array(Y)
    assert (own.who, own.rows, own.n_right, own.n_rows) == (
        "this classifier", "training rows", right.sum(), 24
    )  # fmt: skip
    embedding = extractor_of(objectives=())(X).array
    right = KNNClassifier(3).fit(embedding, Y).leave_one_out() == np.array(Y)
    assert (near.who, near.n_right) == ("embedding, nearest neighbours", right.sum())
    assert near.protocol == own.protocol == "leave-one-out, 3 nearest rows"
    assert linear.who == "embedding, linear probe"
    held = classifier.evaluate(NEW, TRUTH, name="new rows")
    assert [one.who for one in held] == [own.who, near.who, linear.who]
    assert held[0].n_right == round(10 * classifier.score(NEW, TRUTH))
    near_new = KNNClassifier(3).fit(embedding, Y).predict(extractor_of(objectives=())(NEW).array)
    assert held[1].n_right == (near_new == np.array(TRUTH)).sum()
    assert classifier.results_ == (own, near, linear, *held)
    weighted = FungiClassifier(extractor, n_neighbors=3, weights="similarity").fit(X, Y)
    words = "leave-one-out, 3 nearest rows, weighted by similarity"
    assert weighted.results_[0].protocol == words
    again = classifier.evaluate(X[:4], Y[:4], name="new rows")
    assert again[0].protocol == "fitted on 24 training rows; 4 rows equal a training row"
    assert classifier.results_[3:] == again


def test_the_plain_embedding_is_that_of_the_given_pooling(extractor) -> None:
    """Whether it is a block of the features or extracted beside them."""
    wanted = extractor.with_config(plain_config(extractor.config))(X).array
    for changes in (PLAIN, LEARNS, {**PLAIN, "embedding_weight": 0.0}):
        classifier = FungiClassifier(extractor_of(**changes), n_neighbors=3).fit(X, Y)
        found = classifier._fit.training.embedding
        np.testing.assert_allclose(found, wanted, rtol=0, atol=ROUNDING)


def test_classes_of_one_row_are_noted(extractor) -> None:
    classifier = FungiClassifier(extractor, n_neighbors=3).fit(X, ["alone", *Y[1:]])
    note = "1 classes have one row, which no other training row can classify rightly"
    assert note in classifier.record().notes
    assert note in classifier.make_card()


def test_two_rows_are_enough_for_a_head(extractor) -> None:
    for head in ("neighbors", "linear"):
        classifier = FungiClassifier(extractor, head=head).fit(X[:2], Y[:2])
        assert classifier.predict(X[:1]).tolist() in (["lost"], ["pay"])
        assert classifier.record().voters == 1
        assert all(one.n_right == 0 for one in classifier.results_)
        words = "no row could be held out, so the strength is 0.0001"
        assert (words in classifier.make_card()) is (head == "linear")
    assert classifier.predict(X[:2]).tolist() == Y[:2]


def test_groups_are_never_judged_by_themselves(extractor) -> None:
    """Copies of a row are of its group: without groups each is recognised by its copy."""
    rng = np.random.default_rng(0)
    y = [str(one) for one in rng.integers(0, 2, 12)] * 2
    x, groups = X[:12] * 2, [f"g{i}" for i in range(12)] * 2
    plain = FungiClassifier(extractor, n_neighbors=1).fit(x, y)
    told = FungiClassifier(extractor, n_neighbors=1).fit(x, y, iter(groups))
    assert plain.results_[0].accuracy == 1
    assert told.results_[0].accuracy < 1
    assert told.results_[0].protocol == "leave-one-out, 1 nearest rows of other groups"
    assert told.record().n_groups == 12
    with pytest.raises(LabelError, match="groups"):
        FungiClassifier(extractor).fit(x, y, ["one"] * 24)


# What scikit-learn's own suite asks and a classifier of texts cannot be asked: it fits tables of
# numbers, or an estimator without arguments, while here an encoder must be named.
ASKED = (
    "check_estimator_cloneable",
    "check_estimator_repr",
    "check_estimator_tags_renamed",
    "check_estimators_unfitted",
    "check_get_params_invariance",
    "check_mixin_order",
    "check_no_attributes_set_in_init",
    "check_parameters_default_constructible",
    "check_set_params",
    "check_valid_tag_types",
)


@pytest.mark.parametrize("name", ASKED)
def test_scikit_learns_own_checks(name: str) -> None:
    getattr(estimator_checks, name)("FungiClassifier", FungiClassifier())


def test_a_missing_scikit_learn_names_the_extra(monkeypatch) -> None:
    for name in [name for name in sys.modules if name.split(".")[0] == "sklearn"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "sklearn", None)
    for name in [name for name in sys.modules if name.startswith("fungi_hf.classifier")]:
        monkeypatch.delitem(sys.modules, name)
    with pytest.raises(OptionalDependencyError, match=r"pip install 'fungi-hf\[sklearn\]'"):
        importlib.import_module("fungi_hf.classifier")
    assert fungi_hf.FungiExtractor is FungiExtractor


def test_the_name_is_public() -> None:
    assert fungi_hf.FungiClassifier is FungiClassifier
    assert "FungiClassifier" in fungi_hf.__all__
