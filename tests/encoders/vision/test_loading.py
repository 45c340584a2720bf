"""Folders of image models: saved and loaded, two towers, poolers, and what is refused."""

import json
import logging

import numpy as np
import pytest
import torch
import transformers
from transformers import CLIPConfig, CLIPModel, ViTForImageClassification

from fungi_hf.config import KL, FungiConfig, SimCLR
from fungi_hf.encoders.vision.encoder import VisionEncoder
from fungi_hf.encoders.vision.pixels import PixelSettings
from fungi_hf.errors import ConfigError, EncoderError, StateError
from fungi_hf.extractor import FungiExtractor
from fungi_hf.testing.vision_models import tiny_vision_model

from .kit import SETTINGS, pictures


def write(folder, family="vit", **changes):
    tiny_vision_model(family, dtype=torch.float32, **changes).save_pretrained(folder)
    (folder / "preprocessor_config.json").write_text(json.dumps(SETTINGS))
    return str(folder)


def clip(folder):
    sides = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2}
    vision = {**sides, "intermediate_size": 24, "image_size": 32, "patch_size": 8}
    vision["projection_dim"] = 12
    text = {**sides, "intermediate_size": 24, "vocab_size": 50}
    torch.manual_seed(0)
    model = CLIPModel(CLIPConfig(text_config=text, vision_config=vision, projection_dim=12))
    model.save_pretrained(folder)
    (folder / "preprocessor_config.json").write_text(json.dumps(SETTINGS))
    return model.eval()


@pytest.mark.parametrize(
    "family", ["vit", "dinov2", "dinov2_with_registers", "dinov3_vit", "clip", "siglip", "vit_mae"]
)
def test_a_folder_gives_what_its_model_object_gives(tmp_path, family):
    model = tiny_vision_model(family, dtype=torch.float32)
    place = write(tmp_path, family)
    config = FungiConfig(objectives=("kl",))
    found = FungiExtractor.from_pretrained(place, config)
    object_ = FungiExtractor(VisionEncoder(model, SETTINGS, config), config)
    items = pictures(3)
    assert np.abs(found(items).array - object_(items).array).max() < 1e-6
    assert found.encoder.modality == "vision"
    assert found.fingerprint == object_.fingerprint


def test_a_fitted_extractor_is_saved_and_loaded(tmp_path):
    config = FungiConfig(
        objectives=(KL(latent_dim=8), SimCLR(latent_dim=8, n_views=3, n_negatives=4)),
        center=True,
        image_size=48,
        pooling="mean",
    )
    (tmp_path / "model").mkdir()
    extractor = FungiExtractor.from_pretrained(write(tmp_path / "model"), config)
    items = pictures(6)
    extractor.fit(items)
    expected = extractor(items).array
    extractor.save_pretrained(tmp_path / "saved")
    again = FungiExtractor.from_pretrained(tmp_path / "saved")
    assert again.fingerprint == extractor.fingerprint
    assert np.array_equal(again(items).array, expected)
    assert again.config.image_size == 48
    other = again.with_config(config.replace(image_size=32, center=False, objectives=("kl",)))
    assert other.encoder.grid == (4, 4)
    settings = json.loads((tmp_path / "model" / "preprocessor_config.json").read_text())
    settings["image_mean"] = [0.1, 0.1, 0.1]
    (tmp_path / "model" / "preprocessor_config.json").write_text(json.dumps(settings))
    with pytest.raises(StateError, match="digest of 'encoder'"):
        FungiExtractor.from_pretrained(tmp_path / "saved")


def test_two_towers_give_their_vision_model_where_the_config_says_so(tmp_path):
    model = clip(tmp_path)
    with pytest.raises(EncoderError, match="set modality='vision' in the config"):
        FungiExtractor.from_pretrained(tmp_path)
    with pytest.raises(EncoderError, match="is a text and a vision model: pass one of them"):
        FungiExtractor.from_pretrained(model, None, SETTINGS)
    items = pictures(3)
    config = FungiConfig(objectives=(), modality="vision")
    found = FungiExtractor.from_pretrained(tmp_path, config)
    pixels = PixelSettings.from_dict(SETTINGS)
    images = torch.stack([pixels.original(item) for item in items])
    with torch.no_grad():
        out = model.vision_model(pixel_values=pixels.normalise(images))
        projected = model.get_image_features(pixel_values=pixels.normalise(images))
    projected = getattr(projected, "pooler_output", projected)
    expected = torch.nn.functional.normalize(out.pooler_output, dim=-1).numpy()
    assert np.abs(found(items).array - expected).max() < 1e-5
    found = FungiExtractor.from_pretrained(tmp_path, config.replace(pooling="projection"))
    expected = torch.nn.functional.normalize(projected, dim=-1).numpy()
    assert np.abs(found(items).array - expected).max() < 1e-5


