"""How inputs are cut into batches: the cheapest cut, found by trying every one."""

from __future__ import annotations

import itertools
from dataclasses import dataclass

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fungi_hf.extraction.batches import CALL_TOKENS, Budget, cut_batches

_lengths = st.lists(st.integers(1, 400), min_size=1, max_size=8)


@dataclass(frozen=True)
class Item:
    """Stands for a prepared input: cutting reads its cost alone."""

    cost: int


def padded_cost(lengths: list[int], batches: list[list[int]]) -> int:
    """Padded tokens plus the price of every call."""
    return sum(len(b) * max(lengths[i] for i in b) + CALL_TOKENS for b in batches)


def cheapest(lengths: list[int], budget: Budget) -> int:
    """Try every cut of the sorted inputs into runs that the budget allows."""
    order = sorted(range(len(lengths)), key=lengths.__getitem__)
    best = None
    for marks in itertools.product((False, True), repeat=len(order) - 1):
        batches = [[order[0]]]
        for i, cut in zip(order[1:], marks, strict=True):
            batches = [*batches, [i]] if cut else [*batches[:-1], [*batches[-1], i]]
        if all(allowed(lengths, batch, budget) for batch in batches):
            cost = padded_cost(lengths, batches)
            best = cost if best is None else min(best, cost)
    assert best is not None
    return best


def allowed(lengths: list[int], batch: list[int], budget: Budget) -> bool:
    """Whether a batch is one input, or within both limits."""
    padded = len(batch) * max(lengths[i] for i in batch)
    size = budget.batch_size
    return len(batch) == 1 or (padded <= budget.batch_tokens and not (size and len(batch) > size))


@given(_lengths, st.sampled_from([64, 500, 2048]), st.sampled_from([None, 1, 3]))
def test_batches_hold_every_input_once_within_the_limits(
    lengths: list[int], tokens: int, size: int | None
) -> None:
    budget = Budget(batch_tokens=tokens, batch_size=size)
    batches = cut_batches([Item(n) for n in lengths], budget)
    assert sorted(i for batch in batches for i in batch) == list(range(len(lengths)))
    assert all(allowed(lengths, batch, budget) for batch in batches)
    ends = [lengths[i] for batch in batches for i in batch]
    assert ends == sorted(ends)


@given(_lengths)
def test_no_cut_is_cheaper_where_any_batch_is_allowed(lengths: list[int]) -> None:
    budget = Budget(batch_tokens=10**6)
    batches = cut_batches([Item(n) for n in lengths], budget)
    assert padded_cost(lengths, batches) == cheapest(lengths, budget)


def test_equal_lengths_are_cut_into_even_batches() -> None:
    batches = cut_batches([Item(16)] * 130, Budget(batch_tokens=2048))
    assert [len(batch) for batch in batches] == [65, 65]


@pytest.mark.parametrize("n", [0, 1])
def test_none_and_one(n: int) -> None:
    assert cut_batches([Item(7)] * n, Budget()) == [[0]] * n
