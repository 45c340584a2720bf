"""The tiny encoders are what they say, from memory and from a folder; `check_encoder` can fail."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch

from fungi_hf import FungiConfig, FungiExtractor
from fungi_hf.encoders.text import TextEncoder
from fungi_hf.errors import ConfigError, EncoderError
from fungi_hf.testing import TEXT_FAMILIES, check_encoder, rng_states, tiny_text_model
from tests.extraction.problems import encoder_of
from tests.tiny import TEXTS

if TYPE_CHECKING:
    from collections.abc import Sequence

    from fungi_hf.encoders.base import Batch, Prepared


def test_the_families_of_the_promise_are_all_there() -> None:
    assert set(TEXT_FAMILIES) == {
        *("bert", "roberta", "distilbert", "mpnet", "modernbert", "deberta-v2", "electra"),
        *("t5", "mt5"),
    }
    with pytest.raises(ConfigError, match="no tiny model of family 'bret'; choose one of 'bert'"):
        tiny_text_model("bret")


@pytest.mark.parametrize("family", TEXT_FAMILIES)
def test_a_tiny_model_is_reproducible_and_moves_no_generator(family: str) -> None:
    before = rng_states()
    (one, tokenizer), (two, _) = tiny_text_model(family), tiny_text_model(family)
    assert rng_states() == before
    assert not one.training
    for a, b in zip(one.parameters(), two.parameters(), strict=True):
        assert torch.equal(a, b)
    other, _ = tiny_text_model(family, seed=1)
    assert not torch.equal(next(one.parameters()), next(other.parameters()))
    ids = tokenizer("pay my card")["input_ids"]
    assert tokenizer.unk_token_id not in ids
    assert tokenizer.pad_token_id == one.config.pad_token_id


@pytest.mark.parametrize("family", TEXT_FAMILIES)
def test_every_family_loads_from_a_folder_as_an_encoder(family: str, tmp_path) -> None:
    model, tokenizer = tiny_text_model(family, dtype=torch.float32)
    model.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    loaded = FungiExtractor.from_pretrained(tmp_path)
    assert type(loaded.encoder.model) is type(model)
    given = FungiExtractor.from_pretrained(model, FungiConfig(), tokenizer)
    np.testing.assert_allclose(loaded(TEXTS).array, given(TEXTS).array, atol=1e-6)
    assert loaded.fingerprint == given.fingerprint


@pytest.mark.parametrize("pooling", ["first", "mean"])
@pytest.mark.parametrize("family", TEXT_FAMILIES)
def test_the_text_encoder_keeps_the_contract(family: str, pooling: str) -> None:
    check_encoder(encoder_of(family, pooling), TEXTS)
    if pooling == "mean" and family != "modernbert":
        check_encoder(encoder_of(family, pooling, attention="eager", dtype="float32"), TEXTS)


class Flawed(TextEncoder):
    def __init__(self) -> None:
        model, tokenizer = tiny_text_model("bert")
        super().__init__(model, tokenizer, FungiConfig(dtype="float64"))


class PoolsPadding(Flawed):
    def _pool(self, tokens, mask):
        return tokens.mean(1)


class BatchNorm(Flawed):
    def embed(self, batch: Batch):
        e = super().embed(batch)
        return e - e.mean(0, keepdim=True) * (len(e) > 1)


class WrongWidth(Flawed):
    def __init__(self) -> None:
        super().__init__()
        self.width = 12


class Drops(Flawed):
    def prepare(self, raws: Sequence[str]) -> list[Prepared]:
        return super().prepare(raws)[:1]


class Counts(Flawed):
    calls = 0

    def prepare(self, raws: Sequence[str]) -> list[Prepared]:
        self.calls += 1
        return super().prepare([f"{raw} {'card ' * self.calls}" for raw in raws])


class Touches(Flawed):
    def embed(self, batch: Batch):
        with torch.no_grad():
            self.model.encoder.layer[0].output.dense.bias.add_(1e-12)
        return super().embed(batch)


class Cuts(Flawed):
    """The graph misses a part: half of the embedding does not depend on the layer."""

    def embed(self, batch: Batch):
        e = super().embed(batch)
        free = any(p.requires_grad for p in self.model.parameters())
        return e if free else torch.cat([e[:, :8], e[:, 8:].detach()], dim=1)


class TextContent(Flawed):
    def content(self, raw: str):
        return raw


@pytest.mark.parametrize(
    ("flawed", "message"),
    [
        (PoolsPadding, "padding leaks, or inputs interact"),
        (BatchNorm, "padding leaks, or inputs interact"),
        (Drops, "prepare gave 1 items for 6 inputs"),
        (Counts, "another key alone"),
        (Touches, "the model was changed by an extraction"),
        (Cuts, "is not that of full autograd"),
        (TextContent, "content must give bytes"),
    ],
)
def test_check_encoder_catches(flawed: type, message: str) -> None:
    with pytest.raises(EncoderError, match=message):
        check_encoder(flawed(), TEXTS)


def test_check_encoder_names_what_is_missing() -> None:
    with pytest.raises(EncoderError, match=r"object lacks .*chunk_size, collate"):
        check_encoder(object(), TEXTS)
    with pytest.raises(EncoderError, match="at least two inputs"):
        check_encoder(encoder_of("bert"), TEXTS[:1])
    with pytest.raises((EncoderError, RuntimeError), match=r"as width says|shapes cannot"):
        check_encoder(WrongWidth(), TEXTS)
