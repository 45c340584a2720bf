"""Gradients at several layers of image encoders: those of extractors with these target layers."""

import dataclasses

import numpy as np
import pytest

from fungi_hf import KL, FungiConfig, SimCLR
from fungi_hf.extractor import FungiExtractor
from fungi_hf.tuning.scan import sibling_layers
from tests.encoders.vision.kit import encoder_of, pictures

CASES = [("vit", "cls"), ("vit", "mean"), ("dinov2", "cls"), ("clip", "cls"), ("siglip", "model")]
SIMCLR = SimCLR(n_views=3, latent_dim=8, n_negatives=4)


def features_of(family, pooling, objectives, layer="auto"):
    encoder = encoder_of(family, pooling=pooling, target_layer=layer)
    config = FungiConfig(
        objectives=objectives, pooling=pooling, target_layer=layer, dtype="float64"
    )
    return FungiExtractor(encoder, config).fit(pictures(6, seed=1))(pictures())


@pytest.mark.parametrize(("family", "pooling"), CASES)
def test_inner_gradients_equal_those_of_target_layers(family, pooling):
    layers = sibling_layers(encoder_of(family, pooling=pooling), 12)
    assert len(layers) > 1
    specs = (KL(latent_dim=8), SIMCLR)
    found = features_of(
        family, pooling, tuple(dataclasses.replace(one, layer=tuple(layers)) for one in specs)
    )
    blocks = iter(list(found.layout)[1:])
    alone = [features_of(family, pooling, specs, layer) for layer in layers]
    for spec in specs:
        for one in alone:
            block = next(blocks)
            assert block.startswith(spec.name + "_")
            np.testing.assert_allclose(
                found.block(block), one.block(spec.name), rtol=0, atol=2e-6, err_msg=block
            )
