"""The last block computed for the pooled tokens only: exact, and cheaper than the plain block.

The embedding reads position 0 (AST: 0 and 1) of the last hidden state, so the last block needs one
query (two), output projection and MLP row per input. Keys and values are never formed: with one
query, `q . (W_k h_t)` is `(W_k^T q) . h_t` and `sum_t p_t W_v h_t` is `W_v (sum_t p_t h_t)`.
"""

from __future__ import annotations

import contextlib
import threading
from functools import partial
from typing import TYPE_CHECKING, Any, Final

import torch

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from torch import Tensor, nn

# Blocks whose attention is plain softmax(q k / sqrt(d)) followed by the modules named below.
BERT_BLOCKS: Final = frozenset(
    {"BertLayer", "RobertaLayer", "XLMRobertaLayer", "ElectraLayer", "CamembertLayer"}
)
AST_CLASS_TOKENS: Final = 2


def is_product(projection: nn.Module) -> bool:
    """Whether a layer gives `W x + b` and no more: not with an adapter (LoRA) or a hook on it."""
    hooks = (projection._forward_hooks, projection._forward_pre_hooks)
    return type(projection).forward is torch.nn.Linear.forward and not any(hooks)


@contextlib.contextmanager
def shadowed(
    module: nn.Module, function: Callable[..., Any], name: str = "forward"
) -> Iterator[None]:
    """Put another method on one module for the duration, and give back what was there.

    Other threads find the method that was there: a plain pass of theirs is not changed.
    """
    before, whole, owner = module.__dict__.get(name), getattr(module, name), threading.get_ident()

    def chosen(*args: Any, **options: Any) -> Any:
        here = threading.get_ident() == owner
        return function(*args, **options) if here else whole(*args, **options)

    setattr(module, name, chosen)
    try:
        yield
    finally:
        delattr(module, name)
        if before is not None:
            setattr(module, name, before)


def _bert_forward(block: Any, layer: nn.Linear) -> Callable[..., Tensor]:
    """BERT, RoBERTa, ELECTRA: post-norm, scores scaled by 1/sqrt(d)."""
    attention = block.attention.self
    projections = (attention.query, attention.key, attention.value)
    attend = FirstAttention(projections, attention.num_attention_heads, layer)

    def forward(
        hidden_states: Tensor, attention_mask: Tensor | None = None, *_: Any, **__: Any
    ) -> Tensor:
        context = attend(hidden_states, attention.scaling, attention_mask)
        return block.feed_forward_chunk(block.attention.output(context, hidden_states[:, :1]))

    return forward


def _t5_forward(block: Any, layer: nn.Linear) -> Callable[..., tuple[Tensor, Tensor | None, None]]:
    """T5, mT5: pre-norm, unscaled scores, a relative position bias handed from block to block."""
    inner, attention = block.layer[0], block.layer[0].SelfAttention
    projections = (attention.q, attention.k, attention.v)
    attend = FirstAttention(projections, attention.n_heads, layer)

    def forward(
        hidden_states: Tensor,
        attention_mask: Tensor | None = None,
        position_bias: Tensor | None = None,
        *_: Any,
        **__: Any,
    ) -> tuple[Tensor, Tensor | None, None]:
        if attention.has_relative_attention_bias and position_bias is None:
            length = hidden_states.shape[1]
            position_bias = attention.compute_bias(length, length, device=hidden_states.device)
        normed = inner.layer_norm(hidden_states)
        context = attend(normed, attention.scaling, attention_mask, position_bias)
        out = hidden_states[:, :1] + attention.o(context)
        return block.layer[-1](out), position_bias, None

    return forward


def _ast_forward(block: Any, layer: nn.Linear) -> Callable[..., Tensor]:
    """AST: pre-norm, scores scaled by 1/sqrt(d), no mask; both class tokens."""
    inner = block.attention
    projections = (inner.q_proj, inner.k_proj, inner.v_proj)
    attend = FirstAttention(projections, inner.config.num_attention_heads, layer, AST_CLASS_TOKENS)

    def forward(
        hidden_states: Tensor, attention_mask: Tensor | None = None, *_: Any, **__: Any
    ) -> Tensor:
        context = attend(block.layernorm_before(hidden_states), inner.scaling, attention_mask)
        out: Tensor = hidden_states[:, :AST_CLASS_TOKENS] + inner.o_proj(context)
        return out + block.mlp(block.layernorm_after(out))

    return forward


