"""Dense features: samples to raw blocks of every patch, word or frame, and to `DenseFeatures`."""

from __future__ import annotations

import itertools
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any, Final, Self, cast

import numpy as np
import torch
from tqdm.auto import tqdm

from fungi_hf.dense import DenseFeatures, unit_concatenation
from fungi_hf.devices import sent
from fungi_hf.errors import FeatureError, LayerUseError
from fungi_hf.extraction.batches import cut_batches
from fungi_hf.extraction.group import Chunk, exact_leaf
from fungi_hf.extraction.inputs import warn_of
from fungi_hf.gradients.factors import compress
from fungi_hf.gradients.tape import record, untouched

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from torch import Tensor

    from fungi_hf.encoders.base import DenseEncoder
    from fungi_hf.encoders.regions import Regions
    from fungi_hf.extraction.batches import Budget, Sample
    from fungi_hf.extraction.finish import Finisher
    from fungi_hf.extraction.inputs import Reading
    from fungi_hf.extraction.plan import Plan
    from fungi_hf.features import Failure
    from fungi_hf.gradients.factors import LayerFactors
    from fungi_hf.objectives.dense import TokenObjective

_RUN_TOKENS: Final = 4096  # of inputs whose blocks are in memory together


def dense_features(
    reading: Reading,
    plan: Plan,
    finisher: Finisher,
    budget: Budget,
    fingerprint: str,
    *,
    progress: bool = False,
) -> Iterator[DenseFeatures]:
    """Give the features of one input after the other, in order."""
    with tqdm(total=reading.n_inputs, disable=not progress, unit="input") as bar:
        for samples in reading:
            for some in runs(samples):
                yield from _finished(some, reading, plan, finisher, budget, fingerprint)
                bar.update(len(some))
            bar.update(reading.n_read - bar.n)


class DenseStream:
    """An iterator over the dense features of inputs, read as it is asked for."""

    def __init__(self, features: Iterator[DenseFeatures], reading: Reading) -> None:
        self._features, self._reading, self._is_over = features, reading, False

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> DenseFeatures:
        try:
            return next(self._features)
        except StopIteration:
            if not self._is_over:
                self._is_over = True
                warn_of(self._reading.notes, self._reading.encoder)
            raise

    @property
    def failures(self) -> tuple[Failure, ...]:
        """Inputs that were left out so far, in order."""
        return tuple(sorted(self._reading.failures, key=lambda failure: failure.index))


def _finished(
    samples: Sequence[Sample],
    reading: Reading,
    plan: Plan,
    finisher: Finisher,
    budget: Budget,
    fingerprint: str,
) -> Iterator[DenseFeatures]:
    found = raw_blocks(samples, plan, budget)
    for sample, rows in zip(samples, cut(found, samples), strict=True):
        if not all(block.isfinite().all() for block in rows.values()):
            error = "the dense features hold NaN or Inf; check weights and dtype"
            reading.leave_out(sample, FeatureError(f"input {reading.number(sample)}: {error}"))
            continue
        array = finisher.finish(rows)
        parts = {name: array[:, columns] for name, columns in finisher.layout.items()}
        unit, layout = unit_concatenation(parts, plan.factor_shapes)
        regions = regions_of(sample)
        yield DenseFeatures(
            *(unit, regions.grid, layout, fingerprint, reading.source(sample)),
            spans=regions.spans,
            factors=dict(plan.factor_shapes),
            index=reading.number(sample),
        )


def runs(samples: Sequence[Sample]) -> Iterator[list[Sample]]:
    """Cut samples, in order, into runs of a bounded number of tokens, or one sample."""
    some: list[Sample] = []
    for sample in samples:
        if some and sum(one.original.cost for one in (*some, sample)) > _RUN_TOKENS:
            yield some
            some = []
        some.append(sample)
    if some:
        yield some


def cut(blocks: dict[str, Tensor], samples: Sequence[Sample]) -> Iterator[dict[str, Tensor]]:
    """Cut blocks of all parts into those of each sample."""
    sizes = [len(regions_of(sample)) for sample in samples]
    pieces = [block.split(sizes) for block in blocks.values()]
    return (dict(zip(blocks, some, strict=True)) for some in zip(*pieces, strict=True))


def raw_blocks(samples: Sequence[Sample], plan: Plan, budget: Budget) -> dict[str, Tensor]:
    """Give the raw blocks of all parts of some samples, [sum of T, width] float32 on the CPU."""
    sizes = [len(regions_of(sample)) for sample in samples]
    ends = np.cumsum(sizes)
    with untouched(plan.encoder.model):
        chunk = Chunk(int(ends[-1]), plan)
        blocks = chunk.blocks
        for places in _batches(samples, plan, budget):
            batch = EncodedParts([samples[place] for place in places], plan)
            ranges = [torch.arange(ends[place] - sizes[place], ends[place]) for place in places]
            rows = torch.cat(ranges)
            there = sent(rows, blocks[plan.base_block].device)
            blocks[plan.base_block][there] = batch.tokens().float()
            for name, (path, _) in plan.activations.items():
                blocks[name][there] = batch.activations(path).float()
            for objective in plan.objectives:
                found = batch.factors(objective)
                for name, one in plan.gradients.items():
                    if one.objective != objective:
                        continue
                    if name in chunk.buffers:
                        chunk.buffers[name].add(rows, found[one.path])
                    else:
                        kept, _ = compress(found[one.path], plan.rank)
                        blocks[name][there] = kept.float()
        return chunk.finished()


