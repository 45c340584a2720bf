"""What each block adds to similarities of rows, as `FungiFeatures.explain` says it, for many."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from fungi_hf.evaluation.inputs import BlockFeatures
from fungi_hf.features import Explanation

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from fungi_hf.evaluation.inputs import FeatureInput, LabelledRows
    from fungi_hf.types import Float32Array, Int64Array


@dataclass(frozen=True, slots=True)
class Nearness:
    """Parts of the similarities of Q rows to N: block -> [Q, N]; their sum is the similarity."""

    parts: Mapping[str, Float32Array]

    @classmethod
    def of(
        cls, known: LabelledRows, judged: LabelledRows, rows: Int64Array, given: FeatureInput
    ) -> Nearness:
        """Multiply some judged rows with all known ones, block by block.

        Formula: <x_b, y_b> of each block b, whose weight is in x and y, as in `explain`. Where the
        known rows were given without names of blocks, a plain array, it is the cosine.
        """
        parts = {}
        for name in known.layout:
            left, right = judged.take((name,))[rows], known.take((name,))
            if not isinstance(given, BlockFeatures):
                left, right = (
                    side / np.maximum(np.linalg.norm(side, axis=1, keepdims=True), 1e-12)
                    for side in (left, right)
                )
            parts[name] = left @ right.T
        return cls(parts)

    def nearest(self, names: Sequence[str], k: int, row: int | None = None) -> Int64Array:
        """Give the k nearest of N by some blocks, nearest first, of all Q rows or one: [q, k]."""
        some = slice(None) if row is None else [row]
        total = sum(self.parts[name][some] for name in names)
        return np.argsort(-np.asarray(total), axis=1, kind="stable")[:, :k]

    def explain(self, row: int, other: int, names: Sequence[str]) -> Explanation:
        """Say how much each of some blocks gives to the similarity of a row of Q and one of N."""
        parts = {name: float(self.parts[name][row, other]) for name in names}
        return Explanation(similarity=sum(parts.values()), parts=parts)

    def moved(self, row: int, k: int) -> dict[str, tuple[list[int], list[int]]]:
        """Give, of each block, the neighbours that it brings in and those that it pushes out.

        Brought in are those of the k nearest by all blocks that are not among the k nearest by all
        blocks but this one; pushed out are those that are there only without it. A single block
        moves nothing.
        """
        names = list(self.parts)
        if len(names) < 2:
            return {}
        (whole,) = self.nearest(names, k, row).tolist()
        found = {}
        for block in names:
            (without,) = self.nearest([n for n in names if n != block], k, row).tolist()
            found[block] = (
                [one for one in whole if one not in without],
                [one for one in without if one not in whole],
            )
        return found
