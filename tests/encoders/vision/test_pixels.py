"""Settings of image processors: every family's pixels, old and new files, other sizes, refusals."""

import json

import numpy as np
import pytest
import torch
import transformers

from fungi_hf.encoders.vision.pixels import PixelSettings, load_pixel_settings
from fungi_hf.errors import ConfigError, EncoderError
from fungi_hf.storage.files import HubOptions

from .kit import SETTINGS, pictures

SHAPES = ((60, 90), (90, 60), (7, 9), (1, 40), (300, 200), (224, 224), (33, 257))
KINDS = ("ViT", "DeiT", "Beit", "Bit", "CLIP", "ChineseCLIP", "Siglip", "Levit", "ConvNext", "Blip")
CHANGED = {
    "Bit": {"size": {"shortest_edge": 256}, "image_mean": [0.485, 0.456, 0.406]},
    "ViT": {"size": {"height": 96, "width": 128}, "resample": 3},
    "DeiT": {"size": {"height": 57, "width": 57}, "crop_size": {"height": 50, "width": 44}},
    "CLIP": {"size": {"shortest_edge": 30}, "crop_size": {"height": 40, "width": 40}},
    "ConvNext": {"size": {"shortest_edge": 64}},
    "Levit": {"size": {"shortest_edge": 48}, "crop_size": {"height": 48, "width": 48}},
    "Siglip": {"do_normalize": False},
    "Blip": {"do_rescale": False},
}


def processor_of(kind, **fields):
    module = f"transformers.models.{kind.lower().replace('chineseclip', 'chinese_clip')}"
    return getattr(transformers, f"{kind}ImageProcessorPil", None)(**fields) or module


@pytest.mark.parametrize("changed", [False, True], ids=["as it is", "changed"])
@pytest.mark.parametrize("kind", KINDS)
def test_pixels_equal_those_of_the_pillow_backed_processors(kind, changed):
    processor = processor_of(kind, **(CHANGED.get(kind, {}) if changed else {}))
    settings = PixelSettings.of(processor)
    assert PixelSettings.from_dict(settings.to_dict()) == settings
    for image in pictures(len(SHAPES), sizes=SHAPES):
        if kind in ("CLIP", "Bit", "ChineseCLIP", "Levit", "ConvNext") and 1 in image.shape[:2]:
            continue  # 224 x 8,960 there; such lines are refused before
        expected = processor(image, input_data_format="channels_last")["pixel_values"][0]
        found = settings.normalise(settings.original(image)[None])[0].numpy()
        scale = settings.rescale / min(settings.std)
        assert found.shape == expected.shape == (3, *settings.output)
        assert np.abs(found - expected).max() <= 1e-5 * 255 * scale  # equal bytes, float32


@pytest.mark.parametrize(
    ("data", "kind"),
    [
        ({"feature_extractor_type": "ViTFeatureExtractor", "size": 224}, "ViT"),
        ({"image_processor_type": "ViTImageProcessorFast"}, "ViT"),
        ({"image_processor_type": "ViTImageProcessorPil"}, "ViT"),
        ({"feature_extractor_type": "CLIPFeatureExtractor", "size": 224, "crop_size": 224}, "CLIP"),
        ({"image_processor": {"image_processor_type": "CLIPImageProcessor"}}, "CLIP"),
        ({"feature_extractor_type": "DeiTFeatureExtractor", "size": 256, "crop_size": 224}, "DeiT"),
        ({"image_processor_type": "SiglipImageProcessor", "processor_class": "X"}, "Siglip"),
    ],
)
def test_old_and_new_files_are_read_alike(data, kind):
    assert PixelSettings.from_dict(data) == PixelSettings.of(processor_of(kind))


def test_the_backend_of_a_processor_does_not_matter():
    data = processor_of("Bit").to_dict()
    other = {**data, "image_processor_type": "BitImageProcessorFast", "disable_grouping": None}
    assert PixelSettings.from_dict(other) == PixelSettings.from_dict(data)


