"""The size of calls that suits a device, found by trying."""

from __future__ import annotations

import time
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final

import torch

from fungi_hf.errors import InputError
from fungi_hf.extraction.batches import cut_groups
from fungi_hf.extraction.group import Chunk, Group
from fungi_hf.gradients.tape import untouched

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from fungi_hf.extraction.batches import Budget, Sample
    from fungi_hf.extraction.inputs import InputReader
    from fungi_hf.extraction.plan import Plan

_FIRST: Final = 1024  # tokens of the smallest calls tried
_GAIN: Final = 0.03  # share of the time that a doubling must save


class Calibrated:
    """The method of `fungi_hf.extractor.FungiExtractor` that finds its budget."""

    budget: Budget

    def calibrate(self, inputs: Iterable[Any]) -> Budget:
        """Set `budget` to what is fastest for such inputs on the encoder's device, and give it.

        Calls are doubled, from 1,024 tokens, until the time a token stops falling, a call holds all
        inputs, or half of the device's memory was in use. Features stay the same but for rounding.

        Args:
            inputs: A few hundred typical inputs, of which one chunk (`Encoder.chunk_size`) is read.

        Raises:
            InputError: If there is none, or one is unusable.
            NotFittedError: If the config needs `fit` first.
        """
        extractor: Any = self
        reader = extractor._ready("raise", None, None)
        self.budget = calibrated(reader, extractor._plan, inputs, self.budget)
        return self.budget


def calibrated(
    reader: InputReader,
    plan: Plan,
    inputs: Iterable[Any],
    budget: Budget,
    *,
    run: Callable[[Sequence[Sample], Plan, Budget], float] | None = None,
) -> Budget:
    """Give a budget as `Calibrated.calibrate` says; `run` measures seconds of one budget.

    Raises:
        InputError: If there is no input.
    """
    samples = next(iter(reader.read(inputs)), None)
    if not samples:
        raise InputError("calibrate needs at least one input; got none")
    run = run or seconds_of
    share = plan.budget.group_tokens // plan.budget.batch_tokens
    wanted = sum(sample.cost for sample in samples)
    run(samples, plan, replace(budget, batch_tokens=_FIRST, group_tokens=_FIRST * share))  # warm
    best, fastest, tokens = budget, float("inf"), _FIRST
    while True:
        tried = replace(budget, batch_tokens=tokens, group_tokens=tokens * share)
        try:
            seconds = run(samples, plan, tried)
        except torch.OutOfMemoryError:
            return best
        if seconds > fastest * (1 - _GAIN):
            return best
        best, fastest = tried, seconds
        if tokens >= wanted or _is_half_full(next(plan.encoder.model.parameters()).device):
            return best
        tokens *= 2


def seconds_of(samples: Sequence[Sample], plan: Plan, budget: Budget) -> float:
    """Compute the raw blocks of some samples, and give the seconds until they are here."""
    started = time.perf_counter()
    with untouched(plan.encoder.model):
        chunk = Chunk(len(samples), plan)
        for some in cut_groups(samples, budget):
            Group(some, plan, budget).write(chunk)
        chunk.finished()
    return time.perf_counter() - started


def _is_half_full(device: torch.device) -> bool:
    if device.type != "cuda":
        return False
    return torch.cuda.max_memory_allocated(device) > torch.cuda.mem_get_info(device)[1] / 2
