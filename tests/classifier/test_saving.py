"""A saved classifier comes back as it was; whatever was altered or does not belong is named."""

from __future__ import annotations

import json
import shutil
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file, save_file

from fungi_hf import FungiClassifier, FungiConfig, FungiExtractor
from fungi_hf.config import KL, Activation
from fungi_hf.errors import FungiError, LabelError, StateError, StorageError
from tests.classifier.kit import NEW, QUICK, TRUTH, X, Y
from tests.tiny import saved_model

if TYPE_CHECKING:
    from pathlib import Path

CONFIG = FungiConfig(objectives=(KL(latent_dim=16), Activation()), center=True)


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> Path:
    return saved_model(tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="module", params=["neighbors", "linear"])
def saved(request, model, tmp_path_factory) -> tuple[FungiClassifier, Path]:
    classifier = FungiClassifier(str(model), CONFIG, head=request.param, n_neighbors=3)
    classifier.fit(X, Y)
    classifier.evaluate(NEW, TRUTH, name="ten new texts")
    folder = tmp_path_factory.mktemp("saved") / request.param
    classifier.save_pretrained(folder)
    return classifier, folder


@pytest.fixture
def place(saved, tmp_path) -> Path:
    return shutil.copytree(saved[1], tmp_path / "copy")


def test_a_loaded_classifier_gives_the_same(saved) -> None:
    classifier, folder = saved
    again = FungiClassifier.from_pretrained(folder)
    np.testing.assert_array_equal(again.predict_proba(NEW), classifier.predict_proba(NEW))
    assert again.predict(NEW).tolist() == classifier.predict(NEW).tolist()
    assert again.classes_.dtype == classifier.classes_.dtype
    assert again.results_ == classifier.results_
    assert again.get_params()["head"] == classifier.head
    assert again.record().to_dict() == classifier.record().to_dict()
    assert again.extractor_.fingerprint == classifier.extractor_.fingerprint
    assert FungiExtractor.from_pretrained(folder).fingerprint == again.extractor_.fingerprint
    held = again.evaluate(NEW, TRUTH, name="ten new texts")
    assert [one.who for one in held] == ["this classifier"]
    assert held[0].n_right == classifier.results_[-3].n_right


def test_a_loaded_classifier_is_saved_and_fitted_again(saved, tmp_path) -> None:
    _, folder = saved
    again = FungiClassifier.from_pretrained(folder)
    again.save_pretrained(tmp_path / "again")
    for path in folder.iterdir():
        other = (tmp_path / "again" / path.name).read_bytes()
        assert other == path.read_bytes() or path.name == "README.md"
    again.fit(X[:12], [one.upper() for one in Y[:12]])
    assert again.predict(NEW[:2]).tolist() == ["LOST", "PAY"]


def test_the_folder_holds_json_and_safetensors_and_no_text(saved) -> None:
    _, folder = saved
    assert {path.name for path in folder.iterdir()} == {
        "README.md", "classifier.json", "classifier.safetensors", "config.json",
        "fungi_config.json", "fungi_state.safetensors", "modules.json",
    }  # fmt: skip
    for path in folder.iterdir():
        content = path.read_bytes()
        assert not any(text.encode() in content for text in X)


def test_arrays_are_the_gallery_or_the_coefficients(saved) -> None:
    classifier, folder = saved
    arrays = load_file(folder / "classifier.safetensors")
    if classifier.head == "neighbors":
        np.testing.assert_array_equal(arrays["gallery"], classifier.extractor_(X).array)
        assert classifier.classes_[arrays["codes"]].tolist() == Y
    else:
        width = classifier.extractor_.width
        assert {name: one.shape for name, one in arrays.items()} == {
            "coefficients": (1, width),
            "intercept": (1,),
        }


def test_the_report_of_tuning_is_kept(model, tmp_path) -> None:
    classifier = FungiClassifier(str(model), search=QUICK, n_neighbors=3).fit(X, Y)
    classifier.save_pretrained(tmp_path)
    again = FungiClassifier.from_pretrained(tmp_path)
    assert again.extractor_.tuning.to_json() == classifier.extractor_.tuning.to_json()
    card = (tmp_path / "README.md").read_text()
    assert "the features were chosen by these rows' labels" in card
    assert f"chosen by tuning: {classifier.extractor_.tuning.reason}" in card


