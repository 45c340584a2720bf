"""The published dense features, step by step, written from their description alone.

One image at a time: all tokens of the last hidden state, class token included, are positives of
each other under InfoNCE; negatives are neighbours among given support rows. A token's gradient is
the outer product of what reaches the layer's output at it and of the layer's input there, the class
token is dropped, a dense sign matrix projects it. Head, support, the choice of kept neighbours and
signs are given; it shares nothing with the package.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch.nn import functional

from tests.oracles.published_vision import simclr_loss

if TYPE_CHECKING:
    from torch import Tensor, nn

    from tests.oracles.published_text import LinearHead


def negatives_of(
    tokens: Tensor, support: Tensor, kept: Tensor, *, interleaved: bool, unit: bool
) -> Tensor:
    """Rows [J, D] for tokens [V, D] of one image; `kept` [V, K] bool.

    The published code takes unit rows, and reads [V, K, D] as [V, D, K] before it turns them.
    """
    units = functional.normalize(support, dim=-1)
    k = kept.shape[1]
    rows = []
    for token, chosen in zip(functional.normalize(tokens, dim=-1), kept, strict=True):
        order = (units @ token).argsort(descending=True)[:k]
        neighbours = (units if unit else support)[order]  # [K, D]
        if interleaved:
            neighbours = neighbours.flatten().reshape(-1, k).T
        rows += [row for row, is_kept in zip(neighbours, chosen, strict=True) if is_kept]
    return torch.stack(rows) if rows else support[:0]


def dense_blocks(
    model: nn.Module,
    layer: nn.Linear,
    pixels: Tensor,
    head: LinearHead,
    support: Tensor,
    kept: Tensor,
    signs: Tensor,
    *,
    temperature: float,
    logsumexp: float,
    quirks: bool,
    prefix: int = 1,
) -> tuple[Tensor, Tensor]:
    """Unit tokens and unit projected gradients [T, .] of one image's patches; pixels [3, H, W]."""
    seen = {}

    def keep(_: nn.Module, args: tuple[Tensor, ...], out: Tensor) -> None:
        seen["a"] = args[0].detach()[0]
        out.register_hook(lambda grad: seen.__setitem__("delta", grad.detach()[0]))

    parameters = list(model.parameters())
    own = {id(parameter) for parameter in layer.parameters()}
    for parameter in parameters:
        parameter.requires_grad_(id(parameter) in own)
    handle = layer.register_forward_hook(keep)
    try:
        tokens = model(pixel_values=pixels[None]).last_hidden_state[0]
        rows = torch.cat([tokens[:1], tokens[prefix:]])  # the class token and the patches
        with torch.no_grad():
            others = negatives_of(rows, support, kept, interleaved=quirks, unit=quirks)
            latents = head(others)
        simclr_loss(rows, head, latents, temperature, logsumexp).backward()
    finally:
        handle.remove()
        model.zero_grad(set_to_none=True)
        for parameter in parameters:
            parameter.requires_grad_(True)
    inputs = torch.cat([seen["a"], seen["a"].new_ones(len(seen["a"]), 1)], dim=1)
    products = seen["delta"][:, :, None] * inputs[:, None, :]  # [T, m, n1]
    projected = products[prefix:].flatten(1) @ signs.T
    return (
        functional.normalize(tokens[prefix:].detach(), dim=-1),
        functional.normalize(projected, dim=-1),
    )
