"""Make WavLM's attention call its output projection, so that a hook on it fires.

WavLM hands that layer's weight to a functional attention and never calls the module.
"""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Any, Final

from torch import nn

if TYPE_CHECKING:
    from collections.abc import Iterator

    from torch import Tensor

_FUNCTIONAL: Final = "torch_multi_head_self_attention"


@contextlib.contextmanager
def calling_output_projections(model: nn.Module) -> Iterator[None]:
    """Shadow functional attention by one that calls its modules, for the duration.

    Args:
        model: Any model; one without such attention is left alone.

    Yields:
        Nothing.
    """
    owners: list[Any] = [m for m in model.modules() if hasattr(m, _FUNCTIONAL)]
    for owner in owners:
        setattr(owner, _FUNCTIONAL, _attention(owner))
    try:
        yield
    finally:
        for owner in owners:
            delattr(owner, _FUNCTIONAL)


def _attention(owner: Any) -> Any:
    def attend(
        hidden: Tensor,
        mask: Tensor | None,
        bias: Tensor,
        *_: bool,  # earlier transformers pass output_attentions
    ) -> tuple[Tensor, None]:
        n, t = hidden.shape[:2]
        shape = (n, t, owner.num_heads, owner.head_dim)
        q, k, v = (
            projection(hidden).view(shape).transpose(1, 2)
            for projection in (owner.q_proj, owner.k_proj, owner.v_proj)
        )
        scores = bias.view(n, owner.num_heads, t, t)
        if mask is not None:
            scores = scores.masked_fill(mask.ne(1)[:, None, None, :], float("-inf"))
        context = nn.functional.scaled_dot_product_attention(q, k, v, attn_mask=scores)
        return owner.out_proj(context.transpose(1, 2).reshape(n, t, -1)), None

    return attend
