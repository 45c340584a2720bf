"""Activations of inner layers of sound encoders: those of an extractor with that target layer."""

from __future__ import annotations

import numpy as np
import pytest

from fungi_hf.config import KL, Activation, FungiConfig
from fungi_hf.errors import LayerNotFoundError
from fungi_hf.extractor import FungiExtractor
from fungi_hf.tuning.scan import sibling_layers
from tests.encoders.audio_models import FAMILIES, build, clips

CLIPS = clips(9000, 5000, 7000, 400)
CASES = [
    *((name, "mean") for name in FAMILIES),
    ("ast", "cls"),
    ("ast", "first"),
    ("whisper", "last"),
]


def extractor_of(name: str, pooling: str, **fields) -> FungiExtractor:
    model, processor = build(name)
    config = FungiConfig(pooling=pooling, dtype="float64", **fields)
    return FungiExtractor.from_pretrained(model.double().eval(), config, processor)


@pytest.mark.parametrize(("name", "pooling"), CASES)
def test_inner_layers_equal_target_layers(name: str, pooling: str) -> None:
    layers = sibling_layers(extractor_of(name, pooling).encoder, 12)
    assert len(layers) == 2
    blocks = tuple(Activation(layer=layer, name=f"a{i}") for i, layer in enumerate(layers))
    found = extractor_of(name, pooling, objectives=(KL(latent_dim=8), *blocks))(CLIPS)
    assert list(found.layout) == ["embedding", "kl", "a0", "a1"]
    for i, layer in enumerate(layers):
        alone = extractor_of(name, pooling, target_layer=layer, objectives=("activation",))(CLIPS)
        # Here the layer's graph begins there, and the last block is never shortened.
        np.testing.assert_allclose(
            found.block(f"a{i}"), alone.block("activation"), rtol=0, atol=1e-6
        )
        for row, clip in enumerate(CLIPS):
            single = extractor_of(name, pooling, objectives=blocks)([clip])
            np.testing.assert_allclose(
                found.block(f"a{i}")[row], single.block(f"a{i}")[0], rtol=0, atol=1e-6
            )
    assert np.abs(found.block("a0") - found.block("a1")).max() > 0.01


def test_a_layer_that_is_not_there_is_refused() -> None:
    with pytest.raises(LayerNotFoundError, match="is not in WhisperEncoder"):
        extractor_of("whisper", "mean", objectives=(Activation(layer="layers.9.fc1"),))


@pytest.mark.parametrize(("name", "pooling"), [("whisper", "mean"), ("ast", "cls"), *CASES[2:4]])
def test_inner_gradients_equal_those_of_target_layers(name: str, pooling: str) -> None:
    layers = sibling_layers(extractor_of(name, pooling).encoder, 12)
    found = extractor_of(name, pooling, objectives=(KL(latent_dim=8, layer=tuple(layers)),))(CLIPS)
    for block, layer in zip(list(found.layout)[1:], layers, strict=True):
        objectives = (KL(latent_dim=8),)
        alone = extractor_of(name, pooling, target_layer=layer, objectives=objectives)(CLIPS)
        np.testing.assert_allclose(found.block(block), alone.block("kl"), rtol=0, atol=2e-6)
