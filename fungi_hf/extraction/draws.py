"""What objectives learn from: training inputs drawn in one pass that holds those alone."""

from __future__ import annotations

import heapq
import itertools
import warnings
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import torch

from fungi_hf.errors import FungiError
from fungi_hf.extraction.batches import cut_groups
from fungi_hf.extraction.group import Group
from fungi_hf.extraction.inputs import iterate
from fungi_hf.features import Failure
from fungi_hf.gradients.tape import untouched
from fungi_hf.seeding import derive_each

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping

    from fungi_hf.extraction.batches import Budget
    from fungi_hf.extraction.inputs import InputReader
    from fungi_hf.extraction.plan import Plan

NO_INPUT: Final = "fit needs at least one input; got none"


@dataclass(frozen=True, slots=True)
class StoredInput:
    """A drawn input as a file holds it; an encoder's `check` makes it canonical again."""

    raw: Any


class Draw:
    """Distinct inputs with the smallest seeded digests of their contents.

    Neither order nor repeats matter, nor how inputs were cut into parts.

    Attributes:
        most: How many are kept.
        items: Digest -> input in canonical form.
    """

    def __init__(self, most: int, items: Mapping[int, Any] | None = None) -> None:
        self.most, self.items = most, dict(items or {})

    def add(self, keys: Iterable[int], items: Iterable[Any]) -> None:
        """Take inputs and their digests; of equal digests the first stays."""
        kept = self.items
        for key, item in zip(keys, items, strict=True):
            kept.setdefault(key, item)
        for key in kept.keys() - heapq.nsmallest(self.most, kept):
            del kept[key]

    def merged(self, other: Draw) -> Draw:
        """Give the draw from both sets of inputs; neither is changed."""
        found = Draw(self.most, self.items)
        found.add(other.items, other.items.values())
        return found

    def inputs(self) -> list[Any]:
        """Give the inputs by their digests."""
        return [self.items[key] for key in sorted(self.items)]


class TrainingDraw:
    """Passes inputs on, once, and keeps a few distinct ones for each objective.

    Attributes:
        draws: Objective -> what is kept of its inputs.
        n_inputs: Inputs so far.
    """

    def __init__(
        self,
        reader: InputReader,
        inputs: Iterable[Any],
        streams: Mapping[str, str] | None = None,
        *,
        each: Callable[[list[Any]], None] | None = None,
        skip: bool = False,
    ) -> None:
        """Begin; `streams`: objective name -> name that seeds its draw, by default its own.

        `each` is called with the checked inputs of every chunk. With `skip` unusable inputs are
        left out and noted in `failures`.
        """
        specs = [spec for spec in reader.config.losses.values() if spec.n_training]
        self.draws = {spec.name: Draw(spec.n_training) for spec in specs}
        self.n_inputs, self.failures = 0, list[Failure]()
        self._each, self._skip, self._streams = each, skip, streams or {}
        self._items = self._read(enumerate(iterate(inputs)), reader)

    def __iter__(self) -> Iterator[Any]:
        return self._items

    def _read(self, numbered: Iterator[tuple[int, Any]], reader: InputReader) -> Iterator[Any]:
        # In 32nds of a chunk (a clip at a time), and ahead only where an objective draws.
        encoder, seed = reader.encoder, reader.config.seed
        size = max(1, encoder.chunk_size // 32) if self.draws else 1
        while some := list(itertools.islice(numbered, size)):
            chunk = list(self._checked(some, reader))
            some.clear()  # before the next is read
            self.n_inputs += len(chunk)
            if self._each is not None:
                self._each(chunk)
            contents = encoder.contents(chunk) if self.draws and chunk else []
            for name, draw in self.draws.items():
                stream = self._streams.get(name, name)
                draw.add(derive_each(seed, ("negatives", stream), contents), chunk)
            yield from chunk
            chunk.clear()

    def _checked(self, some: list[tuple[int, Any]], reader: InputReader) -> Iterator[Any]:
        encoder, prompt = reader.encoder, reader.prompt
        for index, raw in some:
            try:
                checked = encoder.check(raw, index)
            except FungiError as error:
                if not self._skip:
                    raise
                source = encoder.describe(raw)
                self.failures.append(Failure(index=index, source=source, error=str(error)))
            else:
                yield prompt + checked if prompt else checked

    def finish(self, *, one_is_enough: bool = False) -> None:
        """Read what nobody has read, or, where that is enough, one of it."""
        for _ in self:
            if one_is_enough:
                break


def fit_objectives(
    plan: Plan, draws: Mapping[str, Draw], reader: InputReader, budget: Budget
) -> None:
    """Let the objectives of a plan learn from the inputs that were drawn for them."""
    size, bare = plan.encoder.chunk_size, plan.bare()
    for spec in [spec for name, spec in reader.config.losses.items() if name in draws]:
        chosen = draws[spec.name].inputs()
        if len(chosen) < spec.n_training:
            warnings.warn(
                f"objective {spec.name!r} wants {spec.n_training} distinct training inputs; "
                f"all {len(chosen)} are used",
                stacklevel=5,
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
