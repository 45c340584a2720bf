"""Classifiers on the Hub: pushed, read back from one commit, pushed again, a stranger's card."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest

from fungi_hf import FungiClassifier, FungiExtractor
from fungi_hf.cli import main
from fungi_hf.errors import StorageError
from fungi_hf.integrations.demo_classifier import DemoClassifier
from fungi_hf.tuning import TuningSearch
from tests.classifier.kit import NEW, TRUTH, X, Y
from tests.fake_hub import TOKEN

if TYPE_CHECKING:
    from tests.fake_hub import FakeHub

FILES = {
    "README.md", "classifier.json", "classifier.safetensors", "config.json", "fungi_config.json",
    "fungi_state.safetensors", "modules.json",
}  # fmt: skip


@pytest.fixture
def classifier(extractor: FungiExtractor) -> FungiClassifier:
    return FungiClassifier(extractor, n_neighbors=3).fit(X, Y)


def test_a_pushed_classifier_comes_back(hub: FakeHub, classifier: FungiClassifier) -> None:
    url = classifier.push_to_hub("owner/clf", token=TOKEN, private=True)
    assert url.startswith(f"{hub.url}/owner/clf/commit/")
    assert set(hub.files("owner/clf")) == FILES
    again = FungiClassifier.from_pretrained("owner/clf", token=TOKEN)
    np.testing.assert_array_equal(again.predict_proba(NEW), classifier.predict_proba(NEW))
    assert again.extractor_.source.name == "user/encoder"
    card = hub.files("owner/clf")["README.md"].decode()
    assert "base_model: user/encoder" in card
    assert 'FungiClassifier.from_pretrained("owner/clf")' in card
    with pytest.raises(StorageError):
        FungiClassifier.from_pretrained("owner/clf")  # private


def test_a_second_push_replaces_what_is_ours_and_nothing_else(
    hub: FakeHub, classifier: FungiClassifier, extractor: FungiExtractor
) -> None:
    classifier.push_to_hub("owner/clf", token=TOKEN)
    first = hub.repos["owner/clf"].branches["main"]
    other = FungiClassifier(extractor, head="linear").fit(X[:12], [y.upper() for y in Y[:12]])
    other.push_to_hub("owner/clf", token=TOKEN)
    again = FungiClassifier.from_pretrained("owner/clf")
    assert again.classes_.tolist() == ["LOST", "PAY"]
    np.testing.assert_array_equal(again.predict_proba(NEW), other.predict_proba(NEW))
    assert "12 labelled inputs" in hub.files("owner/clf")["README.md"].decode()
    old = FungiClassifier.from_pretrained("owner/clf", revision=first)
    assert old.predict(NEW).tolist() == classifier.predict(NEW).tolist()
    hub.put("owner/clf", {**hub.files("owner/clf"), "README.md": b"mine", "notes.txt": b"kept"})
    classifier.push_to_hub("owner/clf", token=TOKEN)
    assert hub.files("owner/clf")["README.md"] == b"mine"
    assert hub.files("owner/clf")["notes.txt"] == b"kept"
    assert FungiClassifier.from_pretrained("owner/clf").classes_.tolist() == ["lost", "pay"]


def test_both_files_are_of_one_commit(
    hub: FakeHub, classifier: FungiClassifier, extractor: FungiExtractor, monkeypatch
) -> None:
    """Somebody pushes between the reading of two files."""
    from fungi_hf.classifier import folders

    classifier.push_to_hub("owner/clf", token=TOKEN)
    other = FungiClassifier(extractor, head="linear").fit(X, Y)
    read = folders._document

    def overtaken(path):
        other.push_to_hub("owner/clf", token=TOKEN)
        return read(path)

    monkeypatch.setattr(folders, "_document", overtaken)
    assert FungiClassifier.from_pretrained("owner/clf").head == "neighbors"


def test_a_repository_without_a_classifier_is_named(
    hub: FakeHub, extractor: FungiExtractor
) -> None:
    extractor.push_to_hub("owner/features", token=TOKEN)
    with pytest.raises(StorageError, match="'owner/features' holds no classifier"):
        FungiClassifier.from_pretrained("owner/features")


def test_a_model_without_a_name_is_warned_of(hub: FakeHub, classifier: FungiClassifier) -> None:
    classifier.extractor_.source = type(classifier.extractor_.source)()
    with pytest.warns(UserWarning, match="whoever loads this must pass model="):
        classifier.push_to_hub("owner/clf", token=TOKEN)


def test_the_program_pushes_and_shows_a_classifier(
    hub: FakeHub, classifier: FungiClassifier, tmp_path, capsys, monkeypatch
) -> None:
    classifier.evaluate(NEW, TRUTH, name="new rows")
    classifier.save_pretrained(tmp_path / "clf")
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    assert main(["push", str(tmp_path / "clf"), "owner/pushed"]) == 0
    assert set(hub.files("owner/pushed")) == FILES
    again = FungiClassifier.from_pretrained("owner/pushed")
    assert again.results_ == classifier.results_
    capsys.readouterr()
    assert main(["card", "owner/pushed"]) == 0
    assert capsys.readouterr().out == classifier.make_card(place="owner/pushed")
    assert main(["info", "owner/pushed"]) == 0
    shown = capsys.readouterr().out
    assert '"head": "neighbors"' in shown
    assert '"n_right"' in shown
    assert main(["card", "owner/pushed", "--results", "r.json"]) == 1
    assert "--results are of an extractor's card" in capsys.readouterr().err


def test_a_second_push_renews_the_report_of_tuning(hub: FakeHub, extractor: FungiExtractor) -> None:
    search = TuningSearch(objectives=(), whitenings=(), components=(), n_neighbors=3)
    for n in (24, 12):
        tuned = extractor.tune(X[:n], Y[:n], search=search)
        tuned.push_to_hub("owner/tuned", token=TOKEN)
        found = FungiExtractor.from_pretrained("owner/tuned").tuning
        assert found is not None
        assert found.n_rows == n


def test_a_second_push_renews_demonstrations(hub: FakeHub) -> None:
    for texts in (X[:4], X[4:10]):
        DemoClassifier(None, None, strategy="bm25", k=2).fit(texts, Y[: len(texts)]).push_to_hub(
            "owner/demos", token=TOKEN
        )
        again = DemoClassifier.from_pretrained("owner/demos")
        assert list(again.pool_.contents) == texts
