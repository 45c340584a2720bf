"""The last block of a pre-norm ViT for its class token only: exact, and cheaper than the block.

For h [N, T, D]: x = h_0 + s1 o(attend(norm1(h))_0), then x + s2 mlp(norm2(x)), with layer scales
s1, s2 where the family has them. Keys and values are not formed (`encoders.last_block`), but for
the keys of DINOv3, which are turned by rotary angles.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from torch import nn

from fungi_hf.encoders.last_block import FirstAttention, attends_plainly, shadowed

if TYPE_CHECKING:
    from collections.abc import Callable
    from contextlib import AbstractContextManager

    from torch import Tensor


class _Parts(NamedTuple):
    """Names of what a block is made of."""

    norm1: str = "layernorm_before"
    attention: str = "attention"
    projections: tuple[str, str, str] = ("q_proj", "k_proj", "v_proj")  # in `attention`
    output: str = "attention.o_proj"
    norm2: str = "layernorm_after"
    heads: str = "num_attention_heads"
    scaling: str = "scaling"


_VIT: Final = _Parts()
_DINO: Final = _Parts(norm1="norm1", norm2="norm2")
_OLDER_DINO: Final = _DINO._replace(  # in transformers 5.15
    attention="attention.attention",
    projections=("query", "key", "value"),
    output="attention.output.dense",
)
_BLOCKS: Final[dict[str, _Parts]] = {
    **dict.fromkeys(("ViTLayer", "DeiTLayer", "ViTMSNLayer", "ViTMAELayer"), _VIT),
    **dict.fromkeys(("Dinov2Layer", "Dinov2WithRegistersLayer"), _DINO),
    "DINOv3ViTLayer": _DINO._replace(heads="num_heads"),
    "CLIPEncoderLayer": _Parts(
        norm1="layer_norm1",
        attention="self_attn",
        output="self_attn.out_proj",
        norm2="layer_norm2",
        heads="num_heads",
        scaling="scale",
    ),
}
_SCALES: Final = ("layer_scale1", "layer_scale2")


def class_token_block(
    model: nn.Module, layer: nn.Linear
) -> Callable[[], AbstractContextManager[None]] | None:
    """Give what makes, for each pass, a context in which the last block gives [N, 1, D].

    None where the family is not known, and for attention other than sdpa and eager.
    """
    blocks = [module for module in model.modules() if type(module).__name__ in _BLOCKS]
    if not blocks or not attends_plainly(model):
        return None
    block: Any = blocks[-1]
    inside = dict(block.named_modules())  # the names differ between versions of transformers
    for parts in (_BLOCKS[type(block).__name__], _OLDER_DINO):
        linear = [f"{parts.attention}.{name}" for name in parts.projections] + [parts.output]
        known = all(name in inside for name in (parts.norm1, parts.norm2, "mlp"))
        if known and all(isinstance(inside.get(name), nn.Linear) for name in linear):
            return partial(_shortened, block, parts, layer)
    return None


def _shortened(block: Any, parts: _Parts, layer: nn.Linear) -> AbstractContextManager[None]:
    # Built here and not before: a copy of the encoder then shortens its own block.
    inner: Any = block.get_submodule(parts.attention)
    query, key, value = (getattr(inner, name) for name in parts.projections)
    attend = FirstAttention((query, key, value), getattr(inner, parts.heads), layer)
    norm1, norm2 = getattr(block, parts.norm1), getattr(block, parts.norm2)
    scale1, scale2 = (getattr(block, name, nn.Identity()) for name in _SCALES)
    output, scaling = block.get_submodule(parts.output), getattr(inner, parts.scaling)

    def forward(
        hidden_states: Tensor,
        attention_mask: Tensor | None = None,
        position_embeddings: tuple[Tensor, Tensor] | None = None,
        **_: Any,
    ) -> Tensor:
        turn = None if position_embeddings is None else partial(_turned, position_embeddings)
        context = attend(norm1(hidden_states), scaling, attention_mask, turn=turn)
        out: Tensor = hidden_states[:, :1] + scale1(output(context))
        return out + scale2(block.mlp(norm2(out)))

    return shadowed(block, forward)


def _turned(angles: tuple[Tensor, Tensor], keys: Tensor) -> Tensor:
    """Turn the keys [N, T, H, d] of patches; the class token and registers stand before them."""
    from transformers.models.dinov3_vit.modeling_dinov3_vit import apply_rotary_pos_emb

    heads_first = keys.transpose(1, 2)
    turned: Tensor = apply_rotary_pos_emb(heads_first, heads_first, *angles)[1]
    return turned.transpose(1, 2)