def test_a_classifier_has_no_trained_pooler(tmp_path):
    config = tiny_vision_model("vit").config
    config.num_labels = 3
    ViTForImageClassification(config).save_pretrained(tmp_path)
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(SETTINGS))
    first = FungiExtractor.from_pretrained(tmp_path)
    assert first.fingerprint == FungiExtractor.from_pretrained(tmp_path).fingerprint
    assert first.encoder.pooling == "cls"
    with pytest.raises(EncoderError, match="they would be random"):
        FungiExtractor.from_pretrained(tmp_path, FungiConfig(pooling="model"))


@pytest.mark.parametrize(
    ("config", "words"),
    [
        (transformers.SwinConfig(), "attends within windows"),
        (transformers.ConvNextConfig(), "convolutional network without attention"),
        (transformers.ResNetConfig(), "convolutional network without attention"),
        (transformers.Siglip2VisionConfig(), "NaFlex"),
        (transformers.PvtConfig(), "merges patches between blocks"),
        (transformers.TimmWrapperConfig(), "wraps timm, which needs torchvision"),
        (transformers.MLCDVisionConfig(), "first axis is not the batch"),
    ],
)
def test_models_that_cannot_work_are_refused_before_they_are_loaded(tmp_path, config, words):
    config.save_pretrained(tmp_path)
    with pytest.raises(EncoderError, match=words) as caught:
        FungiExtractor.from_pretrained(tmp_path)
    assert "pass a ViT, DeiT" in str(caught.value)


def test_other_errors_are_named(tmp_path):
    place = write(tmp_path)
    with pytest.raises(ConfigError, match="modality='text'; ViTModel is an encoder of vision"):
        FungiExtractor.from_pretrained(place, FungiConfig(modality="text"))
    with pytest.raises(ConfigError, match="this encoder takes images"):
        FungiExtractor.from_pretrained(place, FungiConfig(prompts={"query": "q: "}))
    (tmp_path / "preprocessor_config.json").unlink()
    with pytest.raises(EncoderError, match=r"has no preprocessor_config\.json"):
        FungiExtractor.from_pretrained(place)
    model = tiny_vision_model("vit", dtype=torch.float32)
    with pytest.raises(EncoderError, match="needs its image processor"):
        FungiExtractor.from_pretrained(model)


def test_features_agree_with_those_of_the_pillow_backed_processor(tmp_path):
    place = write(tmp_path)
    processor = transformers.ViTImageProcessorPil.from_pretrained(tmp_path)
    items = pictures(6, sizes=((300, 200), (64, 64), (20, 90)))
    ours = FungiExtractor.from_pretrained(place, FungiConfig(objectives=()))
    pixels = processor(items, input_data_format="channels_last", return_tensors="pt")
    with torch.no_grad():
        theirs = ours.encoder.model(**pixels).last_hidden_state[:, 0]
    theirs = torch.nn.functional.normalize(theirs, dim=-1).numpy()
    assert (1 - (ours(items).array * theirs).sum(1)).max() < 1e-6


def test_no_table_of_missing_poolers_is_printed(tmp_path):
    """A pooler that nobody reads is no news; one that is read is an error."""
    config = tiny_vision_model("vit").config
    bare = transformers.ViTModel(config, add_pooling_layer=False)
    bare.save_pretrained(tmp_path)
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(SETTINGS))
    seen = []
    handler = logging.Handler()
    handler.emit = seen.append
    logger = logging.getLogger("transformers.modeling_utils")
    logger.addHandler(handler)
    try:
        transformers.ViTModel.from_pretrained(tmp_path)
        told = [record for record in seen if "LOAD REPORT" in record.getMessage()]
        assert told
        seen.clear()
        FungiExtractor.from_pretrained(tmp_path)
        assert not [record for record in seen if "LOAD REPORT" in record.getMessage()]
    finally:
        logger.removeHandler(handler)
