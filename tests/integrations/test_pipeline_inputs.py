"""Odd inputs of the pipeline, whatever the way in: a defined vector or an error, never another's.

Two texts get the same vector only where the tokenizer gives them the same ids, and then it is said.
"""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING, Any

import datasets
import numpy as np
import pytest
import torch
from transformers import pipeline

from fungi_hf.errors import InputError, InputTypeError
from tests.integrations.conftest import CONFIG
from tests.tiny import ROUNDING, saved_model

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from fungi_hf.integrations.transformers.pipeline import FungiPipeline

TASK = "fungi-feature-extraction"
WAYS: dict[str, Callable[[FungiPipeline, list[Any]], list[Any]]] = {
    "alone": lambda pipe, texts: [pipe(text, return_tensors=True) for text in texts],
    "list": lambda pipe, texts: pipe(texts, return_tensors=True),
    "lazy": lambda pipe, texts: list(pipe(iter(texts), batch_size=2, return_tensors=True)),
}


@pytest.fixture(scope="module")
def pipe(folder: Path) -> FungiPipeline:
    return pipeline(TASK, model=str(folder), fungi_config=CONFIG, device="cpu")


@pytest.fixture(scope="module")
def byte_level(tmp_path_factory: pytest.TempPathFactory) -> FungiPipeline:
    """An encoder whose tokenizer knows every byte."""
    path = tmp_path_factory.mktemp("tiny-roberta")
    saved_model(path, "roberta")
    return pipeline(TASK, model=str(path), fungi_config=CONFIG, device="cpu")


def vectors(pipe: FungiPipeline, way: str, texts: list[Any]) -> tuple[np.ndarray, list[str]]:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        rows = torch.cat(WAYS[way](pipe, texts)).numpy()
    return rows, [str(warning.message) for warning in caught]


DISTINCT = [
    "card 🙂",
    "card 🙃",
    "card",
    "card\x00",
    "\x00card",
    "我的卡",
    "déjà",
    "deja",
    "a\u200bb",
    "ab",
]


@pytest.mark.parametrize("way", WAYS)
def test_texts_of_other_bytes_have_other_vectors(byte_level: FungiPipeline, way: str) -> None:
    rows, said = vectors(byte_level, way, DISTINCT)

    assert said == []
    assert len(np.unique(rows.round(5), axis=0)) == len(DISTINCT)
    np.testing.assert_allclose(rows, byte_level.extractor(DISTINCT).array, rtol=0, atol=ROUNDING)


SHARED = {
    "emoji": (
        ["card 🙂", "card 🙃"],
        "2 of the texts hold tokens that the tokenizer does not know",
    ),
    "foreign_script": (
        ["我", "卡"],
        "2 of the texts hold tokens that the tokenizer does not kn",
    ),
    "a_word_of_500_letters": (["x" * 500, "y" * 500], "2 of the texts hold tokens that"),
    "nul": (["card\x00", "card"], "1 of the texts hold NUL, other control or invisible charac"),
    "zero_width": (["ca\u200brd", "card"], "1 of the texts hold NUL, other control or invisible"),
    "blank": (["", " \n\t"], "2 of the texts are empty, blank or nothing"),
    "words_100_000": (["card " * 100_000, "card " * 100_001], "2 of the texts are longer than 128"),
}


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("name", SHARED)
def test_texts_that_share_a_vector_are_counted(pipe: FungiPipeline, name: str, way: str) -> None:
    texts, message = SHARED[name]
    rows, said = vectors(pipe, way, texts)

    assert np.isfinite(rows).all()
    np.testing.assert_allclose(rows[0], rows[1], rtol=0, atol=1e-6)
    if way == "alone":
        assert len(said) == int(message[0])
        assert all(words.startswith("1 of the texts") for words in said)
    else:
        (only,) = said
        assert only.startswith(message)


def test_a_long_text_is_its_beginning(pipe: FungiPipeline) -> None:
    limit = pipe.extractor.encoder.max_length
    rows, _ = vectors(pipe, "list", ["card " * 100_000, "card " * (limit - 2)])
    np.testing.assert_allclose(rows[0], rows[1], rtol=0, atol=1e-6)


BAD: dict[str, tuple[Any, type[Exception], str]] = {
    "none": (None, InputTypeError, "must be a text .* got NoneType"),
    "integer": (3, InputTypeError, "got int: 3"),
    "float": (float("nan"), InputTypeError, "got float: nan"),
    "boolean": (True, InputTypeError, "got bool: True"),
    "bytes": (b"card", InputTypeError, "got bytes: b'card'"),
    "bytearray": (bytearray(b"card"), InputTypeError, "got bytearray"),
    "dict": ({"text": "card"}, InputTypeError, "got dict"),
    "high_surrogate": ("card \ud83d", InputError, "lone surrogate at character 5"),
    "low_surrogate": ("\ude42card", InputError, "lone surrogate at character 0"),
    "tensor": (torch.zeros(3), InputTypeError, "got Tensor"),
    "array": (np.zeros(3), InputTypeError, "got ndarray"),
}


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("name", BAD)
def test_what_is_no_text_is_refused_by_position(pipe: FungiPipeline, name: str, way: str) -> None:
    bad, error, match = BAD[name]
    texts = [bad] if way == "alone" else ["card", "pay", bad, "card"]
    place = 0 if way == "alone" else 2
    with pytest.raises(error, match=f"input {place} .*{match}|input {place} has a {match}"):
        WAYS[way](pipe, texts)


def test_a_nested_list_and_a_table_are_refused(pipe: FungiPipeline) -> None:
    with pytest.raises(InputTypeError, match=r"input 0 must be a text .* got list"):
        pipe([["card", "pay"]])
    with pytest.raises(InputTypeError, match=r"input 1 must be a text .* got tuple"):
        pipe(["card", ("card", "pay")])
    table = datasets.Dataset.from_dict({"text": ["card"], "n": [1]})
    with pytest.raises(InputTypeError, match=r"columns \['text', 'n'\].*dataset\['text'\]"):
        pipe(table)


def test_no_inputs_give_no_outputs(pipe: FungiPipeline) -> None:
    assert pipe([]) == []
    assert pipe(()) == []
    assert list(pipe(iter([]))) == []


def test_a_good_text_is_unmoved_by_odd_neighbours(pipe: FungiPipeline) -> None:
    odd = ["", "\x00", "🙂", "card " * 1000, "ca\u200brd"]
    rows, _ = vectors(pipe, "list", [odd[0], "my card", *odd[1:], "pay"])
    alone, said = vectors(pipe, "alone", ["my card", "pay"])

    assert said == []
    np.testing.assert_allclose(rows[[1, -1]], alone, rtol=0, atol=ROUNDING)
