"""A call is that of transformers' pipelines for classification."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from transformers import BertConfig, BertForSequenceClassification, pipeline

from fungi_hf import Activation, FungiClassifier
from fungi_hf.classifier.calls import is_one
from fungi_hf.errors import ConfigError, InputTypeError
from tests.classifier.kit import sentences
from tests.tiny import extractor_of, model_of

X, Y = sentences(24, classes=3)
NEW = sentences(4, seed=1, classes=3)[0]


@pytest.fixture(scope="module")
def classifier() -> FungiClassifier:
    return FungiClassifier(extractor_of(objectives=(Activation(),)), n_neighbors=5).fit(X, Y)


@pytest.fixture(scope="module")
def theirs() -> Any:
    tokenizer = model_of()[1]
    config = BertConfig(
        vocab_size=len(tokenizer), hidden_size=16, num_hidden_layers=1, num_attention_heads=2,
        intermediate_size=16, num_labels=3,
    )  # fmt: skip
    torch.manual_seed(0)
    model = BertForSequenceClassification(config)
    return pipeline("text-classification", model=model, tokenizer=tokenizer)


def shape(answer: Any) -> Any:
    """What an answer is made of: lists, and records with a text and a number."""
    if isinstance(answer, list):
        return [shape(one) for one in answer]
    return {name: type(value) for name, value in answer.items()}


@pytest.mark.parametrize("options", [{}, {"top_k": 1}, {"top_k": 2}, {"top_k": None}])
@pytest.mark.parametrize("inputs", [NEW[0], NEW, NEW[:1]], ids=["one", "many", "list of one"])
def test_answers_have_the_shape_of_transformers(classifier, theirs, inputs, options) -> None:
    assert shape(classifier(inputs, **options)) == shape(theirs(inputs, **options))


def test_answers_are_those_of_predict_and_predict_proba(classifier) -> None:
    shares, labels = classifier.predict_proba(NEW), classifier.predict(NEW)
    assert classifier(NEW) == [
        {"label": label, "score": row.max()} for label, row in zip(labels, shares, strict=True)
    ]
    for answer, row in zip(classifier(NEW, top_k=None), shares, strict=True):
        assert [one["score"] for one in answer] == sorted(row, reverse=True)
        assert {one["label"]: one["score"] for one in answer} == dict(
            zip(classifier.classes_, row, strict=True)
        )
    assert classifier(NEW, batch_size=1) == classifier(NEW)
    assert classifier([]) == []


def test_wrong_calls_are_explained(classifier) -> None:
    for bad in (0, -1, 1.5, "all"):
        with pytest.raises(ConfigError, match="top_k must be an integer"):
            classifier(NEW, top_k=bad)
    with pytest.raises(InputTypeError, match="input 0 must be a text"):
        classifier(3)
    with pytest.raises(InputTypeError, match="input 1 must be a text"):
        classifier(["a", None])


PICTURE = Image.new("RGB", (4, 4))
ONE: list[Any] = [
    "a", b"a", Path("a"), {"array": [0.0], "sampling_rate": 1}, (np.zeros(3), 16000), PICTURE,
    np.zeros(5), np.zeros((4, 4, 3)), torch.zeros(3, 4, 4), None, 3,
]  # fmt: skip
MANY: list[Any] = [
    [], ["a"], ("a", "b"), iter("ab"), np.array(["a"]), np.array(["a", None], object),
    pd.Series(["a"]), np.zeros((2, 4, 4, 3)), torch.zeros(2, 3, 4, 4), [PICTURE],
]  # fmt: skip


@pytest.mark.parametrize("inputs", ONE, ids=lambda one: type(one).__name__)
def test_one_input_is_one(inputs) -> None:
    assert is_one(inputs)


@pytest.mark.parametrize("inputs", MANY, ids=lambda one: type(one).__name__)
def test_many_inputs_are_many(inputs) -> None:
    assert not is_one(inputs)
