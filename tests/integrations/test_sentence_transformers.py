"""The module inside sentence-transformers gives the extractor's vectors, saved and loaded too."""

from __future__ import annotations

import pickle
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from sentence_transformers import SentenceTransformer
from sentence_transformers.util import semantic_search

from fungi_hf import FungiExtractor
from fungi_hf.errors import ConfigError, InputTypeError, NotFittedError
from fungi_hf.integrations.sentence_transformers import FungiModule
from tests.integrations.conftest import CONFIG, FITTED, TEXTS
from tests.tiny import ROUNDING

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture(scope="module")
def model(extractor: FungiExtractor) -> SentenceTransformer:
    return SentenceTransformer(modules=[FungiModule(extractor)], device="cpu")


def test_encode_gives_the_extractors_vectors(model: SentenceTransformer, expected: Any) -> None:
    for options in ({}, {"batch_size": 3}, {"convert_to_tensor": True}):
        np.testing.assert_allclose(model.encode(TEXTS, **options), expected, rtol=0, atol=ROUNDING)
    np.testing.assert_allclose(model.encode(TEXTS[2]), expected[2], rtol=0, atol=ROUNDING)
    backwards = model.encode(TEXTS[::-1], batch_size=2)
    np.testing.assert_allclose(backwards[::-1], expected, rtol=0, atol=ROUNDING)
    assert model.get_embedding_dimension() == expected.shape[1]


def test_options_of_encode(model: SentenceTransformer, expected: Any) -> None:
    unit = model.encode(TEXTS, normalize_embeddings=True)
    np.testing.assert_allclose(np.linalg.norm(unit, axis=1), 1, rtol=1e-5)
    width = expected.shape[1] // 2
    np.testing.assert_allclose(
        model.encode(TEXTS, truncate_dim=width), expected[:, :width], rtol=0, atol=ROUNDING
    )
    assert model.encode(TEXTS, precision="int8").dtype == np.int8
    prompted = model.encode(["card"], prompt="my ")
    np.testing.assert_allclose(prompted, model.encode(["my card"]), rtol=0, atol=1e-6)
    with pytest.raises(ValueError, match="nonsense"):
        model.encode(TEXTS, nonsense=1)


def test_similarity_and_search(model: SentenceTransformer) -> None:
    rows = model.encode(TEXTS, convert_to_tensor=True)
    similarity = model.similarity(rows, rows)
    assert torch.allclose(similarity.diagonal(), torch.ones(len(TEXTS)), atol=ROUNDING)
    hits = semantic_search(rows, rows, top_k=1)
    assert [hit[0]["corpus_id"] for hit in hits] == list(range(len(TEXTS)))


def test_views_do_not_depend_on_the_order(fitted: FungiExtractor) -> None:
    model = SentenceTransformer(modules=[FungiModule(fitted)], device="cpu")
    wanted = fitted(TEXTS).array
    np.testing.assert_allclose(model.encode(TEXTS, batch_size=2), wanted, rtol=0, atol=ROUNDING)


def test_saved_folders_load(folder: Path, fitted: FungiExtractor, tmp_path: Path) -> None:
    wanted = fitted(TEXTS).array
    SentenceTransformer(modules=[FungiModule(fitted)], device="cpu").save(str(tmp_path / "st"))
    fitted.save_pretrained(tmp_path / "ours")

    for place in ("st", "ours"):
        again = SentenceTransformer(str(tmp_path / place), trust_remote_code=True, device="cpu")
        np.testing.assert_array_equal(again.encode(TEXTS), wanted)
    assert FungiExtractor.from_pretrained(tmp_path / "st").fingerprint == fitted.fingerprint


def test_a_folders_own_modules_file_stays(extractor: FungiExtractor, tmp_path: Path) -> None:
    (tmp_path / "modules.json").write_text("[]")
    extractor.save_pretrained(tmp_path)
    assert (tmp_path / "modules.json").read_text() == "[]"


def test_a_module_travels_as_parts(fitted: FungiExtractor) -> None:
    again = pickle.loads(pickle.dumps(FungiModule(fitted)))  # noqa: S301
    assert again.extractor.fingerprint == fitted.fingerprint
    assert (again.extractor(TEXTS).array == fitted(TEXTS).array).all()


def test_wrong_modules_are_refused(folder: Path, extractor: FungiExtractor, tmp_path: Path) -> None:
    with pytest.raises(NotFittedError, match="fit the extractor before"):
        FungiModule(FungiExtractor.from_pretrained(folder, FITTED))
    with pytest.raises(ConfigError, match="brings its config"):
        FungiModule(extractor, CONFIG)
    with pytest.raises(ConfigError, match="only safetensors"):
        FungiModule(extractor).save(str(tmp_path), safe_serialization=False)
    assert FungiModule(str(folder), CONFIG).max_seq_length > 0


@pytest.mark.parametrize("bad", [None, 3, b"card", ("my card", "a card")])
def test_a_prompt_makes_no_text_of_what_is_none(model: SentenceTransformer, bad: Any) -> None:
    for prompt in (None, "query: "):
        with pytest.raises(InputTypeError, match="input 0 must be a text"):
            model.encode([bad], prompt=prompt)


@pytest.mark.slow
def test_multi_process_encoding(model: SentenceTransformer, expected: Any) -> None:
    rows = model.encode(TEXTS, device=["cpu", "cpu"], chunk_size=4)
    np.testing.assert_allclose(rows, expected, rtol=0, atol=ROUNDING)
