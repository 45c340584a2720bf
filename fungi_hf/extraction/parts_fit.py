"""What `fit` learns for dense features: support tokens, means, whitening, a PCA of parts."""

from __future__ import annotations

import warnings
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import torch
from tqdm.auto import tqdm

from fungi_hf.errors import InputError
from fungi_hf.extraction.finish import Finisher
from fungi_hf.extraction.inputs import iterate, readable_twice
from fungi_hf.extraction.parts import cut, raw_blocks, runs, token_rows
from fungi_hf.extraction.state import FittedState
from fungi_hf.seeding import numpy_generator

if TYPE_CHECKING:
    from collections import Counter
    from collections.abc import Iterable, Iterator, Sequence

    from torch import Tensor

    from fungi_hf.extraction.batches import Budget, Sample
    from fungi_hf.extraction.inputs import InputReader, Reading
    from fungi_hf.extraction.plan import Plan
    from fungi_hf.specs import ObjectiveSpec

STATISTICS_ROWS: Final = 32_768  # of parts that means, whitening and a PCA are learned from


class RowDraw:
    """Keeps the rows with the smallest seeded keys: neither order nor repeats matter."""

    def __init__(self, n_rows: int, seed: int, *names: str) -> None:
        self._most, self._seed, self._names = n_rows, seed, names
        self._keys = np.empty(0, dtype=np.int64)
        self._rows: Tensor | None = None

    def add(self, rows: Tensor, content: bytes) -> None:
        """Take rows [n, width] of an input."""
        generator = numpy_generator(self._seed, *self._names, content)
        keys = generator.integers(2**63 - 1, size=len(rows))
        if len(self._keys) == self._most:
            small = keys < self._keys[-1]
            keys, rows = keys[small], rows[torch.from_numpy(small)]
        if not len(keys):
            return
        joined = np.concatenate([self._keys, keys])
        self._keys, places = np.unique(joined, return_index=True)
        self._keys, places = self._keys[: self._most], places[: self._most]
        held = rows if self._rows is None else torch.cat([self._rows, rows])
        self._rows = held[torch.from_numpy(places)]

    def rows(self) -> Tensor:
        """Give what was kept, [n, width], by key.

        Raises:
            InputError: If there is nothing.
        """
        if self._rows is None:
            raise InputError("fit needs an input with at least one patch, word or frame; got none")
        return self._rows


def learn_parts(
    reader: InputReader, plan: Plan, inputs: Iterable[Any], budget: Budget, *, progress: bool
) -> tuple[FittedState, Counter[str]]:
    """Learn what a dense config asks for; give it, and what was special -> number of inputs.

    Inputs are read once for the encoder's statistics, once for objectives and once for the
    statistics of blocks, as far as the config wants them.

    Raises:
        InputError: If there is no input, or none with a part.
    """
    config, encoder = reader.config, reader.encoder
    specs = [spec for spec in config.losses.values() if spec.n_training_tokens]
    fits = config.audio_statistics == "fit"
    if fits + bool(specs) + config.learns_from_blocks > 1:
        inputs = readable_twice(inputs)
    if fits:
        encoder.fit(encoder.check(raw, i) for i, raw in enumerate(iterate(inputs)))
    state, reading = FittedState(), reader.read(inputs)
    if specs:
        _fit_objectives(specs, plan, reading, budget, config.seed, progress=progress)
    if config.learns_from_blocks:
        reading = reader.read(inputs) if specs else reading
        draw = RowDraw(STATISTICS_ROWS, config.seed, "statistics")
        for samples in _runs_of(reading, progress=progress):
            blocks = raw_blocks(samples, plan, budget)
            for sample, parts in zip(samples, cut(blocks, samples), strict=True):
                draw.add(torch.cat(list(parts.values()), dim=1), sample.content)
        pieces = draw.rows().split(list(plan.widths.values()), dim=1)
        finisher = Finisher(config, plan.widths, plan.factor_shapes)
        state = finisher.fit(dict(zip(plan.widths, pieces, strict=True)))
    elif not specs and not any(True for _ in reading):
        raise InputError("fit needs at least one input; got none")
    return replace(state, objectives=plan.state(), encoder=encoder.state()), reading.notes


def _fit_objectives(
    specs: Sequence[ObjectiveSpec],
    plan: Plan,
    reading: Reading,
    budget: Budget,
    seed: int,
    *,
    progress: bool,
) -> None:
    draws = {s.name: RowDraw(s.n_training_tokens, seed, "support", s.name) for s in specs}
    for samples in _runs_of(reading, progress=progress):
        tokens = token_rows(samples, plan, budget)
        for sample, rows in zip(samples, tokens, strict=True):
            for draw in draws.values():
                draw.add(rows, sample.content)
    for spec in specs:
        support, wanted = draws[spec.name].rows(), spec.n_training_tokens
        if len(support) < wanted:
            warnings.warn(
                f"objective {spec.name!r} wants {wanted} tokens of training inputs; all "
                f"{len(support)} are used",
                stacklevel=4,
            )
        plan.objectives[spec.name].fit(support)


def _runs_of(reading: Reading, *, progress: bool) -> Iterator[list[Sample]]:
    with tqdm(total=reading.n_inputs, disable=not progress, unit="input") as bar:
        for samples in reading:
            yield from runs(samples)
            bar.update(len(samples))
