"""Views of token objectives: some tokens of an input are masked, and read beside the plain input.

An encoder says which tokens may be masked and what an input without them is.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from fungi_hf.checks import check_known, check_number

if TYPE_CHECKING:
    import random
    from collections.abc import Callable, Mapping, Sequence

    from fungi_hf.encoders.base import Prepared


class MaskedTokens:
    """Gives 2 (1 + S) views: embedding and S masked tokens, of the masked and the plain input.

    Of the n tokens that may be masked, max(1, round(share n)) are, uniformly. The S slots are the
    masked tokens in random order, from the start again where there are fewer. An input that has
    no such token stays plain, and its slots hold the embedding.
    """

    def __init__(
        self,
        n_views: int,
        options: Mapping[str, Any],
        *,
        share: float,
        maskable: Callable[[Prepared], Sequence[int]],
        masked: Callable[[Prepared, list[int]], Any],
        known: Sequence[str] = ("mask_ratio",),
    ) -> None:
        """Remember the option "mask_ratio", by default `share`; one that is not known is refused.

        `maskable` gives the tokens of an input, in the order of `embed_tokens`, counted from 0,
        that may be masked; `masked` the `Prepared.data` of an input without some of them.
        """
        check_known("the view 'masked_tokens'", options, known, noun="option")
        asked = options.get("mask_ratio", share)
        self._share = check_number("mask_ratio", asked, 0, 1, inclusive="high")
        self._slots = n_views // 2 - 1
        self._maskable, self._masked = maskable, masked

    def __call__(
        self,
        raws: Sequence[Any],
        originals: Sequence[Prepared],
        generators: Sequence[random.Random],
    ) -> list[list[Prepared]]:
        """Give the views of every input."""
        del raws
        pairs = zip(originals, generators, strict=True)
        return [self._views(original, generator) for original, generator in pairs]

    def _views(self, original: Prepared, generator: random.Random) -> list[Prepared]:
        tokens = self._maskable(original)
        if not tokens:
            return [original] * (2 * (1 + self._slots))
        chosen = generator.sample(tokens, max(1, round(self._share * len(tokens))))
        masked = sorted(chosen)
        key = b"masked:" + original.key + repr(masked).encode()
        student = replace(original, data=self._masked(original, masked), key=key, notes=())
        slots = [0, *(1 + chosen[j % len(chosen)] for j in range(self._slots))]
        return [replace(one, slot=slot) for one in (student, original) for slot in slots]