def test_the_card_says_what_was_measured_on_which_rows(saved) -> None:
    classifier, folder = saved
    card = (folder / "README.md").read_text()
    assert card == classifier.make_card(place=folder.name)
    for one in classifier.results_:
        line = f"| {one.rows} | {one.protocol} | {one.n_right} of {one.n_rows} | "
        assert f"{line}{100 * one.accuracy:.1f} |" in card
    assert "24 labelled inputs of 2 classes." in card
    assert "| lost | 12 |" in card
    assert "other rows: whoever made the classifier gave them as rows held out of `fit`" in card
    assert "what the features learn without labels, they learned from these rows" in card
    assert "pipeline_tag: text-classification" in card
    holds = "holds a vector and a label for each of the 24 training rows"
    assert (holds in card) is (classifier.head == "neighbors")
    assert ("holds coefficients, no row of training" in card) is (classifier.head == "linear")
    assert str(folder.parent) not in card
    fields = card.split("---")[1]
    assert "name: ten new texts" in fields
    assert "training rows\n" not in fields  # figures of training rows are no benchmark


def test_the_card_names_what_the_classifier_loses_to(model) -> None:
    y = [("odd", "even")[len(text) % 2] for text in X]
    classifier = FungiClassifier(str(model), CONFIG, n_neighbors=3).fit(X, y)
    own, *others = classifier.results_
    ahead = [one.who for one in others if one.accuracy > own.accuracy]
    assert ahead
    line = ", ".join(f"{who} on training rows" for who in ahead)
    assert f"- behind {line}\n" in classifier.make_card()
    assert "- nothing was measured on rows held out of `fit`" in classifier.make_card()


def test_a_card_of_ones_own_stays_and_an_older_one_is_replaced(saved, place) -> None:
    classifier, _ = saved
    (place / "README.md").write_text("mine")
    classifier.save_pretrained(place)
    assert (place / "README.md").read_text() == "mine"
    (place / "README.md").write_text(classifier.make_card().replace("24 labelled", "99 labelled"))
    classifier.save_pretrained(place)
    assert "24 labelled" in (place / "README.md").read_text()


def edit(path: Path, **changes: Any) -> None:
    document = json.loads(path.read_text())
    path.write_text(json.dumps({**document, **changes}))


def arrays_changed(place: Path) -> None:
    arrays = load_file(place / "classifier.safetensors")
    arrays = {name: one.copy() for name, one in arrays.items()}
    next(iter(arrays.values())).flat[0] += 1
    save_file(arrays, place / "classifier.safetensors")


def cut(name: str) -> Any:
    def run(place: Path) -> None:
        path = place / name
        path.write_bytes(path.read_bytes()[:-20])

    return run


def labels_changed(place: Path) -> None:
    document = json.loads((place / "classifier.json").read_text())
    document["labels"]["values"].reverse()
    (place / "classifier.json").write_text(json.dumps(document))


DAMAGE: dict[str, tuple[Any, type[FungiError], str]] = {
    "no classifier": (
        lambda p: (p / "classifier.json").unlink(), StorageError,
        "holds no classifier: there is no classifier.json; FungiClassifier.save_pretrained and",
    ),
    "no arrays": (
        lambda p: (p / "classifier.safetensors").unlink(), StorageError,
        "lacks classifier.safetensors",
    ),
    "no extractor": (
        lambda p: (p / "fungi_config.json").unlink(), StorageError, "lacks fungi_config.json",
    ),
    "half a document": (cut("classifier.json"), StateError, "classifier.json is damaged: not JSON"),
    "half the arrays": (cut("classifier.safetensors"), StateError, "classifier.safetensors is dam"),
    "other arrays": (arrays_changed, StateError, "classifier.safetensors was altered: its digest"),
    "other labels": (labels_changed, StateError, "classifier.json was altered: its digest is"),
    "other figures": (
        lambda p: edit(p / "classifier.json", results=[]), StateError, "classifier.json was alter",
    ),
    "no digests": (
        lambda p: edit(p / "classifier.json", digests=None), StateError, "says None",
    ),
    "another kind": (
        lambda p: edit(p / "classifier.json", kind="x"), StateError, "describes no classifier",
    ),
    "a list": (
        lambda p: (p / "classifier.json").write_text("[]"), StateError, "describes no classifier",
    ),
    "a newer one": (
        lambda p: edit(p / "classifier.json", format=2), StateError, "version 2, .* upgrade fungi",
    ),
    "no text": (
        lambda p: (p / "classifier.json").write_bytes(b"\xff{}"), StateError, "is damaged: not JSO",
    ),
    "other state": (
        cut("fungi_state.safetensors"), StateError, "fungi_state.safetensors is damaged",
    ),
}  # fmt: skip


