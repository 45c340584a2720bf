"""One group of samples from model inputs to raw blocks: encode once, one pullback per objective."""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, cast

import numpy as np
import torch
from tqdm.auto import tqdm

from fungi_hf.encoders.base import LateBatch
from fungi_hf.errors import ConfigError, LayerUseError, ObjectiveError
from fungi_hf.extraction.batches import cut_batches, cut_groups
from fungi_hf.gradients.factors import compress, concatenate
from fungi_hf.gradients.sketches import SketchBuffer
from fungi_hf.gradients.tape import record, untouched

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from torch import Tensor, nn

    from fungi_hf.encoders.base import Batch, Encoder, LateEncoder, Prepared, TokenEncoder
    from fungi_hf.extraction.batches import Budget, Sample
    from fungi_hf.extraction.inputs import Reading
    from fungi_hf.extraction.plan import Plan
    from fungi_hf.gradients.factors import LayerFactors
    from fungi_hf.gradients.tape import Tape


@dataclass(frozen=True, slots=True)
class _Segment:
    """One forward pass: [n] positions of its inputs among the group's units, and its tape."""

    units: Tensor
    tape: Tape


def compute(
    reading: Reading,
    plan: Plan,
    budget: Budget,
    *,
    progress: bool = False,
    lost: dict[str, float] | None = None,
) -> Iterator[dict[str, Tensor]]:
    """Give every raw block of one chunk after the other, [N, width] float32 on the CPU.

    The plan is of a target layer alone. `lost` is updated: block of exact factors -> largest share
    of a squared norm dropped.
    """
    lost = {} if lost is None else lost
    with tqdm(total=reading.n_inputs, disable=not progress, unit="input") as bar:
        for samples in reading:
            with untouched(plan.encoder.model):
                blocks: dict[str, Tensor] = {}
                buffers: dict[str, SketchBuffer] = {}
                for name, width in plan.widths.items():
                    out = blocks[name] = torch.empty(len(samples), width, dtype=torch.float32)
                    if name in plan.objectives and plan.sketch is not None:
                        buffers[name] = SketchBuffer(plan.sketch, out, rounded=plan.round_sketch)
                for some in cut_groups(samples, budget):
                    Group(some, plan, budget).write(blocks, buffers, lost)
                    bar.update(len(some))
                for buffer in buffers.values():
                    buffer.flush()
            yield blocks
            bar.update(reading.n_read - bar.n)


