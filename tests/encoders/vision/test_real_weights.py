"""Trained image encoders on photographs; the folder that holds them is named by FUNGI_MODELS."""

import os
from pathlib import Path

import numpy as np
import pytest
import torch
import transformers

from fungi_hf import DINO, IBOT, KL, Activation, FungiConfig, FungiExtractor
from fungi_hf.encoders.vision.pictures import decode
from fungi_hf.testing import model_state
from recipes.vision.data import load

MODELS = Path(os.environ.get("FUNGI_MODELS", "missing"))
NAMES = ["vit-s14-112", "dinov2-small-saliency"]
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not MODELS.is_dir(), reason="FUNGI_MODELS names no folder of encoders"),
]


def files(n):
    found = load("tiles", "test").files
    return [found[i] for i in np.linspace(0, len(found) - 1, n).astype(int)]


@pytest.mark.parametrize("pooling", ["cls", "mean"])
@pytest.mark.parametrize("name", NAMES)
def test_features_do_not_depend_on_batch_or_order(name, pooling):
    specs = (KL(), DINO(n_views=3, latent_dim=64), IBOT(slots=4, latent_dim=64), Activation())
    config = FungiConfig(objectives=specs, pooling=pooling)
    extractor = FungiExtractor.from_pretrained(str(MODELS / name), config)
    before = model_state(extractor.encoder.model)
    items = files(6)
    together = extractor(items).array
    alone = np.concatenate([extractor([item]).array for item in items])
    back = extractor(items[::-1], batch_size=4).array[::-1]
    assert np.abs(together - alone).max() < 1e-4
    assert np.abs(together - back).max() < 1e-4
    after = model_state(extractor.encoder.model)
    assert before == after
    weights = extractor.encoder.model.state_dict()
    fresh = FungiExtractor.from_pretrained(str(MODELS / name), config).encoder.model.state_dict()
    assert all(torch.equal(weights[key], fresh[key]) for key in weights)


@pytest.mark.parametrize("name", NAMES)
def test_features_agree_with_the_processor_of_transformers(name, monkeypatch):
    """Embedding and KL gradient, the processor's pixels given to the same extractor."""
    try:
        processor = transformers.AutoImageProcessor.from_pretrained(str(MODELS / name))
    except ImportError:
        pytest.skip("this version of transformers has image processors beside torchvision alone")
    extractor = FungiExtractor.from_pretrained(str(MODELS / name), FungiConfig(pooling="cls"))
    items = files(12)
    ours = extractor(items)
    images = [decode(item).pixels() for item in items]
    known = {decode(item).content: image for item, image in zip(items, images, strict=True)}

    def collate(prepared):
        pictures = [known[one.data.picture.content] for one in prepared]
        return dict(processor(pictures, input_data_format="channels_last", return_tensors="pt"))

    monkeypatch.setattr(extractor.encoder, "collate", collate)
    monkeypatch.setattr(extractor._plan.encoder, "collate", collate)
    theirs = extractor(items)
    for block in ("embedding", "kl"):
        assert (1 - (ours.block(block) * theirs.block(block)).sum(1)).max() < 1e-3, block
