"""Sounds and pictures are classified by the same calls as texts."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from fungi_hf import Activation, FungiClassifier, FungiConfig, FungiExtractor
from fungi_hf.config import KL
from fungi_hf.testing.vision_models import tiny_vision_model
from tests.encoders.audio_models import build
from tests.encoders.vision.kit import SETTINGS

CONFIG = FungiConfig(objectives=(KL(latent_dim=16), Activation()))
RNG = np.random.default_rng(0)


def tone(high: bool) -> dict[str, Any]:
    hertz = RNG.uniform(*((1500, 2500) if high else (150, 300)))
    time = np.arange(RNG.integers(6000, 9000)) / 16000
    wave = 0.3 * np.sin(2 * np.pi * hertz * time) + RNG.normal(0, 0.01, len(time))
    return {"array": wave.astype(np.float32), "sampling_rate": 16000}


def picture(bright: bool) -> Image.Image:
    pixels = RNG.integers(*((170, 255) if bright else (0, 80)), (32, 40, 3))
    return Image.fromarray(pixels.astype(np.uint8))


def sounds() -> tuple[FungiExtractor, Any]:
    model, processor = build("wav2vec2")
    return FungiExtractor.from_pretrained(model, CONFIG, processor), tone


def pictures() -> tuple[FungiExtractor, Any]:
    model = tiny_vision_model("vit", dtype=torch.float32)
    return FungiExtractor.from_pretrained(model, CONFIG, SETTINGS), picture


@pytest.mark.parametrize("make", [sounds, pictures])
@pytest.mark.parametrize("head", ["neighbors", "linear"])
def test_sounds_and_pictures_get_labels(make, head, tmp_path) -> None:
    extractor, draw = make()
    y = [bool(i % 2) for i in range(16)]
    known, new = [draw(one) for one in y], [draw(one) for one in y[:6]]
    classifier = FungiClassifier(extractor, head=head, n_neighbors=3).fit(known, y)
    assert classifier.predict(new).tolist() == y[:6]
    (answer,) = classifier(new[0])
    assert answer["label"] is False
    assert [one["label"] for one in classifier(new)] == y[:6]
    classifier.save_pretrained(tmp_path)
    encoder = extractor.encoder
    again = FungiClassifier.from_pretrained(
        tmp_path, model=encoder.model, processor=encoder.processor
    )
    np.testing.assert_array_equal(again.predict_proba(new), classifier.predict_proba(new))
    task = {"audio": "audio-classification", "vision": "image-classification"}
    assert f"pipeline_tag: {task[encoder.modality]}" in classifier.make_card()
