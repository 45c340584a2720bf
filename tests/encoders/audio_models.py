"""Tiny audio models of every family, with random weights, and noise to feed them."""

import warnings

import numpy as np
import torch
from transformers import (
    ASTConfig,
    ASTFeatureExtractor,
    ASTModel,
    HubertConfig,
    HubertModel,
    Wav2Vec2Config,
    Wav2Vec2FeatureExtractor,
    Wav2Vec2Model,
    WavLMConfig,
    WavLMModel,
    WhisperConfig,
    WhisperFeatureExtractor,
    WhisperModel,
)

from fungi_hf.encoders.loading import unwrap
from fungi_hf.gradients.tape import untouched

SHAPE = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4}
SHAPE["intermediate_size"] = 64
WAVE = SHAPE | {
    "conv_dim": (16, 16, 16),
    "conv_stride": (5, 4, 4),
    "conv_kernel": (10, 4, 4),
    "num_conv_pos_embeddings": 8,
    "num_conv_pos_embedding_groups": 4,
    "hidden_dropout": 0.0,
}


def ast_extractor(**settings):
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*all zero values.*")
        return ASTFeatureExtractor(**settings)


def build(name: str) -> tuple[torch.nn.Module, object]:
    torch.manual_seed(0)
    if name == "ast":
        model = ASTModel(ASTConfig(**SHAPE, max_length=64, num_mel_bins=128))
        torch.nn.init.normal_(model.embeddings.position_embeddings, std=0.5)
        torch.nn.init.normal_(model.embeddings.cls_token, std=0.5)
        return model, ast_extractor(max_length=64)
    if name == "whisper":
        settings = WhisperConfig(
            d_model=32,
            encoder_layers=2,
            encoder_attention_heads=4,
            encoder_ffn_dim=64,
            decoder_layers=1,
            decoder_attention_heads=4,
            decoder_ffn_dim=32,
            vocab_size=16,
            pad_token_id=0,
            bos_token_id=1,
            eos_token_id=2,
            decoder_start_token_id=1,
            max_source_positions=150,
        )
        return unwrap(WhisperModel(settings)), WhisperFeatureExtractor(chunk_length=3)
    family, settings = {
        "wav2vec2": (Wav2Vec2Model, Wav2Vec2Config(**WAVE)),
        "wav2vec2-layer-norm": (
            Wav2Vec2Model,
            Wav2Vec2Config(**WAVE, feat_extract_norm="layer", do_stable_layer_norm=True),
        ),
        "hubert": (HubertModel, HubertConfig(**WAVE)),
        "wavlm": (WavLMModel, WavLMConfig(**WAVE)),
        "wavlm-stable": (WavLMModel, WavLMConfig(**WAVE, do_stable_layer_norm=True)),
    }[name]
    return family(settings), Wav2Vec2FeatureExtractor()


FAMILIES = [
    "ast",
    "whisper",
    "wav2vec2",
    "wav2vec2-layer-norm",
    "hubert",
    "wavlm",
    "wavlm-stable",
]


def clips(*lengths, seed=0):
    generator = np.random.default_rng(seed)
    return [
        {"array": generator.normal(0, 0.1, n).astype(np.float32), "sampling_rate": 16000}
        for n in lengths
    ]


def embed(encoder, items):
    checked = [encoder.check(item, i) for i, item in enumerate(items)]
    with torch.no_grad(), untouched(encoder.model):
        return encoder.embed(encoder.collate(encoder.prepare(checked)))


def plain_tokens(encoder, clip):
    """The model's own forward pass on its own feature extractor's output."""
    wave, processor = clip["array"], encoder.processor
    inputs = processor(wave, sampling_rate=16000, return_tensors="pt")
    with torch.no_grad():
        return encoder.model(**inputs).last_hidden_state[0]