class FirstAttention:
    """Attention from the first positions to all positions."""

    def __init__(
        self, projections: tuple[Any, Any, Any], n_heads: int, layer: nn.Linear, n_queries: int = 1
    ) -> None:
        """Fold keys and values, unless one of them is the target layer and must be called."""
        self._query, self._key, self._value = projections
        self._n_heads, self._n_queries = n_heads, n_queries
        self._folded = all(layer is not one and is_product(one) for one in projections[1:])

    def __call__(
        self,
        hidden: Tensor,
        scaling: float,
        mask: Tensor | None,
        bias: Tensor | None = None,
        turn: Callable[[Tensor], Tensor] | None = None,
    ) -> Tensor:
        """Give [N, Q, heads * d] from [N, T, D]; `turn` changes keys [N, T, H, d], no query."""
        n, t, width = hidden.shape
        n_heads, n_queries = self._n_heads, self._n_queries
        q = self._query(hidden[:, :n_queries]).view(n, n_queries, n_heads, -1) * scaling
        if self._folded and turn is None:
            W = self._key.weight.view(n_heads, -1, width)  # [H, d, D]
            lifted = torch.einsum("nqhd,hde->nhqe", q, W).flatten(1, 2)  # [N, H Q, D]
            # The key's bias adds one number to all scores of a query: softmax does not see it.
            scores = torch.bmm(lifted, hidden.transpose(1, 2)).view(n, n_heads, n_queries, t)
        else:
            keys = self._key(hidden).view(n, t, n_heads, -1)
            keys = keys if turn is None else turn(keys)
            scores = torch.einsum("nqhd,nthd->nhqt", q, keys)
        if bias is not None:
            scores = scores + bias[:, :, :n_queries]
        if mask is not None:  # bool (True attends) or additive, [N, 1 or H, 1 or T, T]
            rows = mask[:, :, :n_queries]
            hides = rows.dtype == torch.bool
            scores = scores.masked_fill(~rows, -torch.inf) if hides else scores + rows
        weights = scores.softmax(-1)  # [N, H, Q, T]
        if not self._folded:
            v = self._value(hidden).view(n, t, n_heads, -1)
            return torch.einsum("nhqt,nthd->nqhd", weights, v).reshape(n, n_queries, -1)
        mixed = torch.bmm(weights.flatten(1, 2), hidden).view(n, n_heads, n_queries, width)
        V = self._value.weight.view(n_heads, -1, width)  # [H, d, D]
        context = torch.einsum("nhqe,hde->nqhd", mixed, V).reshape(n, n_queries, -1)
        return context if self._value.bias is None else context + self._value.bias


# Block classes, a part that is there where the stand-in knows how the block is built, the stand-in.
_FORWARDS: Final = (
    (BERT_BLOCKS, "attention.self.query", _bert_forward),
    ({"T5Block", "MT5Block"}, "layer.0.SelfAttention.q", _t5_forward),
    ({"ASTLayer"}, "attention.q_proj", _ast_forward),
)


def attends_plainly(model: Any) -> bool:
    """Whether the model's attention is the softmax that is written out here: sdpa or eager."""
    return getattr(model.config, "_attn_implementation", "eager") in ("sdpa", "eager")


def first_token_block(
    model: nn.Module, layer: nn.Linear
) -> Callable[[], contextlib.AbstractContextManager[None]] | None:
    """Give what makes, for each pass, a context in which the last block gives [N, 1 or 2, D].

    These are its first tokens. Only the model's structure is read. None where the family is not
    known, for decoders, and for attention other than sdpa and eager.
    """
    if not attends_plainly(model):
        return None
    for names, part, build in _FORWARDS:
        blocks = [module for module in model.modules() if type(module).__name__ in names]
        if blocks:
            parts = dict(blocks[-1].named_modules())  # they differ between versions of a library
            known = part in parts and not getattr(blocks[-1], "is_decoder", False)
            return partial(_shortened, blocks[-1], layer, build) if known else None
    return None


def _shortened(
    block: nn.Module, layer: nn.Linear, build: Callable[[Any, nn.Linear], Callable[..., Any]]
) -> contextlib.AbstractContextManager[None]:
    # Built here and not before: a copy of the encoder then shortens its own block.
    return shadowed(block, build(block, layer))
