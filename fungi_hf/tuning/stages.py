"""The stages of a choice: raw blocks -> transformed blocks -> outcomes of votes -> one candidate.

Invariant: nothing is read but the rows that vote.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol, TypeAlias

import numpy as np
import torch

from fungi_hf.extraction.reduction import PrincipalComponents, centred_alone
from fungi_hf.gradients.factors import unit_rows
from fungi_hf.neighbors.shots import draw_few
from fungi_hf.tuning.candidates import EMBEDDING, Candidate, Outcome, costs
from fungi_hf.tuning.selection import choose, leader
from fungi_hf.tuning.votes import leave_one_out

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from torch import Tensor

    from fungi_hf.tuning.candidates import Transform, Weights
    from fungi_hf.tuning.search import Space, TuningSearch
    from fungi_hf.types import Float32Array, Int64Array

Blocks: TypeAlias = dict[str, "Float32Array"]
_REDUCED = "reduced"
FEW_ROWS = 10  # of each class, where nearly all rows are right; also the number of neighbours
FEW_DRAWS = 3


class RawRows(Protocol):
    """Raw blocks, [N, width] each, of the rows that vote; computed when asked for."""

    def scans(self) -> Iterator[tuple[str, Blocks]]:
        """Give every pooling, the extractor's own first, with the embedding and activations."""

    def gradients(self, pooling: str) -> Blocks:
        """Give all blocks at the target layer; none where that pooling allows no gradient."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Voters:
    """The rows that vote.

    Attributes:
        codes: [N] class numbers.
        groups: [N] group numbers; rows of one group never vote for each other.
        n_neighbors: K.
        few: Draws of row numbers: where there are any, candidates are compared by the votes of
            each draw, since with all rows nearly all are right.
    """

    codes: Int64Array
    groups: Int64Array
    n_neighbors: int
    few: tuple[Int64Array, ...] = ()

    @classmethod
    def of(cls, codes: Int64Array, groups: Int64Array, search: TuningSearch) -> Voters:
        """Let all rows vote; with more neighbours than half the rows other classes always win."""
        k = min(search.n_neighbors, max(1, len(codes) // 2))
        return cls(codes=codes, groups=groups, n_neighbors=k)

    def outcomes(
        self, candidates: Sequence[Candidate], blocks: Blocks, weights: Sequence[Weights]
    ) -> list[Outcome]:
        """Classify every row by the others, for each candidate with its weights of blocks."""
        codes, groups, k = self.codes, self.groups, self.n_neighbors
        right = leave_one_out(blocks, weights, codes, groups, k)
        shares = right.astype(np.float64)
        if self.few:
            k = min(FEW_ROWS, k)
            draws = [leave_one_out(blocks, weights, codes, groups, k, few) for few in self.few]
            shares = np.mean(draws, axis=0)
        return [Outcome(*each) for each in zip(candidates, right, shares, strict=True)]


def decide(
    rows: RawRows, space: Space, voters: Voters, search: TuningSearch
) -> tuple[list[Outcome], int, Voters]:
    """Score what may be chosen and choose.

    Gradients are taken at the target layer with the best pooling so far: at an earlier layer every
    token carries a gradient, which costs several times more.

    Returns:
        All outcomes, the plain embedding with the extractor's own pooling first, PCAs last; the
        position of the chosen one; how rows voted.
    """
    raw: dict[str, Blocks] = {}
    found: list[Outcome] = []
    cheap = search.cheap_combinations(space)
    for pooling, blocks in rows.scans():
        if not raw:
            voters = _at_ceiling(voters, blocks[EMBEDDING], search)
        raw[pooling] = blocks
        found += _judged(
            Candidate(pooling=pooling, layer=space.layer), blocks, cheap, voters, search
        )
    if space.gradients:
        plain = max(found, key=lambda one: one.share.mean()).candidate
        if gradients := rows.gradients(plain.pooling):
            raw[plain.pooling] |= gradients
            combinations = search.gradient_combinations(space)
            found += _judged(plain, raw[plain.pooling], combinations, voters, search)
    first = leader(found, costs(found, space.specs), search)
    parent = found[choose(found, first, search)].candidate
    found += _reduced(parent, raw[parent.pooling], voters, search)
    return found, choose(found, first, search), voters


def _at_ceiling(voters: Voters, embedding: Float32Array, search: TuningSearch) -> Voters:
    """Let few rows vote where the plain embedding has nearly all right by the votes of all."""
    blocks = {EMBEDDING: unit_rows(torch.from_numpy(embedding)).numpy()}
    alone = [((EMBEDDING, 1.0),)]
    right = leave_one_out(blocks, alone, voters.codes, voters.groups, voters.n_neighbors)
    if right[0].mean() < search.ceiling:
        return voters
    seeds = range(search.seed, search.seed + FEW_DRAWS)
    few = tuple(draw_few(voters.codes, FEW_ROWS, seed) for seed in seeds)
    return dataclasses.replace(voters, few=few)


def _judged(
    like: Candidate,
    blocks: Blocks,
    combinations: Sequence[Weights],
    voters: Voters,
    search: TuningSearch,
) -> list[Outcome]:
    """Judge combinations under every transform."""
    found = []
    directions = {name: unit_rows(torch.from_numpy(rows)) for name, rows in blocks.items()}
    for transform in search.transforms:
        moved = _moved(directions, transform)
        candidates = [
            dataclasses.replace(like, transform=transform, weights=weights)
            for weights in combinations
        ]
        found += voters.outcomes(candidates, moved, combinations)
    return found


def _reduced(
    parent: Candidate, blocks: Blocks, voters: Voters, search: TuningSearch
) -> list[Outcome]:
    """Judge PCAs of a candidate."""
    directions = {name: unit_rows(torch.from_numpy(blocks[name])) for name, _ in parent.weights}
    moved = _moved(directions, parent.transform)
    parts = [weight**0.5 * moved[name] for name, weight in parent.weights]
    rows = torch.from_numpy(np.concatenate(parts, axis=1, dtype=np.float32))
    found = []
    for n_components in search.components:
        if n_components < min(rows.shape):
            pca = PrincipalComponents.fit(rows, n_components)
            reduced = {_REDUCED: unit_rows(pca.transform(rows)).numpy()}
            candidate = dataclasses.replace(parent, components=n_components)
            found += voters.outcomes([candidate], reduced, [((_REDUCED, 1.0),)])
    return found


def _moved(directions: Mapping[str, Tensor], transform: Transform) -> Blocks:
    """Centre and whiten blocks of unit rows as `Finisher` does."""
    if transform.center or transform.whitening:
        directions = centred_alone(directions, transform.whitening)
    return {name: rows.numpy() for name, rows in directions.items()}
