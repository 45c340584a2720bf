"""What encoders share whose model is a list of blocks: a shorter last block, and late views."""

from __future__ import annotations

import copy
from contextlib import nullcontext
from functools import cached_property
from typing import TYPE_CHECKING, Self

from fungi_hf.encoders.base import LateEncoder
from fungi_hf.encoders.last_block import first_token_block
from fungi_hf.encoders.late.stack import BlockStack

if TYPE_CHECKING:
    from collections.abc import Callable, Collection
    from contextlib import AbstractContextManager

    from torch import Tensor

    from fungi_hf.encoders.late.shared_block import SharedBlock


def masked_mean(tokens: Tensor, mask: Tensor) -> Tensor:
    """Average the tokens [N, T, n] where the mask [N, T] is true or 1: [N, n]."""
    weights = mask[:, :, None].to(tokens.dtype)
    return (tokens * weights).sum(1) / weights.sum(1)


class BlockEncoder(LateEncoder):
    """An encoder over a Hugging Face model.

    Attributes:
        short_block: Gives a context in which the last block is computed for the pooled tokens
            only; one without effect where it is computed for all tokens.
        shared_block: The last block for late views that share their original's keys and values;
            None where it is not known how.
    """

    short_block: Callable[[], AbstractContextManager[None]] = nullcontext
    shared_block: SharedBlock | None = None

    def shorten_last_block(self) -> None:
        """Compute the last block for the first tokens only, where the model's family is known."""
        short = first_token_block(self.model, self.layer)
        if short is not None:
            self.short_block, self.uses_short_last_block = short, True

    def with_full_last_block(self) -> Self:
        """Give an encoder that computes the last block for all tokens, as a plain pass does."""
        full = copy.copy(self)
        full.short_block, full.shared_block, full.uses_short_last_block = nullcontext, None, False
        return full

    @cached_property
    def blocks(self) -> BlockStack:
        """The model's blocks, in which late views are run."""
        return BlockStack(self.model, self.layer_path)

    def watching(self, depths: Collection[int]) -> AbstractContextManager[dict[int, Tensor]]:
        """Note the hidden state before the last k blocks during `embed`, by k."""
        return self.blocks.watching(depths)
