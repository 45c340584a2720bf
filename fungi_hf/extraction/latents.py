"""Objectives that learn from all training inputs: in one pass, a few latents kept of each."""

from __future__ import annotations

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
        self.specs = [spec for spec in reader.config.objectives if spec.learns_from_all]
        self._plan, self._reader, self._budget = plan, reader, budget
        self._streams = streams or {}
        self._waiting: list[Any] = []
        self._known: dict[str, dict[int, int]] = {spec.name: {} for spec in self.specs}
        self._latents: dict[str, list[Tensor]] = {spec.name: [] for spec in self.specs}

    def add(self, chunk: list[Any]) -> None:
        """Take checked inputs."""
        if not self.specs:
            return
        self._waiting += chunk
        if len(self._waiting) >= self._plan.encoder.chunk_size:
            self._empty()

    def fit(self) -> None:
        """Let the objectives learn from all that was added."""
        self._empty()
        for spec in self.specs:
            keys = np.array(list(self._known[spec.name]), dtype=np.uint64)
            order = torch.from_numpy(keys.argsort())
            objective: Any = self._plan.objectives[spec.name]
            objective.fit_latents(torch.cat(self._latents.pop(spec.name))[order])

    def _empty(self) -> None:
        raws, self._waiting = self._waiting, []
        contents = self._reader.encoder.contents(raws) if raws else []
        for spec in self.specs:
            stream = self._streams.get(spec.name, spec.name)
            keys = derive_each(self._reader.config.seed, ("training", stream), contents)
            known, new = self._known[spec.name], []
            for key, raw in zip(keys, raws, strict=True):
                if key not in known:
                    known[key] = len(known)
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