def token_rows(samples: Sequence[Sample], plan: Plan, budget: Budget) -> list[Tensor]:
    """Give the plain tokens of each sample's parts, [R, D] float32 on the CPU."""
    found: dict[int, Tensor] = {}
    bare = plan.bare()
    with untouched(plan.encoder.model):
        for places in _batches(samples, plan, budget):
            batch = EncodedParts([samples[place] for place in places], bare)
            for row, place in enumerate(places):
                found[place] = batch.read(row)[1:].float().cpu()
    return [found[place] for place in range(len(samples))]


def regions_of(sample: Sample) -> Regions:
    """Give the regions that a dense config's reader has put there."""
    return cast("Regions", sample.regions)


def _batches(samples: Sequence[Sample], plan: Plan, budget: Budget) -> list[list[int]]:
    # A token's neighbours in the support are chosen by cosines that may be as good as equal: one
    # input at a time, so that rounding is the same whatever stands beside it.
    alone = replace(budget, batch_size=1) if plan.objectives else budget
    return cut_batches([sample.original for sample in samples], alone)


class EncodedParts:
    """One batch of inputs, encoded; the model must be held by `untouched`."""

    def __init__(self, samples: Sequence[Sample], plan: Plan) -> None:
        self._samples, self._plan = samples, plan
        encoder = cast("DenseEncoder", plan.encoder)
        batch = encoder.collate([sample.original for sample in samples])
        self._tape = record(
            partial(encoder.embed_tokens, batch),
            plan.traced,
            noted=dict(plan.activations.values()),
            pool=(lambda _, a: a) if plan.activations else None,
        )
        self._embeddings = self._tape.embeddings  # [n, 1 + T, D]
        sizes = [len(regions_of(sample)) for sample in samples]
        self._n = sum(sizes)
        self._first = encoder.first_token
        # The part of every token [n, T], counted through the batch, -1 for none.
        owners = torch.full((len(samples), self._embeddings.shape[1] - 1), -1)
        starts = itertools.accumulate(sizes[:-1], initial=0)
        for row, (sample, start) in enumerate(zip(samples, starts, strict=True)):
            regions = regions_of(sample)
            owners[row, torch.from_numpy(regions.tokens)] = start + torch.from_numpy(regions.owners)
        self._owners = owners

    def tokens(self) -> Tensor:
        """Give the mean of every part's tokens, [sum of T, D]."""
        return self._mean(self._embeddings[:, 1:])

    def read(self, row: int) -> Tensor:
        """Give the embedding of an input and the tokens of its parts, [1 + R, D]."""
        return self._embeddings[row, self._read(row)]

    def activations(self, path: str) -> Tensor:
        """Give the mean of a layer's inputs at every part's tokens, [sum of T, n]."""
        a = self._tape.pooled[path]
        self._check(path, a.shape[1])
        return self._mean(a[:, self._first :])

    def factors(self, name: str) -> dict[str, LayerFactors]:
        """Give the exact gradients of one objective for every part, layer -> factors.

        Raises:
            LayerUseError: If a layer has none, or has not the parts' tokens.
        """
        objective, paths = self._plan.objectives[name], self._plan.paths_of(name)
        for path in paths or ():
            if path in self._tape.unusable:
                raise LayerUseError(f"layer {path!r} {self._tape.unusable[path]}; choose another")
            self._check(path, self._tape.n_tokens(path))
        gradient = torch.zeros_like(self._embeddings)
        for row, sample in enumerate(self._samples):
            if not len(regions_of(sample)):
                continue
            with torch.enable_grad():
                leaf = exact_leaf(self.read(row), objective)
                loss = cast("TokenObjective", objective).loss(leaf, sample.content)
                (own,) = torch.autograd.grad(loss, leaf)
            gradient[row, self._read(row)] = own.to(gradient.dtype)
        owners = torch.nn.functional.pad(self._owners, (self._first, 0), value=-1)
        return self._tape.pull_back(gradient, owners, self._n, paths=paths)

    def _read(self, row: int) -> Tensor:
        tokens = torch.from_numpy(regions_of(self._samples[row]).tokens)
        return sent(torch.cat([tokens.new_zeros(1), 1 + tokens]), self._embeddings.device)

    def _check(self, path: str, n_tokens: int) -> None:
        expected = self._first + self._owners.shape[1]
        if n_tokens != expected:
            raise LayerUseError(
                f"layer {path!r} was given {n_tokens} tokens an input and the encoder has "
                f"{expected}, so its tokens are not those of the parts; choose a layer of the "
                "encoder's blocks"
            )

    def _mean(self, states: Tensor) -> Tensor:
        flat = self._owners.flatten()
        owned = (flat >= 0).nonzero()[:, 0]
        owners, device = flat[owned], states.device
        rows = states.flatten(0, 1)[sent(owned, device)]
        wide: Any = torch.promote_types(rows.dtype, torch.float32)
        total = rows.new_zeros(self._n, rows.shape[1], dtype=wide)
        total.index_add_(0, sent(owners, device), rows.to(wide))
        return total / sent(torch.bincount(owners, minlength=self._n), device)[:, None]