class Group:
    """Samples whose graphs are alive together; the model must be held by `untouched`."""

    def __init__(self, samples: Sequence[Sample], plan: Plan, budget: Budget) -> None:
        # Every distinct input of every sample is encoded once.
        self._plan, self._budget, self._n = plan, budget, len(samples)
        self.rows = torch.tensor([sample.index for sample in samples])  # [B] places in the chunk
        self.unusable: dict[str, str] = {}  # layer -> why it has no gradient, of several layers
        self._units: list[Prepared] = []
        self._owners: list[int] = []  # the sample of each unit
        self._slots: list[dict[int, int]] = []  # what is read of each: slot -> place among these
        known: dict[tuple[int, bytes], int] = {}

        def unit(owner: int, item: Prepared) -> tuple[int, int]:
            place = known.setdefault((owner, item.key), len(self._units))
            if place == len(self._units):
                self._units.append(item)
                self._owners.append(owner)
                self._slots.append({0: 0})
            slots = self._slots[place]
            return place, slots.setdefault(item.slot, len(slots))

        base = [unit(i, sample.original) for i, sample in enumerate(samples)]
        views = {
            name: [[unit(i, v) for v in sample.views[name]] for i, sample in enumerate(samples)]
            for name in (samples[0].views if samples else {})
        }
        # Rows of the embeddings, of which every unit has as many as the one with most slots.
        self._width = max(map(len, self._slots), default=1)
        self._base = torch.tensor([u * self._width + place for u, place in base])
        self._views = {
            name: torch.tensor([[u * self._width + place for u, place in row] for row in rows])
            for name, rows in views.items()
        }
        late: dict[int, list[int]] = {}  # number of blocks that late views run through -> units
        whole: list[int] = []
        for place, item in enumerate(self._units):
            (whole if item.late is None else late.setdefault(item.late, [])).append(place)
        if late and plan.traced.keys() - {plan.encoder.layer_path}:
            raise ConfigError(
                "many layers at once need views of the raw input, since late views reach the last "
                "blocks only; set late_views=None"
            )
        # Originals apart from views, so that a pullback touches its objective's batches only;
        # together where the graph is one token's, which a larger batch outweighs.
        first = len(whole) if plan.encoder.uses_short_last_block else self._n
        self._segments = list(self._encode(whole[:first], late, dict(plan.activations.values())))
        if first < len(whole):
            self._segments += self._encode(whole[first:], {}, {})
        self._embeddings = _by_unit(
            self._segments, [segment.tape.embeddings for segment in self._segments]
        ).flatten(0, 1)

    def _encode(
        self,
        places: Sequence[int],
        depths: Mapping[int, Sequence[int]],
        noted: Mapping[str, nn.Module],
    ) -> Iterator[_Segment]:
        """Encode whole inputs, and after each batch the late views of the originals in it."""
        plan, encoder = self._plan, cast("LateEncoder", self._plan.encoder)
        for here in self._batches(places):
            batch = encoder.collate([self._units[place] for place in here])
            with encoder.watching(depths) if depths else nullcontext({}) as states:
                tape = record(
                    partial(self._read, here, batch),
                    plan.traced,
                    noted=noted,
                    pool=pooler_of(encoder, batch, strict=not plan.layers) if noted else None,
                )
            self.unusable |= tape.unusable
            yield _Segment(torch.tensor(here), tape)
            rows = {owner: row for row, owner in enumerate(here)}  # an original's unit: its sample
            for k, views in depths.items():
                mine = [place for place in views if self._owners[place] in rows]
                hidden = states.pop(k)  # [M, T, D] before the last k blocks
                for some in self._batches(mine):
                    kept = np.zeros((len(some), hidden.shape[1]), dtype=np.bool_)
                    for row, place in enumerate(some):
                        kept[row, self._units[place].data] = True
                    source = [rows[self._owners[place]] for place in some]
                    views_of = LateBatch(
                        blocks=k,
                        hidden=hidden,
                        inputs=batch,
                        source=torch.tensor(source, device=hidden.device),
                        kept=torch.from_numpy(kept).to(hidden.device),
                    )
                    tape = record(partial(_late, encoder, views_of), plan.traced)
                    yield _Segment(torch.tensor(some), tape)

    def _read(self, places: Sequence[int], batch: Batch) -> Tensor:
        # Embedding and wanted tokens of every input, [N, S, D].
        encoder = self._plan.encoder
        if not self._plan.reads_tokens:
            return encoder.embed(batch)[:, None]
        tokens = cast("TokenEncoder", encoder).embed_tokens(batch)
        slots = torch.zeros(len(places), self._width, dtype=torch.long)
        for row, place in enumerate(places):
            slots[row, : len(self._slots[place])] = torch.tensor(list(self._slots[place]))
        return tokens[torch.arange(len(places))[:, None], slots]

    def _batches(self, places: Sequence[int]) -> list[list[int]]:
        batches = cut_batches([self._units[place] for place in places], self._budget)
        return [[places[i] for i in chosen] for chosen in batches]

    def write(
        self,
        blocks: Mapping[str, Tensor],
        buffers: Mapping[str, SketchBuffer],
        lost: dict[str, float],
    ) -> None:
        """Put raw blocks into their rows of a chunk's blocks, sketched ones through buffers."""
        plan = self._plan
        blocks["embedding"][self.rows] = self.embeddings().float().cpu()
        pooled = self.activations()
        for name, (path, _) in plan.activations.items():
            blocks[name][self.rows] = pooled[path].float().cpu()
        for name in plan.objectives:
            factors = self.factors(name)[plan.encoder.layer_path]
            if name in buffers:
                buffers[name].add(self.rows, factors)
            else:
                block, dropped = compress(factors, plan.rank)
                lost[name] = max(float(dropped.max()), lost.get(name, 0.0))
                blocks[name][self.rows] = block.float().cpu()

    def embeddings(self) -> Tensor:
        """Give the embeddings of the untouched inputs, [B, D]."""
        return self._embeddings[self._base.to(self._embeddings.device)]

    def view_embeddings(self, name: str) -> Tensor:
        """Give one objective's view embeddings, [B, V, D], for its `fit`."""
        return self._embeddings[self._views[name].to(self._embeddings.device)]

    def activations(self) -> dict[str, Tensor]:
        """Give the pooled input of every noted layer that has one, path -> [B, n]."""
        noted = [segment for segment in self._segments if segment.tape.pooled]
        found = {}
        for path in noted[0].tape.pooled if noted else ():
            rows = _by_unit(noted, [segment.tape.pooled[path] for segment in noted])
            found[path] = rows[(self._base // self._width).to(rows.device)]
        return found

    def factors(self, name: str) -> dict[str, LayerFactors]:
        """Give the exact gradients of one objective, path -> factors, for every layer with any."""
        gradient, used = self._embedding_gradient(name)
        found: dict[str, LayerFactors] = {}
        owners, tokens = torch.tensor(self._owners), self._plan.tokens
        for segment in self._segments:
            if not used[segment.units].any():
                continue
            here = gradient[segment.units.to(gradient.device)]
            parts = segment.tape.pull_back(here, owners[segment.units], self._n, tokens=tokens)
            for path, part in parts.items():
                found[path] = concatenate([found[path], part]) if path in found else part
            self.unusable |= segment.tape.unusable
        return found

    def _embedding_gradient(self, name: str) -> tuple[Tensor, Tensor]:
        # Of an objective's summed loss at all embeddings, [U, S, D], and which units it read, [U].
        rows = self._views.get(name, self._base[:, None])
        with torch.enable_grad():
            leaf = exact_leaf(self._embeddings)
            losses = self._plan.objectives[name].loss(leaf[rows.to(leaf.device)])
            if losses.shape != (self._n,):
                raise ObjectiveError(
                    f"objective {name!r} must give one loss per sample, shape ({self._n},); "
                    f"got {tuple(losses.shape)}"
                )
            (gradient,) = torch.autograd.grad(losses.sum(), leaf)
        used = torch.zeros(len(self._units), dtype=torch.bool)
        used[rows.flatten() // self._width] = True
        return gradient.unflatten(0, (-1, self._width)), used


def exact_leaf(embeddings: Tensor) -> Tensor:
    """Give embeddings to differentiate by, in float64 where the device has it.

    Heads and losses need it: the KL gradient loses three digits to cancellation.
    """
    leaf = embeddings.detach()
    return (leaf.float() if leaf.device.type == "mps" else leaf.double()).requires_grad_()


def _late(encoder: LateEncoder, views: LateBatch) -> Tensor:
    return encoder.embed_late(views)[:, None]


def pooler_of(
    encoder: Encoder, batch: Batch, *, strict: bool = True
) -> Callable[[str, Tensor], Tensor | None]:
    """Give what pools a layer's input [N, T, n] as the embeddings of a batch are pooled.

    An input that has not the batch's tokens is a LayerUseError if `strict`, else it gives None.
    """

    def pool(path: str, a: Tensor) -> Tensor | None:
        try:
            return encoder.pool_activation(a, batch)
        except (RuntimeError, IndexError):
            if not strict:
                return None
            raise LayerUseError(
                f"the input of layer {path!r} has shape {tuple(a.shape)}, which cannot be pooled "
                f"as the embedding is ({encoder.pooling}); choose a layer of the encoder's blocks"
            ) from None

    return pool


def _by_unit(segments: Sequence[_Segment], parts: Sequence[Tensor]) -> Tensor:
    """Join rows of segments in the order of the units."""
    rows = torch.cat(list(parts))
    order = torch.cat([segment.units for segment in segments]).to(rows.device)
    return torch.empty_like(rows).index_copy_(0, order, rows)