def test_timm_and_dinov3_settings():
    timm = {
        "pretrained_cfg": {
            "input_size": [3, 224, 224],
            "interpolation": "bicubic",
            "crop_pct": 0.9,
            "mean": [0.5, 0.5, 0.5],
            "std": [0.5, 0.5, 0.5],
            "crop_mode": "center",
        }
    }
    found = PixelSettings.from_dict(timm)
    assert (found.resize, found.crop, found.resample) == (248, (224, 224), "bicubic")
    found = PixelSettings.from_dict({"image_processor_type": "DINOv3ViTImageProcessorFast"})
    assert (found.resize, found.crop, found.resample) == ((224, 224), None, "bilinear")
    assert found.mean == (0.485, 0.456, 0.406)


def test_another_size_keeps_the_share_that_is_cut_off():
    dinov2 = PixelSettings.of(processor_of("Bit", size={"shortest_edge": 256}))
    assert (dinov2.sized(448).resize, dinov2.sized(448).crop) == (512, (448, 448))
    assert dinov2.sized((112, 224)).resize == 128
    assert dinov2.sized(None) is dinov2
    deit = PixelSettings.of(processor_of("DeiT")).sized(112)
    assert (deit.resize, deit.crop) == ((128, 128), (112, 112))
    assert PixelSettings.from_dict(SETTINGS).sized((48, 64)).output == (48, 64)
    open_ended = PixelSettings.of(processor_of("Bit", do_center_crop=False))
    with pytest.raises(ConfigError, match="set image_size"):
        _ = open_ended.output
    assert open_ended.sized(64).output == (64, 64)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"do_pad": True}, "do_pad=True"),
        ({"do_flip_channel_order": True}, "blue, green, red"),
        ({"max_num_patches": 256}, "NaFlex"),
        ({"offset": True}, "shifted"),
        ({"size": {"shortest_edge": 10, "longest_edge": 20}}, "shortest_edge"),
        ({"size": {"longest_edge": 20}}, "'height' and 'width'"),
        ({"resample": 9}, "resample is"),
        ({"image_mean": [0.5]}, "one number or three"),
        ({"image_mean": None, "image_processor_type": "OwnImageProcessor"}, "lack 'image_mean'"),
        ({"size": None, "image_processor_type": None}, "lack 'size'"),
    ],
)
def test_what_is_not_done_is_refused_by_name(change, words):
    with pytest.raises(EncoderError, match=words):
        PixelSettings.from_dict({**SETTINGS, **change})


@pytest.mark.parametrize("given", [None, 3, "facebook/dinov2-small", [1]])
def test_what_is_no_processor_is_refused(given):
    with pytest.raises(EncoderError, match="needs its image processor"):
        PixelSettings.of(given)


def test_folders_are_read_and_written(tmp_path):
    hub = HubOptions()
    with pytest.raises(EncoderError, match=r"has no preprocessor_config\.json"):
        load_pixel_settings(str(tmp_path), hub)
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "vit"}))
    with pytest.raises(EncoderError, match=r"has no preprocessor_config\.json"):
        load_pixel_settings(str(tmp_path), hub)
    (tmp_path / "processor_config.json").write_text(json.dumps({"image_processor": SETTINGS}))
    settings = load_pixel_settings(str(tmp_path), hub)
    assert settings == PixelSettings.from_dict(SETTINGS)
    settings.sized(64).save_pretrained(tmp_path)
    assert load_pixel_settings(str(tmp_path), hub).output == (64, 64)
    (tmp_path / "processor_config.json").unlink()
    processor = transformers.ViTImageProcessorPil.from_pretrained(tmp_path)
    assert PixelSettings.of(processor) == settings.sized(64)
    (tmp_path / "preprocessor_config.json").write_text("{")
    with pytest.raises(EncoderError, match="is no JSON"):
        load_pixel_settings(str(tmp_path), hub)


def test_normalising_leaves_the_bytes_alone():
    settings = PixelSettings.from_dict(SETTINGS)
    images = torch.randint(0, 256, (2, 3, 5, 5), dtype=torch.uint8)
    before = images.clone()
    found = settings.normalise(images)
    expected = (images.double() / 255 - torch.tensor(settings.mean).double()[:, None, None]) / (
        torch.tensor(settings.std).double()[:, None, None]
    )
    assert torch.equal(images, before)
    assert torch.allclose(found.double(), expected, atol=1e-6)
