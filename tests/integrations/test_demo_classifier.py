"""New texts get labels from a language model that sees similar labelled ones."""

from __future__ import annotations

import asyncio
import json
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from sklearn.base import clone
from sklearn.model_selection import cross_val_score

from fungi_hf import FungiExtractor
from fungi_hf.cli import main
from fungi_hf.errors import ConfigError, InputError, InputTypeError, LLMError, StorageError
from fungi_hf.icl import ChatLLM, FakeOpenAIServer
from fungi_hf.icl.llm import LLM, Reply
from fungi_hf.icl.sampling import Sampling
from fungi_hf.integrations.demo_classifier import DemoClassifier
from tests.integrations.conftest import CONFIG, FITTED

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

SECRET = "sk-very-secret-0123456789"
X = ["my card was lost", "the card is lost", "pay the bank", "how do you pay", "is my money old",
     "what is the new money"]  # fmt: skip
Y = ["lost", "lost", "pay", "pay", "money", "money"]
NEW = ["lost card", "do pay me", "new money please"]


@pytest.fixture
def server() -> Iterator[FakeOpenAIServer]:
    with FakeOpenAIServer("nearest") as running:
        yield running


class Scored(LLM):
    """Scores labels by their place; the last is the likeliest."""

    name = "scored"

    async def answer(self, prompt: Any, labels: Any) -> Reply:
        return Reply(
            content=labels.surfaces[-1], label_scores=tuple(map(float, range(len(labels))))
        )


@pytest.mark.parametrize("strategy", ["knn", "bm25", "random"])
def test_texts_go_in_and_labels_come_out(
    server: FakeOpenAIServer, extractor: FungiExtractor, strategy: str
) -> None:
    llm = ChatLLM("fake", base_url=server.url)
    held = extractor if strategy == "knn" else None
    classifier = DemoClassifier(held, llm, strategy=strategy, k=3).fit(X, Y)
    found = classifier.predict(NEW)
    assert classifier.classes_.tolist() == ["lost", "money", "pay"]
    assert found.shape == (3,)
    assert set(found) <= set(Y)
    if strategy == "bm25":
        assert found.tolist() == ["lost", "pay", "money"]
        assert classifier.score(NEW, ["lost", "pay", "money"]) == 1
        assert asyncio.run(classifier.apredict(NEW)).tolist() == found.tolist()
    assert classifier.result_.statuses == {"ok": 3}


def test_numbers_stay_numbers_and_an_equal_text_is_shown(server: FakeOpenAIServer) -> None:
    llm = ChatLLM("fake", base_url=server.url)
    numbers = np.array([7, 7, 3, 3, 5, 5])
    classifier = DemoClassifier(None, llm, strategy="bm25", k=1).fit(X, numbers)
    found = classifier.predict(X)
    assert found.dtype == numbers.dtype
    assert found.tolist() == numbers.tolist()


def test_an_extractor_that_learns_learns_from_the_pool(
    server: FakeOpenAIServer, folder: Path
) -> None:
    llm = ChatLLM("fake", base_url=server.url)
    extractor = FungiExtractor.from_pretrained(folder, FITTED)
    classifier = DemoClassifier(extractor, llm, k=2).fit(X, Y)
    assert extractor.is_fitted
    assert classifier.predict(NEW).shape == (3,)


def test_examples_are_added_without_a_new_fit(
    server: FakeOpenAIServer, extractor: FungiExtractor, monkeypatch: pytest.MonkeyPatch
) -> None:
    llm = ChatLLM("fake", base_url=server.url)
    grown = DemoClassifier(extractor, llm, k=3).fit(X[:4], Y[:4])
    seen: list[str] = []
    call = FungiExtractor.__call__

    def counted(self: FungiExtractor, inputs: Any, *rest: Any, **options: Any) -> Any:
        seen.extend(inputs)
        return call(self, inputs, *rest, **options)

    monkeypatch.setattr(FungiExtractor, "__call__", counted)
    grown.add(X[4:], Y[4:])
    assert seen == X[4:]
    whole = DemoClassifier(extractor, llm, k=3).fit(X, Y)
    assert grown.classes_.tolist() == whole.classes_.tolist()
    assert grown.predict(NEW).tolist() == whole.predict(NEW).tolist()


