"""Texts of several lengths as one batch, and masks for which no device is waited."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from fungi_hf.devices import sent
from fungi_hf.encoders.late.shared_block import BERT_MODELS

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

    from fungi_hf.types import Int64Array


def padded(ids: Sequence[Int64Array], length: int, padding: int, device: torch.device) -> TextBatch:
    """Put token ids side by side, padded on the right: one copy to the device, of half the bytes.

    On the CPU nothing is copied.
    """
    both = np.zeros((2, len(ids), length), np.int64 if device.type == "cpu" else np.int32)
    both[0] = padding
    for row, some in enumerate(ids):
        both[0, row, : len(some)] = some
        both[1, row, : len(some)] = 1
    tokens, mask = sent(torch.from_numpy(both), device).long()
    return TextBatch(tokens, mask, is_even=min(map(len, ids)) == length)


class TextBatch(dict[str, Any]):
    """`input_ids` and `attention_mask` [N, T], and whether nothing is padded, which is known."""

    def __init__(self, ids: Tensor, mask: Tensor, *, is_even: bool) -> None:
        super().__init__(input_ids=ids, attention_mask=mask)
        self.is_even = is_even


def takes_broad_mask(model: Any) -> bool:
    """Whether a model takes a boolean mask of four axes as it is."""
    return type(model).__name__ in BERT_MODELS and model.config._attn_implementation == "sdpa"


def broad_mask(mask: Tensor) -> Tensor:
    """Give a mask [N, T] as [N, 1, T, T], true where attention goes.

    For one of two axes transformers looks whether it is all ones, and waits for the device.
    """
    return mask.bool()[:, None, None].expand(-1, 1, mask.shape[1], -1)
