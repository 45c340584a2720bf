"""One group of samples from model inputs to raw blocks: encode once, one pullback per objective."""

from __future__ import annotations

import itertools
from contextlib import nullcontext
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, cast

import numpy as np
import torch

from fungi_hf.encoders.base import LateBatch
from fungi_hf.errors import ObjectiveError
from fungi_hf.extraction.activations import noting_inputs
from fungi_hf.extraction.batches import cut_batches
from fungi_hf.gradients.factors import compress
from fungi_hf.gradients.tape import concatenate, gradients_allowed, record

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from torch import Tensor, nn

    from fungi_hf.encoders.base import Batch, Encoder, LateEncoder, Prepared
    from fungi_hf.extraction.batches import Budget, Sample
    from fungi_hf.gradients.buffering import SketchBuffer
    from fungi_hf.gradients.sketches import Sketch
    from fungi_hf.gradients.tape import LayerFactors, Tape
    from fungi_hf.objectives.base import Objective


@dataclass(frozen=True, slots=True)
class _Segment:
    """One forward pass: which units, their tape, their pooled layer inputs."""

    units: Tensor  # [n] positions among the group's units
    embeddings: Tensor
    tape: Tape | None = None  # None when nothing is pulled back
    activations: Mapping[str, Tensor] = field(default_factory=dict)  # layer -> pooled input