@pytest.mark.parametrize("strategy", ["knn", "bm25"])
def test_saved_classifiers_load_and_hold_no_key(
    server: FakeOpenAIServer, extractor: FungiExtractor, tmp_path: Path, strategy: str, capsys: Any
) -> None:
    llm = ChatLLM("fake", base_url=server.url, api_key=SECRET, headers={"x": SECRET},
                  sampling=Sampling(max_output_tokens=99))  # fmt: skip
    held = extractor if strategy == "knn" else None
    classifier = DemoClassifier(held, llm, strategy=strategy, k=2).fit(X, Y)
    wanted = classifier.predict(NEW).tolist()
    place = tmp_path / "saved"
    classifier.save_pretrained(place)
    for path in place.iterdir():
        assert SECRET.encode() not in path.read_bytes()
        assert path.suffix in (".json", ".jsonl", ".safetensors")
    again = DemoClassifier.from_pretrained(place)
    assert again.llm.sampling.max_output_tokens == 99
    assert again.predict(NEW).tolist() == wanted
    (tmp_path / "new.txt").write_text("\n".join(NEW))
    assert main(["icl", "predict", str(place), str(tmp_path / "new.txt")]) == 0
    rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [row["label"] for row in rows] == wanted
    assert {row["status"] for row in rows} == {"ok"}
    out = tmp_path / "labels.jsonl"
    words = ["icl", "predict", str(place), str(tmp_path / "new.txt"), "--out", str(out)]
    assert main([*words, "--base-url", server.url]) == 0
    assert [json.loads(line)["label"] for line in out.read_text().splitlines()] == wanted


def test_an_own_model_is_given_again(tmp_path: Path) -> None:
    classifier = DemoClassifier(None, Scored(), strategy="bm25", k=2).fit(X, Y)
    classifier.save_pretrained(tmp_path)
    with pytest.raises(ConfigError, match="was saved with a Scored; pass llm="):
        DemoClassifier.from_pretrained(tmp_path)
    again = DemoClassifier.from_pretrained(tmp_path, llm=Scored())
    assert again.predict(NEW).tolist() == ["pay"] * 3
    (tmp_path / "nothing").mkdir()
    with pytest.raises(StorageError, match="holds no saved DemoClassifier"):
        DemoClassifier.from_pretrained(tmp_path / "nothing")


def test_probabilities_are_the_softmax_of_scores(server: FakeOpenAIServer) -> None:
    classifier = DemoClassifier(None, Scored(), strategy="bm25", k=2).fit(X, Y)
    shares = classifier.predict_proba(NEW)
    wanted = np.exp([0.0, 1.0, 2.0]) / np.exp([0.0, 1.0, 2.0]).sum()
    np.testing.assert_allclose(shares, np.tile(wanted, (3, 1)), rtol=1e-12)
    plain = DemoClassifier(None, ChatLLM("fake", base_url=server.url), strategy="bm25", k=2)
    with pytest.raises(ConfigError, match="gives no label scores"):
        plain.fit(X, Y).predict_proba(NEW)


def test_answers_without_a_label_take_the_vote_or_are_an_error() -> None:
    with FakeOpenAIServer("empty") as server:
        llm = ChatLLM("fake", base_url=server.url)
        classifier = DemoClassifier(None, llm, strategy="bm25", k=2).fit(X, Y)
        with pytest.warns(UserWarning, match=r"3 of 3 texts have no label \(3 empty\)"):
            assert classifier.predict(NEW).tolist() == ["lost", "pay", "money"]
        strict = clone(classifier).set_params(on_missing="error").fit(X, Y)
        with pytest.raises(LLMError, match="3 of 3 texts have no label") as caught:
            strict.predict(NEW)
        assert len(caught.value.partial.rows) == 3


def test_scikit_learn_takes_it(server: FakeOpenAIServer) -> None:
    llm = ChatLLM("fake", base_url=server.url)
    classifier = DemoClassifier(None, llm, strategy="bm25", k=2)
    assert clone(classifier).llm is llm
    scores = cross_val_score(classifier, np.array(X * 2), np.array(Y * 2), cv=2)
    assert scores.shape == (2,)


BAD: list[tuple[Any, Any, type[Exception], str]] = [
    ("one text", ["a"], InputTypeError, "X must be a sequence of texts"),
    ([1, 2], ["a", "b"], InputTypeError, "text 0 is int"),
    ([], [], InputError, "there is no text"),
    (["a", "b"], ["x"], InputError, "2 texts have 1 labels"),
    (["a", "b"], ["x", 1], InputTypeError, "labels are texts and numbers"),
    (["a", "b"], [0.5, 1.5], InputTypeError, "labels are texts or whole numbers; got float"),
    (["a", "b"], ["x", "x"], Exception, "at least 2 labels"),
]


@pytest.mark.parametrize(("texts", "labels", "kind", "words"), BAD, ids=[row[3] for row in BAD])
def test_wrong_inputs_are_explained(
    texts: Any, labels: Any, kind: type[Exception], words: str
) -> None:
    with pytest.raises(kind, match=words):
        DemoClassifier(None, Scored(), strategy="bm25").fit(texts, labels)


def test_a_missing_model_is_named(extractor: FungiExtractor, folder: Path) -> None:
    with pytest.raises(ConfigError, match="llm is None"):
        DemoClassifier(extractor).fit(X, Y).predict(NEW)
    by_name = DemoClassifier(str(folder), Scored()).fit(X, Y)
    assert by_name.predict(NEW).tolist() == ["pay"] * 3
    assert CONFIG.objectives[0].name == "kl"
