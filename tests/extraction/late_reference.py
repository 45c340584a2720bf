"""Late views the slow way: one view at a time, blocks called one by one on the tokens that stay."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from fungi_hf.encoders.base import Prepared
from fungi_hf.extraction.batches import Sample

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

    from fungi_hf.encoders.text import TextEncoder
    from fungi_hf.objectives import Objective

N_BLOCKS = 3
TEXTS = [
    "my card is lost",
    "how do you pay a new bank account? please help me, it is my old card.",
    "what is the money",
]
RELATIVE = ("modernbert", "deberta-v2", "t5", "mt5")  # no position is added to embeddings


def kept_tokens(n_tokens: int) -> list[list[int]]:
    """Three views of a text with this many tokens: one, two and many of them lost."""
    everything = list(range(n_tokens))
    one = [t for t in everything if t != 2]
    two = [t for t in everything if t not in (1, n_tokens - 2)]
    return [one, two, [0, *everything[3 : n_tokens // 2 + 2], n_tokens - 1]]


def samples_of(encoder: TextEncoder, k: int) -> list[Sample]:
    return [
        Sample(i, original, {"simclr": [late(kept, k) for kept in kept_tokens(original.cost)]})
        for i, original in enumerate(encoder.prepare(TEXTS))
    ]


def late(kept: list[int], k: int) -> Prepared:
    return Prepared(torch.tensor(kept).numpy(), len(kept), repr(kept).encode(), late=k)


def last_blocks(model: Any, hidden: Tensor, first: int) -> Tensor:
    """Blocks from `first` on, and what the model does after them, on unpadded [1, T, D]."""
    return _FAMILIES[type(model).__name__](model, hidden, first)


def _bert(model: Any, hidden: Tensor, first: int) -> Tensor:
    for block in model.encoder.layer[first:]:
        hidden = block(hidden)
    return hidden


def _distilbert(model: Any, hidden: Tensor, first: int) -> Tensor:
    for block in model.transformer.layer[first:]:
        hidden = block(hidden)
    return hidden


def _mpnet(model: Any, hidden: Tensor, first: int) -> Tensor:
    bias = model.encoder.compute_position_bias(hidden)
    for block in model.encoder.layer[first:]:
        hidden = block(hidden, None, bias)[0]
    return hidden


def _deberta(model: Any, hidden: Tensor, first: int) -> Tensor:
    encoder = model.encoder
    mask = encoder.get_attention_mask(torch.ones(hidden.shape[:2]))
    relative = encoder.get_rel_pos(hidden)
    for block in encoder.layer[first:]:
        hidden = block(
            hidden, mask, relative_pos=relative, rel_embeddings=encoder.get_rel_embedding()
        )[0]
    return hidden


def _modernbert(model: Any, hidden: Tensor, first: int) -> Tensor:
    place = torch.arange(hidden.shape[1])
    near = (place[:, None] - place).abs() <= model.config.local_attention // 2
    for block in model.layers[first:]:
        angles = model.rotary_emb(hidden, place[None], block.attention_type)
        mask = near[None, None] if block.attention_type == "sliding_attention" else None
        hidden = block(hidden, attention_mask=mask, position_embeddings=angles)
    return model.final_norm(hidden)


def _t5(model: Any, hidden: Tensor, first: int) -> Tensor:
    stack, length = model.encoder, hidden.shape[1]
    bias = stack.block[0].layer[0].SelfAttention.compute_bias(length, length)
    for block in stack.block[first:]:
        hidden = block(hidden, None, bias)[0]
    return stack.final_layer_norm(hidden)


_FAMILIES = {
    "BertModel": _bert,
    "RobertaModel": _bert,
    "ElectraModel": _bert,
    "DistilBertModel": _distilbert,
    "MPNetModel": _mpnet,
    "DebertaV2Model": _deberta,
    "ModernBertModel": _modernbert,
    "T5EncoderModel": _t5,
    "MT5EncoderModel": _t5,
}


def pooled(encoder: TextEncoder, states: Tensor) -> Tensor:
    if encoder.pooling == "model":
        return encoder.model.pooler(states)[0]
    return states[0].mean(0) if encoder.pooling == "mean" else states[0, 0]


def view_embedding(encoder: TextEncoder, text: str, kept: list[int], k: int) -> Tensor:
    """The definition, word for word: [D]."""
    batch = encoder.tokenizer([text], return_tensors="pt", return_token_type_ids=False)
    before = encoder.model(**batch, output_hidden_states=True).hidden_states[N_BLOCKS - k]
    return pooled(encoder, last_blocks(encoder.model, before[:, kept], N_BLOCKS - k))


def sample_loss(encoder: TextEncoder, objective: Objective, text: str, k: int) -> Tensor:
    n_tokens = len(encoder.tokenizer(text)["input_ids"])
    views = [view_embedding(encoder, text, kept, k) for kept in kept_tokens(n_tokens)]
    return objective.loss(torch.stack(views)[None].double())[0]


def losses(encoder: TextEncoder, objective: Objective, k: int) -> Sequence[Tensor]:
    return [sample_loss(encoder, objective, text, k) for text in TEXTS]
