"""Tiny image encoders and pictures for the tests."""

import functools

import numpy as np
import torch

from fungi_hf.config import FungiConfig
from fungi_hf.encoders.vision.encoder import VisionEncoder
from fungi_hf.testing.vision_models import tiny_vision_model

SETTINGS = {
    "image_processor_type": "ViTImageProcessor",
    "do_resize": True,
    "size": {"height": 32, "width": 32},
    "resample": 2,
    "do_rescale": True,
    "rescale_factor": 1 / 255,
    "do_normalize": True,
    "image_mean": [0.5, 0.4, 0.3],
    "image_std": [0.2, 0.25, 0.3],
}
POOLINGS = {
    "vit": ("cls", "mean", "model"),
    "deit": ("cls", "mean", "model"),
    "vit_msn": ("cls", "mean"),
    "vit_mae": ("cls", "mean"),
    "ijepa": ("mean",),
    "dinov2": ("cls", "mean", "model"),
    "dinov2_swiglu": ("cls",),
    "dinov2_with_registers": ("cls", "mean"),
    "dinov3_vit": ("cls", "mean"),
    "clip": ("cls", "mean", "model"),
    "clip_projected": ("cls", "projection"),
    "siglip": ("model", "mean"),
    "beit": ("model", "mean", "cls"),
    "data2vec": ("mean", "cls"),
    "flava": ("cls", "mean", "model"),
    "pixio": ("model", "cls", "mean"),
    "aimv2": ("mean", "model"),
}


@functools.cache
def model_of(family, dtype=torch.float64, attention="sdpa"):
    return tiny_vision_model(family, dtype=dtype, attention=attention)


def encoder_of(family, dtype=torch.float64, attention="sdpa", settings=None, **fields):
    config = FungiConfig(dtype=str(dtype).removeprefix("torch."), **fields)
    return VisionEncoder(model_of(family, dtype, attention), settings or SETTINGS, config)


def pictures(n=4, seed=0, sizes=((40, 30), (32, 32), (24, 50), (17, 19))):
    """Smooth random pictures of several shapes, uint8 [H, W, 3]."""
    generator = np.random.default_rng(seed)
    made = []
    for i in range(n):
        height, width = sizes[i % len(sizes)]
        rows, columns = np.linspace(0, 3, height)[:, None], np.linspace(0, 3, width)[None]
        a = generator.uniform(0.5, 3, 3)
        waves = [np.sin(a[c] * rows + c) * np.cos(a[-c] * columns) for c in range(3)]
        noise = generator.normal(0, 0.1, (height, width, 3))
        image = 127 + 100 * np.stack(waves, -1) + 60 * noise
        made.append(image.clip(0, 255).astype(np.uint8))
    return made