@pytest.mark.parametrize(("damage", "kind", "words"), DAMAGE.values(), ids=DAMAGE)
def test_damage_is_named(place, damage, kind, words) -> None:
    damage(place)
    with pytest.raises(kind, match=words):
        FungiClassifier.from_pretrained(place)


def rewritten(place: Path, **changes: Any) -> None:
    """Change a document and its digest, as somebody would who knows the layout."""
    from fungi_hf.storage import files

    path = place / "classifier.json"
    document = {**json.loads(path.read_text()), **changes}
    fields = {k: v for k, v in document.items() if k not in ("kind", "format", "digests")}
    document["digests"]["classifier.json"] = files.json_digest(fields)
    path.write_text(json.dumps(document))


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"head": "svm"}, "'head' is 'svm'"),
        ({"head": None}, "'head' must be a str"),
        ({"voters": True}, "'voters' must be a int"),
        ({"counts": [1]}, "'counts' must be 2 whole numbers"),
        ({"counts": [1, "a"]}, "'counts' must be 2 whole numbers"),
        ({"labels": {"dtype": "<U4", "values": ["a"]}}, "the labels cannot be read"),
        ({"results": [{"who": "me"}]}, "a result must have the fields"),
        ({"results": [{"who": "a", "rows": "b", "protocol": "c", "n_rows": 1, "n_right": 2}]},
         "2 right of 1 rows is impossible"),
        ({"fingerprint": "0"}, "the classifier was fitted with 0: the folder holds the files of"),
    ],
)  # fmt: skip
def test_impossible_documents_are_refused(place, changes, words) -> None:
    rewritten(place, **changes)
    with pytest.raises(StateError, match=words):
        FungiClassifier.from_pretrained(place)


def test_another_extractor_in_the_folder_is_refused(saved, place, model) -> None:
    FungiExtractor.from_pretrained(model, CONFIG).fit(X[:9]).save_pretrained(place)
    with pytest.raises(StateError, match="the folder holds the files of two extractors"):
        FungiClassifier.from_pretrained(place)


def test_another_model_is_refused(place, tmp_path) -> None:
    other = saved_model(tmp_path / "other", "roberta")
    with pytest.raises(FungiError):
        FungiClassifier.from_pretrained(place, model=other)
    same = saved_model(tmp_path / "same")
    weights = load_file(same / "model.safetensors")
    name = next(name for name, one in weights.items() if one.ndim == 2)
    save_file(weights | {name: weights[name] * 1.5}, same / "model.safetensors")
    with pytest.raises(StateError, match="the digest of 'encoder' is"):
        FungiClassifier.from_pretrained(place, model=same)


def test_the_model_may_be_given(saved, place, model, tmp_path) -> None:
    document = json.loads((place / "fungi_config.json").read_text())
    document["encoder"]["name"] = ""
    (place / "fungi_config.json").write_text(json.dumps(document))
    with pytest.raises(StateError, match="pass model="):
        FungiClassifier.from_pretrained(place)
    again = FungiClassifier.from_pretrained(place, model=model)
    np.testing.assert_array_equal(again.predict_proba(NEW), saved[0].predict_proba(NEW))


def test_labels_that_json_cannot_hold_are_named_before_anything_is_written(model, tmp_path) -> None:
    y = [(b"a", b"b")[i % 2] for i in range(len(X))]
    classifier = FungiClassifier(str(model), CONFIG, n_neighbors=3).fit(X, y)
    assert classifier.predict(NEW[:2]).tolist() == [b"a", b"b"]
    with pytest.raises(LabelError, match="is a bytes, which JSON cannot hold"):
        classifier.save_pretrained(tmp_path / "no")
    assert not (tmp_path / "no").exists()


def test_a_place_that_cannot_be_written_is_named(saved, tmp_path) -> None:
    (tmp_path / "file").write_text("mine")
    with pytest.raises(StorageError, match="cannot write to"):
        saved[0].save_pretrained(tmp_path / "file")


def test_saving_does_not_touch_global_random_numbers(saved, tmp_path) -> None:
    before = torch.random.get_rng_state()
    saved[0].save_pretrained(tmp_path)
    assert torch.equal(before, torch.random.get_rng_state())
