"""The last block for many late views of one original, which share all that precedes the softmax.

Queries, keys and values are functions of the shared state: they are computed once per original. If
the first token alone is pooled, a view is no more than its scores with some tokens masked out, and
output projection and MLP run on one row per view; else they run on the tokens that stay.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final, TypeAlias

import torch

from fungi_hf.devices import sent
from fungi_hf.encoders.last_block import BERT_BLOCKS, attends_plainly, is_product

if TYPE_CHECKING:
    from torch import Tensor, nn

    from fungi_hf.encoders.base import LateBatch

SharedBlock: TypeAlias = Callable[["LateBatch"], "tuple[Tensor, Tensor]"]

# Models whose last hidden state is what their last block gives.
BERT_MODELS: Final = frozenset(
    {"BertModel", "RobertaModel", "XLMRobertaModel", "ElectraModel", "CamembertModel"}
)


def shared_last_block(
    model: nn.Module, layer: nn.Linear, *, first_token: bool
) -> SharedBlock | None:
    """Give a function from late views (k = 1) to last hidden states [N, T', D] and mask [N, T'].

    With `first_token`, token 0, which no view loses, is all that is wanted, and T' is 1. None where
    the family is not known, or where views would share the output of a target layer that works
    before the softmax.
    """
    blocks: list[Any] = [m for m in model.modules() if type(m).__name__ in BERT_BLOCKS]
    known = type(model).__name__ in BERT_MODELS and blocks and attends_plainly(model)
    if not known or getattr(model.config, "is_decoder", False):
        return None
    inner = blocks[-1].attention.self
    if layer in (inner.query, inner.key, inner.value):
        return None
    shared = _SharedBertBlock(blocks[-1])
    return shared.first_token if first_token else shared.all_tokens


class _SharedBertBlock:
    def __init__(self, block: Any) -> None:
        self._block = block

    def first_token(self, late: LateBatch) -> tuple[Tensor, Tensor]:
        inner = self._block.attention.self
        if not (is_product(inner.key) and is_product(inner.value)):
            states, mask = self.all_tokens(late)
            return states[:, :1], mask[:, :1]
        states = self._finish(self._attend(late)[:, None], late.hidden[late.sources, :1])
        return states, sent(late.kept[:, :1].contiguous(), states.device)

    def all_tokens(self, late: LateBatch) -> tuple[Tensor, Tensor]:
        inner, (residual, places, mask) = self._block.attention.self, late.gathered()
        rows, shape = late.sources[:, None], (*places.shape, inner.num_attention_heads, -1)
        q, k, v = (
            projection(late.hidden)[rows, places].view(shape).transpose(1, 2)
            for projection in (inner.query, inner.key, inner.value)
        )
        shown = None if late.is_even else mask[:, None, None]
        context = torch.nn.functional.scaled_dot_product_attention(
            q, k, v, attn_mask=shown, scale=inner.scaling
        )
        return self._finish(context.transpose(1, 2).flatten(2), residual), mask

    def _finish(self, context: Tensor, residual: Tensor) -> Tensor:
        return self._block.feed_forward_chunk(self._block.attention.output(context, residual))

    def _attend(self, late: LateBatch) -> Tensor:
        """Give the first token's context of every view, [N, D]."""
        inner, hidden = self._block.attention.self, late.hidden
        n, t, width = hidden.shape
        heads = inner.num_attention_heads
        # Keys and values are folded into the query and the output, as in `last_block`.
        q = inner.query(hidden[:, 0]).view(n, heads, -1) * inner.scaling  # [M, H, d]
        W = inner.key.weight.view(heads, -1, width)  # [H, d, D]
        lifted = torch.bmm(q.transpose(0, 1), W).transpose(0, 1)  # [M, H, D]
        scores = torch.bmm(lifted, hidden.transpose(1, 2))  # [M, H, T]
        kept = sent(late.kept, hidden.device)[:, None]
        shown = scores[late.sources].masked_fill(~kept, -torch.inf)  # [N, H, T]
        places, n_places = _places(late.source, n)
        place = sent(places, hidden.device)
        weights = hidden.new_zeros(n * n_places, heads, t)
        weights[place] = shown.softmax(-1)
        mixed = torch.bmm(weights.view(n, n_places * heads, t), hidden)
        mixed = mixed.view(n * n_places, heads, width)[place].transpose(0, 1)  # [H, N, D]
        V = inner.value.weight.view(heads, -1, width)  # [H, d, D]
        context = torch.bmm(mixed, V.transpose(1, 2)).transpose(0, 1).reshape(len(place), -1)
        return context if inner.value.bias is None else context + inner.value.bias


def _places(source: Tensor, n_originals: int) -> tuple[Tensor, int]:
    """Give each view a place among the equally many of every original, and how many these are."""
    counts = torch.bincount(source, minlength=n_originals)
    n_places = int(counts.max())
    order = source.argsort(stable=True)
    starts = counts.cumsum(0) - counts
    rank = torch.empty_like(source)
    rank[order] = torch.arange(len(source)) - starts[source[order]]
    return source * n_places + rank, n_places
