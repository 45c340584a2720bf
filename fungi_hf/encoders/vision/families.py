"""Families of image models as data: prefix tokens, poolings, the final norm, what resizing needs.

What the table says of prefix tokens is checked on a blank image when an encoder is made.
"""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import torch

from fungi_hf.encoders.last_block import shadowed
from fungi_hf.errors import EncoderError

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor, nn


@dataclass(frozen=True, slots=True, kw_only=True)
class Family:
    """What a family's models have in common.

    Attributes:
        prefix: Number of tokens before the patches, from the model's config.
        poolings: What is offered; the first is "auto", where the model has what it needs.
        norm: Name of the norm that `last_hidden_state` lacks; "" where it is normed.
        final: Name of the norm after the last block.
        reads: Tokens that the model's own pooling reads: "cls", "mean" or "prefix".
        resizing: How positions follow another image size: by an "argument", "always" or "never".
        late: Whether the last blocks run on a part of the tokens: positions are added below them.
    """

    prefix: Callable[[Any], int]
    poolings: tuple[str, ...] = ("cls", "mean", "model")
    norm: str = ""
    final: str = "layernorm"
    reads: str = "cls"
    resizing: str = "argument"
    late: bool = True


def _none(_: Any) -> int:
    return 0


def _class_token(_: Any) -> int:
    return 1


def _registers(config: Any) -> int:
    return 1 + int(config.num_register_tokens)


_VIT: Final = Family(prefix=_class_token)
_DINOV2: Final = Family(prefix=_class_token, resizing="always")
_CLIP: Final = Family(
    prefix=_class_token,
    poolings=("cls", "mean", "model", "projection"),
    norm="post_layernorm",
    final="post_layernorm",
)
_BEIT: Final = Family(  # relative biases of the whole grid: not on a part of it
    prefix=_class_token,
    poolings=("model", "mean", "cls"),
    reads="mean",
    resizing="always",
    late=False,
)
FAMILIES: Final[dict[str, Family]] = {
    "vit": _VIT,
    "deit": Family(prefix=lambda _: 2),  # class and distillation tokens
    "vit_msn": Family(prefix=_class_token, poolings=("cls", "mean")),
    "vit_mae": Family(prefix=_class_token, poolings=("cls", "mean")),
    "ijepa": Family(prefix=_none, poolings=("mean",)),
    "dinov2": _DINOV2,
    "dinov2_with_registers": Family(prefix=_registers, resizing="always"),
    # Blocks are handed the rotary angles of all patches: they cannot run on a part of them.
    "dinov3_vit": Family(prefix=_registers, resizing="always", final="norm", late=False),
    "clip_vision_model": _CLIP,
    "metaclip_2_vision_model": _CLIP,
    "chinese_clip_vision_model": _CLIP,
    "siglip_vision_model": Family(
        prefix=_none, poolings=("model", "mean"), reads="mean", final="post_layernorm", late=False
    ),
    "beit": _BEIT,
    "data2vec-vision": _BEIT,
    "flava_image_model": _VIT,
    "pixio": Family(
        prefix=lambda config: int(config.n_cls_tokens),
        poolings=("model", "cls", "mean"),
        reads="prefix",
        resizing="always",
        late=False,
    ),
    "aimv2_vision_model": Family(
        prefix=_none,
        poolings=("mean", "model"),
        reads="mean",
        final="rms_norm",
        resizing="never",
        late=False,
    ),
}
"""By the model type of the model's config."""

_INSTEAD: Final = (
    "pass a ViT, DeiT, MSN, MAE, I-JEPA, DINOv2, DINOv3 ViT, CLIP or SigLIP vision model, BEiT, "
    "data2vec, FLAVA, Pixio or AIMv2 of transformers"
)
REFUSED: Final[dict[str, str]] = {
    **dict.fromkeys(
        ("swin", "swinv2", "donut-swin", "maskformer-swin"),
        "attends within windows, so no layer sees one row an image",
    ),
    **dict.fromkeys(
        ("timm_wrapper", "timm_backbone"),
        "wraps timm, which needs torchvision and names its parts in its own way",
    ),
    "siglip2_vision_model": "takes images as packed patches of any aspect (NaFlex)",
    "siglip2": "takes images as packed patches of any aspect (NaFlex)",
    "mlcd_vision_model": "puts tokens before images: its layers' first axis is not the batch",
    **dict.fromkeys(
        ("convnext", "convnextv2", "dinov3_convnext", "resnet", "regnet", "efficientnet", "bit"),
        "is a convolutional network without attention",
    ),
    **dict.fromkeys(
        ("mobilenet_v1", "mobilenet_v2", "mobilevit", "mobilevitv2", "focalnet", "cvt", "levit"),
        "is a convolutional network at heart: its grid shrinks from block to block",
    ),
    **dict.fromkeys(
        ("pvt", "pvt_v2", "segformer", "hiera", "poolformer", "van"),
        "merges patches between blocks, so no layer has one row a patch",
    ),
}
"""Model type -> why such a model is not offered."""


def refuse_family(model_type: str, name: str) -> None:
    """Refuse a model whose type is known not to work.

    Raises:
        EncoderError: Saying why, and what to pass.
    """
    if reason := REFUSED.get(model_type):
        raise EncoderError(f"{name} {reason}: {_INSTEAD}")


def family_of(model: nn.Module) -> Family:
    """Give the family of an image model.

    Raises:
        EncoderError: If it is none of the known ones.
    """
    model_type = str(getattr(model.config, "model_type", ""))
    name = type(model).__name__
    refuse_family(model_type, name)
    if model_type not in FAMILIES:
        raise EncoderError(
            f"{name} (model type {model_type!r}) is no image encoder of a known family: "
            f"{_INSTEAD}, or subclass fungi_hf.encoders.base.Encoder"
        )
    return FAMILIES[model_type]


def patch_size(model: nn.Module) -> tuple[int, int]:
    """Give height and width of a patch in pixels."""
    size: Any = model.config.patch_size  # type: ignore[union-attr]
    return (int(size), int(size)) if isinstance(size, int) else (int(size[0]), int(size[1]))


def trained_size(model: nn.Module) -> tuple[int, int]:
    """Give height and width in pixels that the model's positions are of."""
    size: Any = model.config.image_size  # type: ignore[union-attr]
    return (int(size), int(size)) if isinstance(size, int) else (int(size[0]), int(size[1]))


def steady(model: Any) -> contextlib.AbstractContextManager[None]:
    """Give a context in which a masked autoencoder sees all patches, in their order.

    It would keep a random quarter of them, drawn from the global generator, also in eval mode.
    """
    embeddings: Any = getattr(model, "embeddings", None)
    if not hasattr(embeddings, "random_masking"):
        return contextlib.nullcontext()
    return shadowed(embeddings, _all_patches, "random_masking")


def _all_patches(sequence: Tensor, noise: Tensor | None = None) -> tuple[Tensor, Tensor, Tensor]:
    del noise
    n, t = sequence.shape[:2]
    order = torch.arange(t, device=sequence.device).expand(n, t)
    return sequence, torch.zeros(n, t, device=sequence.device), order
