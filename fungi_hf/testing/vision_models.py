"""Tiny image encoders with random weights, made from config objects, offline."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import torch

from fungi_hf.errors import ConfigError, choices
from fungi_hf.testing.models import randomise

if TYPE_CHECKING:
    from torch import nn

# Family -> names of config and model in transformers, and what differs from the common sizes.
_FAMILIES: Final[dict[str, tuple[str, str, dict[str, Any]]]] = {
    "vit": ("ViTConfig", "ViTModel", {}),
    "deit": ("DeiTConfig", "DeiTModel", {}),
    "vit_msn": ("ViTMSNConfig", "ViTMSNModel", {}),
    "vit_mae": ("ViTMAEConfig", "ViTMAEModel", {}),
    "ijepa": ("IJepaConfig", "IJepaModel", {}),
    "dinov2": ("Dinov2Config", "Dinov2Model", {"mlp_ratio": 2}),
    "dinov2_swiglu": ("Dinov2Config", "Dinov2Model", {"mlp_ratio": 2, "use_swiglu_ffn": True}),
    "dinov2_with_registers": (
        "Dinov2WithRegistersConfig",
        "Dinov2WithRegistersModel",
        {"mlp_ratio": 2, "num_register_tokens": 3},
    ),
    "dinov3_vit": ("DINOv3ViTConfig", "DINOv3ViTModel", {"num_register_tokens": 4}),
    "clip": ("CLIPVisionConfig", "CLIPVisionModel", {}),
    "clip_projected": (
        "CLIPVisionConfig",
        "CLIPVisionModelWithProjection",
        {"projection_dim": 12},
    ),
    "siglip": ("SiglipVisionConfig", "SiglipVisionModel", {}),
    "beit": ("BeitConfig", "BeitModel", {"use_relative_position_bias": True}),
    "data2vec": (
        "Data2VecVisionConfig",
        "Data2VecVisionModel",
        {"use_shared_relative_position_bias": True},
    ),
    "flava": ("FlavaImageConfig", "FlavaImageModel", {}),
    "pixio": ("PixioConfig", "PixioModel", {"mlp_ratio": 2, "n_cls_tokens": 3}),
    "aimv2": ("Aimv2VisionConfig", "Aimv2VisionModel", {}),
}
VISION_FAMILIES: Final = tuple(_FAMILIES)


def tiny_vision_model(
    family: str,
    *,
    dtype: torch.dtype = torch.float64,
    attention: str = "sdpa",
    seed: int = 0,
    n_layers: int = 3,
    **changes: Any,
) -> nn.Module:
    """Build a tiny image encoder of one family, in eval mode: 32 pixels, patches of 8, width 16.

    Weights are random and large enough that attention is far from uniform. `changes` are fields
    of the model's config. No global generator is moved.

    Raises:
        ConfigError: If the family is unknown.
    """
    import transformers

    if family not in _FAMILIES:
        raise ConfigError(f"no tiny model of family {choices(family, _FAMILIES)}")
    config_name, model_name, extra = _FAMILIES[family]
    sizes = {
        "hidden_size": 16,
        "num_hidden_layers": n_layers,
        "num_attention_heads": 2,
        "intermediate_size": 24,
        "image_size": 32,
        "patch_size": 8,
    }
    config = getattr(transformers, config_name)(**{**sizes, **extra, **changes})
    config._attn_implementation = "eager" if family == "flava" else attention
    with torch.random.fork_rng(devices=[]), torch.device("cpu"):
        model: nn.Module = getattr(transformers, model_name)(config)
    model = model.to(dtype).eval()
    randomise(model, seed=seed)
    return model
