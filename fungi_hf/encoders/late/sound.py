"""Late views of sounds: patches or frames dropped from the hidden state."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from fungi_hf.checks import check_integer, check_known
from fungi_hf.encoders.base import Prepared
from fungi_hf.views.text import WordDeletion

if TYPE_CHECKING:
    import random
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from torch import Tensor, nn


class LateTokens:
    """Views without some of a clip's tokens.

    The clip's tokens (frames that cover it; of a spectrogram transformer all patches, but not the
    class tokens) are cut into pieces of `span` neighbours. A piece goes with the probability and by
    the rule of a word of a text: of P >= 2 pieces, max(1, probability P) in the mean, uniformly
    placed, never all. Fewer than two pieces: every view is the clip. What stays keeps the positions
    that it was embedded with.
    """

    def __init__(
        self,
        region: Callable[[Any], tuple[int, int]],
        n_views: int,
        options: Mapping[str, Any],
        blocks: int,
        *,
        span: int,
    ) -> None:
        """Remember the options "probability" (0.25) and "span" in tokens; others are ConfigErrors.

        `region` gives the first and the end of the tokens that may go, from `Prepared.data`.
        """
        check_known("the view 'token_drop'", options, ("probability", "span"), noun="option")
        self._span = check_integer("span", options.get("span", span))
        self._deletion = WordDeletion(n_views, options.get("probability", 0.25))
        self._region, self._blocks = region, blocks

    def __call__(
        self,
        raws: Sequence[Any],  # noqa: ARG002 - what is dropped depends on the number of tokens
        originals: Sequence[Prepared],
        generators: Sequence[random.Random],
    ) -> list[list[Prepared]]:
        """Give V views of every clip."""
        views = []
        for original, generator in zip(originals, generators, strict=True):
            start, stop = self._region(original.data)
            drops = self._deletion.draw(-(-(stop - start) // self._span), generator)
            views.append([self._view(original, drop, start, stop) for drop in drops])
        return views

    def _view(self, original: Prepared, drop: set[int], start: int, stop: int) -> Prepared:
        if not drop:
            return original
        kept = np.ones(original.cost, dtype=np.bool_)
        for piece in drop:
            kept[start + piece * self._span : min(start + (piece + 1) * self._span, stop)] = False
        positions = kept.nonzero()[0]
        key = b"late%d:" % self._blocks + positions.tobytes()
        return Prepared(positions, len(positions), key, late=self._blocks)


def run_blocks(
    blocks: Iterable[nn.Module], hidden: Tensor, mask: Tensor, *, whole: bool | None = None
) -> Tensor:
    """Run blocks on a state [N, T, D] with a mask [N, T] bool of what may be attended to.

    `whole` says whether that is everything; None looks, for which the device is waited. A block
    takes the state and an additive mask, and gives a state or a tuple that begins with it.
    """
    shown = None
    if not (bool(mask.all()) if whole is None else whole):
        shown = torch.zeros(mask.shape, dtype=hidden.dtype, device=hidden.device)
        shown = shown.masked_fill(~mask, torch.finfo(hidden.dtype).min)[:, None, None]
        shown = shown.expand(-1, 1, mask.shape[1], -1)
    for block in blocks:
        out = block(hidden, shown)
        hidden = out[0] if isinstance(out, tuple) else out
    return hidden
