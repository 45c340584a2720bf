"""What image processors do where their files do not say so, by the family in their type's name."""

from __future__ import annotations

from typing import Any, Final

_HALF: Final = {"image_mean": [0.5, 0.5, 0.5], "image_std": [0.5, 0.5, 0.5]}
_IMAGENET: Final = {"image_mean": [0.485, 0.456, 0.406], "image_std": [0.229, 0.224, 0.225]}
_OPENAI: Final = {
    "image_mean": [0.48145466, 0.4578275, 0.40821073],
    "image_std": [0.26862954, 0.26130258, 0.27577711],
}
_SQUARE: Final = {"size": {"height": 224, "width": 224}, "do_center_crop": False}
_CROPPED: Final = {
    "size": {"shortest_edge": 224},
    "crop_size": {"height": 224, "width": 224},
    "do_center_crop": True,
    "default_to_square": False,
}
_BILINEAR, _BICUBIC = {"resample": 2}, {"resample": 3}
_VIT: Final = {**_SQUARE, **_BILINEAR, **_HALF}
_CLIP: Final = {**_CROPPED, **_BICUBIC, **_OPENAI}

DEFAULTS: Final[dict[str, dict[str, Any]]] = {
    "ViT": _VIT,
    "ViTHybrid": _CLIP,
    "DeiT": {
        **_BICUBIC,
        **_HALF,
        "size": {"height": 256, "width": 256},
        "crop_size": {"height": 224, "width": 224},
        "do_center_crop": True,
    },
    "Beit": {**_SQUARE, **_BICUBIC, **_HALF, "crop_size": {"height": 224, "width": 224}},
    "Data2VecVision": {**_SQUARE, **_BICUBIC, **_HALF},
    "Bit": _CLIP,
    "CLIP": _CLIP,
    "ChineseCLIP": _CLIP,
    "Siglip": {**_SQUARE, **_BICUBIC, **_HALF, "default_to_square": False},
    "DINOv3ViT": {**_SQUARE, **_BILINEAR, **_IMAGENET},
    "Flava": {
        **_SQUARE,
        **_BICUBIC,
        **_OPENAI,
        "crop_size": {"height": 224, "width": 224},
        "do_center_crop": True,
    },
    "Levit": {**_CROPPED, **_BICUBIC, **_IMAGENET},
    "ConvNext": {
        **_BICUBIC,
        **_HALF,
        "size": {"shortest_edge": 384},
        "default_to_square": False,
        "do_center_crop": False,
    },
    "Blip": {**_BICUBIC, **_OPENAI, "size": {"height": 384, "width": 384}, "do_center_crop": False},
}
"""Family -> fields; of transformers' classes, which checkpoints override."""
DEFAULTS["ConvNeXT"] = DEFAULTS["ConvNext"]

REFUSED_STEPS: Final[dict[str, str]] = {
    "do_pad": "images would be padded to the largest of their batch",
    "do_flip_channel_order": "channels would be blue, green, red",
    "do_thumbnail": "images would be of several sizes",
    "do_align_long_axis": "images would be turned",
    "do_grayscale": "colours would be lost",
    "do_image_splitting": "an image would become several",
    "do_color_quantize": "colours would become clusters",
    "rescale_offset": "values would be shifted after scaling",
    "offset": "values would be shifted after scaling",
    "max_num_patches": "images would be packed patches of any aspect (NaFlex)",
}
"""Fields of steps that are not taken, and what they would do."""
