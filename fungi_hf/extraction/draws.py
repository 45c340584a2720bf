"""What objectives learn from: training inputs drawn in one pass that holds those alone."""

from __future__ import annotations

import heapq
import itertools
import warnings
from collections import Counter
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch

from fungi_hf.errors import InputError
from fungi_hf.extraction.batches import cut_groups
from fungi_hf.extraction.finish import Finisher
from fungi_hf.extraction.group import Group, compute
from fungi_hf.extraction.inputs import iterate, readable_twice
from fungi_hf.extraction.latents import AllTraining
from fungi_hf.extraction.state import FittedState
from fungi_hf.gradients.tape import untouched
from fungi_hf.seeding import derive_each

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping

    from torch import Tensor

    from fungi_hf.extraction.batches import Budget
    from fungi_hf.extraction.inputs import InputReader
    from fungi_hf.extraction.plan import Plan


def learn(
    reader: InputReader, plan: Plan, inputs: Iterable[Any], budget: Budget, *, progress: bool
) -> tuple[FittedState, dict[str, Tensor] | None, Counter[str]]:
    """Let encoder and objectives learn what the config asks for; find means, whitening, a PCA.

    Inputs are read once, and once more where something is learned from their raw blocks, which
    are given beside the state, with what was special -> number of inputs; else None is. Where the
    encoder itself learns, an objective of all inputs waits for it: they are read again.
    """
    config, every = reader.config, AllTraining(plan, reader, budget)
    waits = bool(every.specs) and config.audio_statistics == "fit"
    if config.learns_from_blocks or waits:
        inputs = readable_twice(inputs)
    if waits:
        reader.encoder.fit(reader.encoder.check(raw, i) for i, raw in enumerate(iterate(inputs)))
    draw = TrainingDraw(reader, inputs, each=every.add)
    if not waits:
        reader.encoder.fit(draw)
    draw.finish(read_again=config.learns_from_blocks and not every.specs)
    every.fit()
    fit_objectives(plan, draw, reader, budget)
    blocks, notes, state = None, Counter[str](), FittedState()
    if reader.config.learns_from_blocks:
        reading = reader.read(inputs)
        parts = list(compute(reading, plan, budget, progress=progress))
        blocks = {name: torch.cat([part[name] for part in parts]) for name in parts[0]}
        finisher = Finisher(reader.config, plan.widths, plan.factor_shapes)
        notes, state = reading.notes, finisher.fit(blocks)
    state = replace(state, objectives=plan.state(), encoder=reader.encoder.state())
    return state, blocks, notes


class TrainingDraw:
    """Passes inputs on, once, and keeps a few distinct ones for each objective.

    Those with the smallest seeded digests of their content are kept, so that neither order nor
    repeats matter.
    """

    def __init__(
        self,
        reader: InputReader,
        inputs: Iterable[Any],
        streams: Mapping[str, str] | None = None,
        *,
        each: Callable[[list[Any]], None] | None = None,
    ) -> None:
        """Begin; `streams`: objective name -> name that seeds its draw, by default its own.

        `each` is called with the checked inputs of every chunk.
        """
        self.specs = [spec for spec in reader.config.objectives if spec.n_training]
        self._each = each
        self._items = self._read(enumerate(iterate(inputs)), reader)
        self._seed, self._streams = reader.config.seed, streams or {}
        self._kept: dict[str, dict[int, Any]] = {spec.name: {} for spec in self.specs}  # by digest
        self._is_empty = True

    def __iter__(self) -> Iterator[Any]:
        return self._items

    def _read(self, numbered: Iterator[tuple[int, Any]], reader: InputReader) -> Iterator[Any]:
        # In 32nds of a chunk (a clip at a time), and ahead only where an objective draws.
        encoder = reader.encoder
        size = max(1, encoder.chunk_size // 32) if self.specs else 1
        while chunk := [encoder.check(raw, i) for i, raw in itertools.islice(numbered, size)]:
            if reader.prompt:
                chunk = [reader.prompt + text for text in chunk]
            self._is_empty = False
            if self._each is not None:
                self._each(chunk)
            contents = encoder.contents(chunk) if self.specs else []
            for spec in self.specs:
                stream = self._streams.get(spec.name, spec.name)
                keys = derive_each(self._seed, ("negatives", stream), contents)
                kept = self._kept[spec.name]
                for key, item in zip(keys, chunk, strict=True):
                    kept.setdefault(key, item)
                for key in kept.keys() - heapq.nsmallest(spec.n_training, kept):
                    del kept[key]
            yield from chunk
            chunk.clear()  # before the next is read

    def finish(self, *, read_again: bool = False) -> None:
        """Read what nobody has read; but one input is enough where all are read again.

        Raises:
            InputError: If there was no input at all.
        """
        for _ in self:
            if read_again and not self.specs:
                break
        if self._is_empty:
            raise InputError("fit needs at least one input; got none")

    def kept(self, name: str) -> list[Any]:
        """Give the inputs of one objective, by their digests."""
        return [self._kept[name][key] for key in sorted(self._kept[name])]


def fit_objectives(plan: Plan, draw: TrainingDraw, reader: InputReader, budget: Budget) -> None:
    """Let the objectives of a plan learn from the inputs that a finished draw has kept."""
    size, bare = plan.encoder.chunk_size, plan.bare()
    for spec in draw.specs:
        chosen = draw.kept(spec.name)
        if len(chosen) < spec.n_training:
            warnings.warn(
                f"objective {spec.name!r} wants {spec.n_training} distinct training inputs; "
                f"all {len(chosen)} are used",
                stacklevel=4,
            )
        places, found = [], []
        with untouched(plan.encoder.model):
            for start in range(0, len(chosen), size):
                samples = reader.training_samples(chosen[start : start + size], spec)
                for some in cut_groups(samples, budget):
                    group = Group(some, bare, budget)
                    places.append(start + group.rows)
                    found.append(group.view_embeddings(spec.name))
            embeddings = torch.cat(found).cpu()[torch.cat(places).argsort()]
            plan.objectives[spec.name].fit(embeddings.double())
