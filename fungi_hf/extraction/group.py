"""One group of samples from model inputs to raw blocks: encode once, one pullback per objective."""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, cast

import numpy as np
import torch
from tqdm.auto import tqdm

from fungi_hf.devices import received, sent
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
                chunk = Chunk(len(samples), plan)
                for some in cut_groups(samples, budget):
                    Group(some, plan, budget).write(chunk)
                    bar.update(len(some))
                blocks = chunk.finished()
            for name, shares in chunk.lost.items():
                lost[name] = max(lost.get(name, 0.0), *map(float, shares))
            yield blocks
            bar.update(reading.n_read - bar.n)


class Chunk:
    """The raw blocks of a chunk's samples, on the encoder's device until all are there.

    Attributes:
        blocks: Name -> [N, width] float32.
        buffers: Name -> what writes a sketched block.
        lost: Block of exact factors -> shares of squared norms dropped, a tensor a group.
    """

    def __init__(self, n_samples: int, plan: Plan) -> None:
        """Allocate one buffer, which comes back in one copy."""
        device = next(plan.encoder.model.parameters()).device
        self._sizes = {name: n_samples * width for name, width in plan.widths.items()}
        self._flat = torch.empty(sum(self._sizes.values()), dtype=torch.float32, device=device)
        self._n = n_samples
        self.blocks = self._cut(self._flat)
        self.lost: dict[str, list[Tensor]] = {}
        self.buffers = {
            name: SketchBuffer(one.sketch, self.blocks[name], rounded=plan.round_sketch)
            for name, one in plan.gradients.items()
            if one.sketch is not None
        }

    def _cut(self, flat: Tensor) -> dict[str, Tensor]:
        parts = flat.split(list(self._sizes.values()))
        return {name: part.view(self._n, -1) for name, part in zip(self._sizes, parts, strict=True)}

    def flush(self) -> None:
        """Sketch what waits."""
        for buffer in self.buffers.values():
            buffer.flush()

    def finished(self) -> dict[str, Tensor]:
        """Give all blocks on the CPU."""
        self.flush()
        return self._cut(received(self._flat))


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
        if late and plan.layers.keys() - {plan.encoder.layer_path}:
            raise ConfigError(
                "many layers at once need views of the raw input, since late views reach the last "
                "blocks only; set late_views=None"
            )
        # Originals apart from views, so that a pullback touches its objective's batches only;
        # together where the graph is one token's, which a larger batch outweighs.
        first = len(whole) if plan.is_shallow else self._n
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
                hidden = states.pop(k).detach()  # [M, T, D] before the last k blocks
                for some in self._batches(mine):
                    kept = np.zeros((len(some), hidden.shape[1]), dtype=np.bool_)
                    for row, place in enumerate(some):
                        kept[row, self._units[place].data] = True
                    source = [rows[self._owners[place]] for place in some]
                    views_of = LateBatch(
                        blocks=k,
                        hidden=hidden,
                        inputs=batch,
                        source=torch.tensor(source),
                        kept=torch.from_numpy(kept),
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
        rows = torch.arange(len(places), device=tokens.device)[:, None]
        return tokens[rows, sent(slots, tokens.device)]

    def _batches(self, places: Sequence[int]) -> list[list[int]]:
        batches = cut_batches([self._units[place] for place in places], self._budget)
        return [[places[i] for i in chosen] for chosen in batches]

    def write(self, chunk: Chunk) -> None:
        """Put raw blocks into their rows of a chunk's blocks; nothing waits for the device."""
        plan, blocks = self._plan, chunk.blocks
        there = sent(self.rows, self._embeddings.device)
        blocks["embedding"][there] = self.embeddings().float()
        pooled = self.activations()
        for name, (path, _) in plan.activations.items():
            blocks[name][there] = pooled[path].float()
        for objective in plan.objectives:
            found = self.factors(objective)
            for name, one in plan.gradients.items():
                if one.objective != objective:
                    continue
                if name in chunk.buffers:
                    chunk.buffers[name].add(self.rows, found[one.path])
                else:
                    block, dropped = compress(found[one.path], plan.rank)
                    chunk.lost.setdefault(name, []).append(dropped.max())
                    blocks[name][there] = block.float()

    def embeddings(self) -> Tensor:
        """Give the embeddings of the untouched inputs, [B, D]."""
        return self._embeddings[sent(self._base, self._embeddings.device)]

    def view_embeddings(self, name: str) -> Tensor:
        """Give one objective's view embeddings, [B, V, D], for its `fit`."""
        return self._embeddings[sent(self._views[name], self._embeddings.device)]

    def activations(self) -> dict[str, Tensor]:
        """Give the pooled input of every noted layer that has one, path -> [B, n]."""
        noted = [segment for segment in self._segments if segment.tape.pooled]
        found = {}
        for path in noted[0].tape.pooled if noted else ():
            rows = _by_unit(noted, [segment.tape.pooled[path] for segment in noted])
            found[path] = rows[sent(self._base // self._width, rows.device)]
        return found

    def factors(self, name: str) -> dict[str, LayerFactors]:
        """Give the exact gradients of one objective, path -> factors, in one pass back.

        They are of the layers that the plan wants; of many layers, of those that have any.

        Raises:
            LayerUseError: If a wanted layer has none in one of the passes.
        """
        gradient, used = self._embedding_gradient(name)
        found: dict[str, LayerFactors] = {}
        owners, tokens = torch.tensor(self._owners), self._plan.tokens
        wanted = self._plan.paths_of(name)
        for segment in self._segments:
            if not used[segment.units].any():
                continue
            here = gradient[sent(segment.units, gradient.device)]
            parts = segment.tape.pull_back(
                here, owners[segment.units], self._n, tokens=tokens, paths=wanted
            )
            for path in wanted or ():
                if path not in parts:
                    why = segment.tape.unusable[path]
                    raise LayerUseError(f"layer {path!r} {why}; choose another layer")
            for path, part in parts.items():
                found[path] = concatenate([found[path], part]) if path in found else part
            self.unusable |= segment.tape.unusable
        return found

    def _embedding_gradient(self, name: str) -> tuple[Tensor, Tensor]:
        # Of an objective's summed loss at all embeddings, [U, S, D], and which units it read, [U].
        rows = self._views.get(name, self._base[:, None])
        with torch.enable_grad():
            objective = self._plan.objectives[name]
            leaf = exact_leaf(self._embeddings, objective)
            losses = objective.loss(leaf[sent(rows, leaf.device)])
            if losses.shape != (self._n,):
                raise ObjectiveError(
                    f"objective {name!r} must give one loss per sample, shape ({self._n},); "
                    f"got {tuple(losses.shape)}"
                )
            (gradient,) = torch.autograd.grad(losses.sum(), leaf)
        used = torch.zeros(len(self._units), dtype=torch.bool)
        used[rows.flatten() // self._width] = True
        return gradient.unflatten(0, (-1, self._width)), used


def exact_leaf(embeddings: Tensor, objective: object = None) -> Tensor:
    """Give embeddings to differentiate a loss by: in float64 on the CPU.

    On other devices, where float64 may be slow by a factor of 64 (and "mps" has none), in float32,
    if the objective says by `needs_float64` that this is enough.
    """
    leaf, device = embeddings.detach(), embeddings.device.type
    wide = device == "cpu" or (device != "mps" and getattr(objective, "needs_float64", True))
    return (leaf.double() if wide else leaf.float()).requires_grad_()


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
    order = sent(torch.cat([segment.units for segment in segments]), rows.device)
    return torch.empty_like(rows).index_copy_(0, order, rows)