@dataclass(frozen=True, slots=True)
class _Originals:
    """One batch of originals as late views need it."""

    blocks: int
    units: Sequence[int]  # an original's unit is its sample
    hidden: Tensor  # [M, T, D] before the last blocks
    inputs: Batch


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What to compute of every sample; fixed for one extractor.

    Attributes:
        encoder: Gives embeddings, holds the target layer.
        objectives: Block name -> objective; None marks an activation block.
        activations: Activation block -> dotted path of its layer, and the layer.
        sketch: None keeps exact factors.
        rank: Terms kept without a sketch.
        tokens: Which tokens' outer products are summed.
        round_sketch: Round sketches to bfloat16.
    """

    encoder: Encoder
    objectives: Mapping[str, Objective | None]
    sketch: Sketch | None
    activations: Mapping[str, tuple[str, nn.Linear]] = field(default_factory=dict)
    rank: int = 4
    tokens: str = "all"
    round_sketch: bool = False

    @property
    def has_gradients(self) -> bool:
        """Whether anything is pulled back."""
        return any(objective is not None for objective in self.objectives.values())

    @property
    def noted(self) -> dict[str, nn.Linear]:
        """Dotted path -> layer whose pooled input is a block."""
        return dict(self.activations.values())


class Group:
    """Samples whose graphs are alive together; the model must be held by `untouched`.

    Attributes:
        lost: Block kept as exact factors -> largest share of a squared norm that was dropped.
    """

    def __init__(self, samples: Sequence[Sample], plan: Plan, budget: Budget) -> None:
        """Encode every distinct input of every sample once."""
        self._plan, self._n = plan, len(samples)
        self.lost: dict[str, float] = {}
        units: list[Prepared] = []
        owners: list[int] = []
        known: dict[tuple[int, bytes], int] = {}

        def unit(owner: int, item: Prepared) -> int:
            key = (owner, item.key)
            if key not in known:
                known[key] = len(units)
                units.append(item)
                owners.append(owner)
            return known[key]

        self._base = torch.tensor([unit(i, sample.original) for i, sample in enumerate(samples)])
        self._rows = {
            name: torch.tensor(
                [[unit(i, view) for view in sample.views[name]] for i, sample in enumerate(samples)]
            )
            for name in (samples[0].views if samples else {})
        }
        self._owner = torch.tensor(owners)
        # Originals apart from views, so that a pullback touches its objective's batches only;
        # together where the graph is one token's, which a larger batch outweighs.
        together = plan.encoder.uses_short_last_block
        whole = [i for i, item in enumerate(units) if item.late is None]
        cuts = [0, len(whole)] if together else [0, self._n, len(whole)]
        late = _by_depth(units)
        self._segments = [
            segment
            for start, stop in itertools.pairwise(cuts)
            for segment in self._encode(units, whole[start:stop], late, budget)
        ]
        device = self._segments[0].embeddings.device
        embeddings = torch.cat([segment.embeddings for segment in self._segments])
        order = torch.cat([segment.units for segment in self._segments]).to(device)
        self._embeddings = torch.empty_like(embeddings).index_copy_(0, order, embeddings)

    def _encode(
        self,
        units: Sequence[Prepared],
        places: Sequence[int],
        late: Mapping[int, Sequence[int]],
        budget: Budget,
    ) -> Iterator[_Segment]:
        """Encode whole inputs, and after each batch the late views of the originals in it."""
        encoder = cast("LateEncoder", self._plan.encoder)
        holds_originals = bool(places) and places[0] < self._n
        depths = late if holds_originals else {}
        noted = self._plan.noted if holds_originals else {}
        for chosen in cut_batches([units[place] for place in places], budget):
            here = [places[i] for i in chosen]
            batch = encoder.collate([units[place] for place in here])
            with encoder.watching(depths) if depths else nullcontext({}) as states:
                segment = self._segment(here, batch, noted)
            yield segment
            for k, views in depths.items():
                beside = _Originals(k, here, states.pop(k), batch)
                yield from self._encode_late(units, views, beside, budget)

    def _encode_late(
        self,
        units: Sequence[Prepared],
        views: Sequence[int],
        originals: _Originals,
        budget: Budget,
    ) -> Iterator[_Segment]:
        rows = {owner: row for row, owner in enumerate(originals.units)}  # originals come first
        owners = self._owner.tolist()
        mine = [place for place in views if owners[place] in rows]
        for chosen in cut_batches([units[place] for place in mine], budget):
            here = [mine[i] for i in chosen]
            kept = np.zeros((len(here), originals.hidden.shape[1]), dtype=np.bool_)
            for row, place in enumerate(here):
                kept[row, units[place].data] = True
            device = originals.hidden.device
            batch = LateBatch(
                blocks=originals.blocks,
                hidden=originals.hidden,
                inputs=originals.inputs,
                source=torch.tensor([rows[owners[place]] for place in here], device=device),
                kept=torch.from_numpy(kept).to(device),
            )
            yield self._late_segment(here, batch)

    def _segment(
        self, places: Sequence[int], batch: Batch, noted: Mapping[str, nn.Linear]
    ) -> _Segment:
        units, encoder = torch.tensor(places), self._plan.encoder
        with torch.no_grad(), noting_inputs(encoder, noted, batch) as found:
            if not self._plan.has_gradients:
                return _Segment(units, encoder.embed(batch), None, found)
            tape = self._record(batch)
        return _Segment(units, tape.embeddings, tape, found)

    def _late_segment(self, places: Sequence[int], batch: LateBatch) -> _Segment:
        units, encoder = torch.tensor(places), cast("LateEncoder", self._plan.encoder)
        if not self._plan.has_gradients:
            with torch.no_grad():
                return _Segment(units, encoder.embed_late(batch))
        tape = self._record_late(batch)
        return _Segment(units, tape.embeddings, tape)

    def _record(self, batch: Batch) -> Tape:
        encoder = self._plan.encoder
        return record(encoder.layer, encoder.layer_path, partial(encoder.embed, batch))

    def _record_late(self, batch: LateBatch) -> Tape:
        encoder = cast("LateEncoder", self._plan.encoder)
        return record(encoder.layer, encoder.layer_path, partial(encoder.embed_late, batch))

    def blocks(self, waiting: Mapping[str, SketchBuffer], rows: Tensor) -> dict[str, Tensor]:
        """Give the embedding and every objective's block, [B, width], raw and on the CPU.

        Args:
            waiting: Block name -> buffer that takes the factors instead.
            rows: [B] places of the samples in the buffers' outputs.

        Returns:
            The blocks that are not waiting.
        """
        blocks = {"embedding": self._embeddings[self._base.to(self._embeddings.device)]}
        for name, objective in self._plan.objectives.items():
            if objective is None:
                blocks[name] = self._activation(self._plan.activations[name][0])
            elif name in waiting:
                waiting[name].add(rows, self.factors(name, objective))
            else:
                blocks[name] = self._finish(name, self.factors(name, objective))
        return {name: block.detach().float().cpu() for name, block in blocks.items()}

    def view_embeddings(self, name: str) -> Tensor:
        """Give one objective's view embeddings, [B, V, D], for its `fit`."""
        return self._embeddings[self._rows[name].to(self._embeddings.device)]

    def factors(self, name: str, objective: Objective) -> LayerFactors:
        """Give the exact gradients of one objective."""
        gradient, used = self.embedding_gradient(name, objective)
        parts = [
            segment.tape.pull_back(
                gradient[segment.units.to(gradient.device)],
                self._owner[segment.units],
                self._n,
                tokens=self._plan.tokens,
            )
            for segment in self._segments
            if segment.tape is not None and used[segment.units].any()
        ]
        return concatenate(parts)

    def embedding_gradient(self, name: str, objective: Objective) -> tuple[Tensor, Tensor]:
        """Give an objective's summed loss's gradient at the embeddings of all encoded inputs.

        Args:
            name: Its block.
            objective: The loss.

        Returns:
            [U, D], and [U] whether the objective read the input.

        Raises:
            ObjectiveError: If it does not give one loss per sample.
        """
        rows = self._rows.get(name, self._base[:, None])
        with gradients_allowed():
            leaf = _head_precision(self._embeddings).requires_grad_(True)
            losses = objective.loss(leaf[rows.to(leaf.device)])
            if losses.shape != (self._n,):
                raise ObjectiveError(
                    f"objective {name!r} must give one loss per sample, shape ({self._n},); "
                    f"got {tuple(losses.shape)}"
                )
            (gradient,) = torch.autograd.grad(losses.sum(), leaf)
        used = torch.zeros(len(leaf), dtype=torch.bool)
        used[rows.flatten()] = True
        return gradient, used

    def _finish(self, name: str, factors: LayerFactors) -> Tensor:
        plan = self._plan
        with torch.no_grad():
            if plan.sketch is None:
                packed, lost = compress(factors, plan.rank)
                self.lost[name] = float(lost.max())
                return packed
            y = plan.sketch(factors)
            return y.bfloat16().float() if plan.round_sketch else y

    def _activation(self, path: str) -> Tensor:
        parts = [segment for segment in self._segments if segment.activations]
        pooled = torch.cat([part.activations[path] for part in parts])
        order = torch.cat([part.units for part in parts]).to(pooled.device)
        placed = torch.empty_like(pooled).index_copy_(0, order, pooled)
        return placed[self._base.to(pooled.device)]


def _by_depth(units: Sequence[Prepared]) -> dict[int, list[int]]:
    """Give the late views by the number of blocks that they run through."""
    found: dict[int, list[int]] = {}
    for place, item in enumerate(units):
        if item.late is not None:
            found.setdefault(item.late, []).append(place)
    return found


def _head_precision(embeddings: Tensor) -> Tensor:
    """Heads and losses run in float64: the KL gradient loses three digits to cancellation."""
    if embeddings.device.type == "mps":
        return embeddings.detach().float()
    return embeddings.detach().double()
