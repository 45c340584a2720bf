"""Audio embeddings equal the models' own forward pass, pooled by hand."""

import numpy as np
import pytest
import torch
from transformers import ASTForAudioClassification

from fungi_hf.config import FungiConfig
from fungi_hf.encoders.audio.encoder import AudioEncoder
from fungi_hf.encoders.audio.patches import restride
from fungi_hf.encoders.last_block import first_token_block
from fungi_hf.encoders.loading import unwrap
from fungi_hf.errors import ConfigError
from fungi_hf.extractor import FungiExtractor

from .audio_models import FAMILIES, clips, embed, plain_tokens


@pytest.mark.parametrize("name", [n for n in FAMILIES if n not in ("ast", "whisper")])
def test_waveform_embeddings_equal_the_models_own_forward(make, name):
    encoder = make(name)
    items = clips(3000, 8000, 5000)
    expected = torch.stack([plain_tokens(encoder, item).mean(0) for item in items])
    assert torch.allclose(embed(encoder, items), expected, atol=2e-6)


@pytest.mark.parametrize("pooling", ["cls", "model", "first", "mean"])
def test_ast_embeddings_equal_the_models_own_forward(make, pooling):
    encoder = make("ast", FungiConfig(pooling=pooling))
    items = clips(3000, 16000, 6000)
    pools = {
        "cls": lambda h: (h[0] + h[1]) / 2,
        "model": lambda h: (h[0] + h[1]) / 2,
        "first": lambda h: h[0],
        "mean": lambda h: h[2:].mean(0),
    }
    expected = torch.stack([pools[pooling](plain_tokens(encoder, item)) for item in items])
    assert torch.allclose(embed(encoder, items), expected, atol=1e-4)


def test_ast_default_pooling_is_what_was_trained(originals):
    model, processor = originals["ast"]
    assert AudioEncoder(model, processor, FungiConfig()).pooling == "mean"
    tuned = unwrap(ASTForAudioClassification(model.config))
    tuned.config.architectures = ["ASTForAudioClassification"]
    assert AudioEncoder(tuned, processor, FungiConfig()).pooling == "cls"
    tuned.config.architectures = None


@pytest.mark.parametrize("frames", [16, 40, 64, 130])
def test_ast_takes_any_length_by_fitting_positions(make, frames):
    encoder = make("ast", FungiConfig(max_length=frames, pooling="mean"))
    other = restride(encoder.model, stride=10, frames=frames)
    items = clips(3000, 40_000)
    with torch.no_grad():
        mel = encoder.collate(encoder.prepare([encoder.check(c, 0) for c in items]))
        expected = other(**mel).last_hidden_state[:, 2:].mean(1)
    assert mel["input_values"].shape == (2, frames, 128)
    assert torch.allclose(embed(encoder, items), expected, atol=1e-6)


def test_whisper_pools_the_covering_frames_of_the_window(make):
    # Up to 2 s of silence are kept, so here a clip of 1 s or more has the whole window of 3 s.
    encoder = make("whisper")
    items = clips(16_000, 33_333, 48_000)
    for item, found in zip(items, embed(encoder, items), strict=True):
        covering = -(-len(item["array"]) // 320)
        expected = plain_tokens(encoder, item)[:covering].mean(0)
        assert torch.allclose(found, expected, atol=1e-5)


def test_whisper_does_not_pay_for_silence(make):
    encoder = make("whisper")
    assert encoder._body.cost(3200) == 10 + 100
    short, long = clips(3200, 48_000)
    alone = embed(encoder, [short])
    # The window of 2.2 s by hand: the same weights, positions cut after 110.
    model = encoder.model
    wave = np.concatenate([short["array"], np.zeros(48_000, np.float32)])
    mel = encoder.processor(wave[:48_000], sampling_rate=16000, return_tensors="pt").input_features
    with torch.no_grad():
        x = torch.nn.functional.gelu(model.conv1(mel))
        x = torch.nn.functional.gelu(model.conv2(x)).transpose(1, 2)[:, :110]
        x = x + model.embed_positions.weight[:110]
        for layer in model.layers:
            x = layer(x, None)
        expected = model.layer_norm(x)[:, :10].mean(1)
    assert torch.allclose(alone, expected, atol=1e-5)
    assert torch.allclose(embed(encoder, [short, long])[:1], expected, atol=1e-5)


def with_option(name, value):
    config = FungiConfig()
    object.__setattr__(config, name, value)
    return config


def test_whisper_on_its_whole_window_equals_the_models_own_forward(make):
    encoder = make("whisper", with_option("audio_context", "full"))
    items = clips(3200, 700, 48_000)
    assert encoder._body.cost(3200) == 150
    for item, found in zip(items, embed(encoder, items), strict=True):
        covering = -(-len(item["array"]) // 320)
        expected = plain_tokens(encoder, item)[:covering].mean(0)
        assert torch.allclose(found, expected, atol=1e-5)


def test_unknown_context_and_front_end_list_the_choices(make):
    with pytest.raises(ConfigError, match=r"audio_context is 'all'; choose one of"):
        make("whisper", with_option("audio_context", "all"))
    with pytest.raises(ConfigError, match=r"the front-end is 'kaldi'; choose one of"):
        make("ast", with_option("audio_frontend", "kaldi"))


def test_whisper_inside_a_full_model_and_alone_are_one(originals):
    model, processor = originals["whisper"]
    assert type(model).__name__ == "WhisperEncoder"
    encoder = AudioEncoder(model, processor, FungiConfig())
    assert encoder.layer_path == "layers.1.self_attn.out_proj"
    assert encoder.width == 32


@pytest.mark.parametrize("pooling", ["cls", "first"])
def test_asts_short_last_block_changes_nothing(make, pooling):
    config = FungiConfig(pooling=pooling, max_length=100)
    for layer in ("auto", "layers.1.attention.k_proj", "layers.0.mlp.fc2"):
        settings = config.replace(target_layer=layer, sketch="none", sketch_rank=32)
        short = FungiExtractor(make("ast", settings), settings)
        full = FungiExtractor(short.encoder.with_full_last_block(), settings)
        assert short.encoder.uses_short_last_block
        items = clips(3000, 9000)
        assert np.allclose(embed(short.encoder, items), embed(full.encoder, items), atol=2e-6)
        found, expected = short(items), full(items)
        assert np.allclose(found.similarity(expected), expected.similarity(expected), atol=1e-4)
    assert not make("ast", FungiConfig(pooling="mean")).uses_short_last_block


def test_an_ast_of_other_parts_keeps_its_whole_last_block(make):
    encoder = make("ast", FungiConfig(pooling="cls"))
    attention = encoder.model.layers[-1].attention
    attention.query = attention.q_proj
    del attention.q_proj
    assert first_token_block(encoder.model, encoder.layer) is None
