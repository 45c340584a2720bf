"""How inputs are cut into batches: by length and token budget, not by what losses group."""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np

from fungi_hf.checks import check_fields, check_integer

if TYPE_CHECKING:
    from collections.abc import Sequence

    from fungi_hf.encoders.base import Prepared
    from fungi_hf.encoders.regions import Regions

# What a call of the encoder costs beyond its tokens, in tokens; between 64 and 256 measured level.
CALL_TOKENS: Final = 128


@dataclass(frozen=True, slots=True)
class Sample:
    """One input, tokenised, with the views that objectives asked for."""

    index: int  # its place in the chunk
    original: Prepared
    views: dict[str, list[Prepared]]  # objective name -> V views, repeats included
    regions: Regions | None = None  # the parts, where each gets a vector
    content: bytes = b""  # beside the regions

    @property
    def cost(self) -> int:
        """Tokens of the original and of all distinct views."""
        distinct = {view.key: view.cost for views in self.views.values() for view in views}
        distinct[self.original.key] = self.original.cost
        return sum(distinct.values())


@dataclass(frozen=True, slots=True)
class Budget:
    """Limits of one batch and of one group."""

    batch_tokens: int = 2048  # padded tokens of one forward pass
    batch_size: int | None = None  # inputs of one forward pass; None for no limit
    group_tokens: int = 8192  # tokens whose graphs are alive at once

    def __post_init__(self) -> None:
        """Check the limit that a caller may give."""
        check_fields(self, ["batch_size"], check_integer, optional=True)


def cut_groups(samples: Sequence[Sample], budget: Budget) -> list[list[Sample]]:
    """Sort samples by length and cut them into groups of at most `group_tokens`, or one sample.

    A sample's views stay in one group, since its loss needs them together.
    """
    ordered = sorted(samples, key=lambda sample: sample.original.cost)
    groups: list[list[Sample]] = []
    used = budget.group_tokens
    for sample in ordered:
        used += (cost := sample.cost)
        if not groups or used > budget.group_tokens:
            groups.append([])
            used = cost
        groups[-1].append(sample)
    return groups


def cut_batches(items: Sequence[Prepared], budget: Budget) -> list[list[int]]:
    """Sort inputs by length and cut them into the batches of least cost.

    Cost is padded tokens plus `CALL_TOKENS` per batch: a few more tokens of padding are cheaper
    than another pass over all layers, many are not. Found by dynamic programming over the distinct
    lengths; one input is always allowed. Gives positions into `items`, shortest inputs first.
    """
    if not items:
        return []
    order = sorted(range(len(items)), key=lambda i: items[i].cost)
    costs = np.array([items[i].cost for i in order])
    lengths, first = np.unique(costs, return_index=True)
    starts = np.append(first, len(order))  # inputs of the j-th length: starts[j]..starts[j + 1]
    per_batch = np.maximum(1, budget.batch_tokens // np.maximum(lengths, 1))
    if budget.batch_size is not None:
        per_batch = np.minimum(per_batch, budget.batch_size)
    best, cut = np.zeros(len(starts)), np.zeros(len(starts), dtype=np.int64)
    for j in range(1, len(starts)):
        n = starts[j] - starts[:j]
        calls = -(-n // per_batch[j - 1])
        totals = best[:j] + n * lengths[j - 1] + CALL_TOKENS * calls
        cut[j] = totals.argmin()
        best[j] = totals[cut[j]]
    batches: list[list[int]] = []
    stop = len(starts) - 1
    while stop:
        places = order[starts[cut[stop]] : starts[stop]]
        calls = -(-len(places) // int(per_batch[stop - 1]))
        edges = [len(places) * k // calls for k in range(calls + 1)]
        batches += [places[a:b] for a, b in itertools.pairwise(edges)][::-1]
        stop = int(cut[stop])
    return batches[::-1]
