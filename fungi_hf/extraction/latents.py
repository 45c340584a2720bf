"""Objectives that learn from all training inputs: in one pass, a few latents kept of each."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from fungi_hf.extraction.batches import cut_groups
from fungi_hf.extraction.group import Group
from fungi_hf.gradients.tape import untouched
from fungi_hf.seeding import derive_each

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor

    from fungi_hf.extraction.batches import Budget
    from fungi_hf.extraction.inputs import InputReader
    from fungi_hf.extraction.plan import Plan
    from fungi_hf.specs import ObjectiveSpec


@dataclass(frozen=True, slots=True, eq=False)
class Latents:
    """What an objective keeps of distinct inputs, by the digests of their contents.

    Attributes:
        keys: [N] int64, increasing.
        rows: [N, V', L] float32.
    """

    keys: Tensor
    rows: Tensor

    @classmethod
    def of(cls, keys: Tensor, rows: Tensor) -> Latents:
        """Sort rows by their keys; of equal keys the first stays."""
        distinct, places = np.unique(keys.numpy(), return_index=True)
        return cls(torch.from_numpy(distinct), rows[torch.from_numpy(places)])

    def merged(self, other: Latents) -> Latents:
        """Give those of both sets of inputs."""
        return Latents.of(torch.cat([self.keys, other.keys]), torch.cat([self.rows, other.rows]))


class AllTraining:
    """Takes training inputs chunk by chunk and keeps what objectives make of their views.

    Inputs with equal contents count once, and the objectives get all of them by the digests of
    their contents: order and repeats do not matter.
    """

    def __init__(
        self,
        plan: Plan,
        reader: InputReader,
        budget: Budget,
        streams: Mapping[str, str] | None = None,
    ) -> None:
        """Begin; `streams`: objective name -> name that seeds the order, by default its own."""
        self.specs = [spec for spec in reader.config.losses.values() if spec.learns_from_all]
        self._plan, self._reader, self._budget = plan, reader, budget
        self._streams = streams or {}
        self._waiting: list[Any] = []
        self._known: dict[str, dict[int, None]] = {spec.name: {} for spec in self.specs}
        self._latents: dict[str, list[Tensor]] = {spec.name: [] for spec in self.specs}

    def add(self, chunk: list[Any]) -> None:
        """Take checked inputs."""
        if not self.specs:
            return
        self._waiting += chunk
        if len(self._waiting) >= self._plan.encoder.chunk_size:
            self._empty()

    def found(self) -> dict[str, Latents]:
        """Give the latents of all that was added, objective -> latents; none where that is none."""
        self._empty()
        return {
            name: Latents.of(torch.tensor(list(self._known[name])), torch.cat(rows))
            for name, rows in self._latents.items()
            if rows
        }

    def _empty(self) -> None:
        raws, self._waiting = self._waiting, []
        contents = self._reader.encoder.contents(raws) if raws else []
        for spec in self.specs:
            stream = self._streams.get(spec.name, spec.name)
            keys = derive_each(self._reader.config.seed, ("training", stream), contents)
            known, new = self._known[spec.name], []
            for key, raw in zip(keys, raws, strict=True):
                if key not in known:
                    known[key] = None
                    new.append(raw)
            if new:
                self._latents[spec.name].append(self._latents_of(new, spec))

    def _latents_of(self, raws: list[Any], spec: ObjectiveSpec) -> Tensor:
        # [N, V', L] float32, whatever the objective makes of its views' embeddings.
        objective: Any = self._plan.objectives[spec.name]
        places, found, bare = [], [], self._plan.bare()
        with untouched(self._plan.encoder.model):
            for some in cut_groups(self._reader.training_samples(raws, spec), self._budget):
                group = Group(some, bare, self._budget)
                places.append(group.rows)
                embeddings = group.view_embeddings(spec.name).cpu().double()
                found.append(objective.latents(embeddings).float())
        return torch.cat(found)[torch.cat(places).argsort()]


def fit_latents(plan: Plan, latents: Mapping[str, Latents]) -> None:
    """Let the objectives of a plan learn from the latents of all training inputs."""
    for name, found in latents.items():
        objective: Any = plan.objectives[name]
        objective.fit_latents(found.rows)
