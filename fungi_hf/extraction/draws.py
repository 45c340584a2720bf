"""Which training inputs objectives learn from, drawn in one pass that holds those alone."""

from __future__ import annotations

import heapq
from typing import TYPE_CHECKING, Any

from fungi_hf.errors import InputError
from fungi_hf.seeding import derive

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping


class TrainingDraw:
    """An iterator that passes inputs on and keeps a few distinct ones for each objective.

    Those with the smallest seeded digests of their content are kept, so that neither order nor
    repeats matter.
    """

    def __init__(
        self,
        checked: Iterable[Any],
        wanted: dict[str, int],
        content: Callable[[Any], bytes],
        seed: int,
        streams: Mapping[str, str] | None = None,
    ) -> None:
        """Begin; nothing is read yet.

        Args:
            checked: Inputs in canonical form.
            wanted: Objective name -> most inputs that it learns from.
            content: Gives the bytes that identify an input.
            seed: Root seed.
            streams: Objective name -> name that keys the draw, where that is another one.
        """
        self._streams = {name: (streams or {}).get(name, name) for name in wanted}
        self._source, self._content, self._seed = iter(checked), content, seed
        self._wanted = wanted
        self._kept: dict[str, dict[int, Any]] = {name: {} for name in wanted}
        self._largest: dict[str, list[int]] = {name: [] for name in wanted}  # heap of -key
        self._is_empty = True

    def __iter__(self) -> Iterator[Any]:
        """Give the iterator itself."""
        return self

    def __next__(self) -> Any:
        """Pass one input on."""
        item = next(self._source)
        self._is_empty = False
        content = self._content(item) if self._wanted else b""
        for name, limit in self._wanted.items():
            key = derive(self._seed, "negatives", self._streams[name], content)
            kept, largest = self._kept[name], self._largest[name]
            if key in kept or (len(kept) == limit and key > -largest[0]):
                continue
            kept[key] = item
            heapq.heappush(largest, -key)
            if len(kept) > limit:
                del kept[-heapq.heappop(largest)]
        return item

    def finish(self) -> None:
        """Read what nobody has read.

        Raises:
            InputError: If there was no input at all.
        """
        for _ in self:
            pass
        if self._is_empty:
            raise InputError("fit needs at least one input; got none")

    def kept(self, name: str) -> list[Any]:
        """Give the inputs of one objective, by their digests."""
        return [self._kept[name][key] for key in sorted(self._kept[name])]
