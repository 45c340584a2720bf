"""How inputs are cut into batches: by length and token budget, not by what losses group."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    from fungi_hf.encoders.base import Prepared


@dataclass(frozen=True, slots=True)
class Sample:
    """One input, tokenised, with the views that objectives asked for.

    Attributes:
        index: Its place in the chunk.
        original: The untouched input.
        views: Objective name -> V views, repeats included.
    """

    index: int
    original: Prepared
    views: dict[str, list[Prepared]]

    @property
    def cost(self) -> int:
        """Tokens of the original and of all distinct views."""
        distinct = {view.key: view.cost for views in self.views.values() for view in views}
        distinct[self.original.key] = self.original.cost
        return sum(distinct.values())


@dataclass(frozen=True, slots=True)
class Budget:
    """Limits of one batch and of one group.

    Attributes:
        batch_tokens: Padded tokens of one forward pass.
        batch_size: Inputs of one forward pass; None for no limit.
        group_tokens: Tokens whose graphs are alive at once.
    """

    batch_tokens: int = 2048
    batch_size: int | None = None
    group_tokens: int = 8192


def cut_groups(samples: Sequence[Sample], budget: Budget) -> list[list[Sample]]:
    """Sort samples by length and cut them into groups of at most `group_tokens`.

    A sample's views stay in one group, since its loss needs them together; a sample larger than
    the budget is a group of its own.
    """
    ordered = sorted(samples, key=lambda sample: sample.original.cost)
    groups: list[list[Sample]] = []
    used = 0
    for sample in ordered:
        cost = sample.cost
        if not groups or used + cost > budget.group_tokens:
            groups.append([])
            used = 0
        groups[-1].append(sample)
        used += cost
    return groups


def cut_batches(items: Sequence[Prepared], budget: Budget) -> list[list[int]]:
    """Sort inputs by length and cut them into batches.

    Args:
        items: Distinct inputs.
        budget: Padded tokens and inputs per batch; one input is always allowed.

    Returns:
        Positions into `items`.
    """
    order = sorted(range(len(items)), key=lambda i: items[i].cost)
    batches: list[list[int]] = []
    for i in order:
        size = len(batches[-1]) + 1 if batches else 0
        fits = bool(batches) and size * items[i].cost <= budget.batch_tokens
        if not fits or (budget.batch_size is not None and size > budget.batch_size):
            batches.append([])
        batches[-1].append(i)
    return batches
