"""Tokenizers that their users have changed, and wrappers around models."""

from __future__ import annotations

import copy

import numpy as np
import peft
import pyarrow as pa
import pytest
import torch
from transformers import AutoModel

from fungi_hf import FungiConfig, FungiExtractor
from fungi_hf.errors import EncoderError, InputError
from fungi_hf.testing import tiny_text_model
from tests.tiny import TEXTS

# peft reads a deprecated name of transformers.
pytestmark = [
    pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing. is deprecated"),
    pytest.mark.filterwarnings("ignore:.*were truncated"),
]
CONFIG = FungiConfig(dtype="float64", max_length=6)
LONG = "my card was lost how do you pay"


def made(model, tokenizer) -> FungiExtractor:
    return FungiExtractor.from_pretrained(model, CONFIG, tokenizer)


@pytest.mark.parametrize(
    ("name", "value", "text"),
    [("truncation_side", "left", LONG), ("split_special_tokens", True, "my [SEP] card")],
)
def test_settings_beside_the_backend_are_in_the_fingerprint(name, value, text):
    model, tokenizer = tiny_text_model("bert")
    other = copy.deepcopy(tokenizer)
    setattr(other, name, value)
    one, two = made(model, tokenizer), made(model, other)
    assert one.fingerprint != two.fingerprint
    ids = two.encoder.prepare([text])[0].data.tolist()
    assert ids == other(text, truncation=True, max_length=6)["input_ids"]
    assert ids != one.encoder.prepare([text])[0].data.tolist()


def test_tokens_without_a_row_are_named():
    model, tokenizer = tiny_text_model("bert")
    tokenizer.add_tokens(["zzz"])
    extractor = made(model, tokenizer)
    with pytest.raises(InputError, match=r"resize_token_embeddings\(len\(tokenizer\)\)"):
        extractor(["my card", "my zzz"])
    features = extractor(["my card", "my zzz"], on_error="skip")
    assert (len(features), features.failures[0].index) == (1, 1)
    with torch.random.fork_rng():
        model.resize_token_embeddings(len(tokenizer), mean_resizing=False)
    assert np.isfinite(made(model, tokenizer)(["my zzz"]).array).all()


def test_a_parallel_wrapper_is_taken_off():
    model, tokenizer = tiny_text_model("bert")
    wrapped = made(torch.nn.DataParallel(model), tokenizer)
    assert np.array_equal(wrapped(TEXTS).array, made(model, tokenizer)(TEXTS).array)


def test_an_adapter_without_its_model_says_how_to_load_it(tmp_path):
    model, tokenizer = tiny_text_model("bert")
    base, adapter = str(tmp_path / "base"), str(tmp_path / "adapter")
    model.save_pretrained(base)
    settings = peft.LoraConfig(r=2, target_modules=["query"], init_lora_weights=False)
    peft.get_peft_model(AutoModel.from_pretrained(base), settings).save_pretrained(adapter)
    with pytest.raises(EncoderError, match="holds an adapter and no model; pass the model object"):
        FungiExtractor.from_pretrained(adapter, CONFIG, tokenizer)


@pytest.mark.parametrize("texts", [pa.array(TEXTS), pa.chunked_array([TEXTS[:2], TEXTS[2:]])])
def test_arrow_arrays_are_lists_of_texts(texts):
    extractor = made(*tiny_text_model("bert"))
    assert np.array_equal(extractor(texts).array, extractor(TEXTS).array)
