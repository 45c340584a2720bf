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
from fungi_hf.tuning.candidates import EMBEDDING, FIRST_GRADIENT, Candidate, Outcome, costs, lead
from fungi_hf.tuning.votes import leave_one_out

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from torch import Tensor

    from fungi_hf.tuning.candidates import Transform, Weights
    from fungi_hf.tuning.search import Space, TuningSearch
    from fungi_hf.types import Float32Array, Float64Array, Int64Array

Blocks: TypeAlias = dict[str, "Float32Array"]
_OWN = 0.5  # share of a candidate's own score in its smoothed one
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
    """The rows that vote."""

    codes: Int64Array  # [N] class numbers
    groups: Int64Array  # [N] group numbers; rows of one group never vote for each other
    n_neighbors: int
    # Draws of row numbers: where there are any, candidates are compared by the votes of each draw,
    # since with all rows nearly all are right.
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
    token carries a gradient, which costs several times more. Gives all outcomes, the plain
    embedding with the extractor's own pooling first, PCAs last; the position of the chosen one;
    how rows voted.
    """
    raw: dict[str, Blocks] = {}
    found: list[Outcome] = []
    cheap = search.cheap_combinations(space)
    for pooling, blocks in rows.scans():
        if not raw:
            voters = _at_ceiling(voters, blocks[EMBEDDING], search)
        raw[pooling] = blocks
        plain = Candidate(pooling=pooling, layer=space.layer)
        found += _judged(plain, blocks, cheap, voters, search)
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
        some = [dataclasses.replace(like, transform=transform, weights=w) for w in combinations]
        found += voters.outcomes(some, _moved(directions, transform), combinations)
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
            reduced = {"reduced": unit_rows(pca.transform(rows)).numpy()}
            candidate = dataclasses.replace(parent, components=n_components)
            found += voters.outcomes([candidate], reduced, [(("reduced", 1.0),)])
    return found


def _moved(directions: Mapping[str, Tensor], transform: Transform) -> Blocks:
    """Centre and whiten blocks of unit rows as `Finisher` does."""
    if transform.center or transform.whitening:
        directions = centred_alone(directions, transform.whitening)
    return {name: rows.numpy() for name, rows in directions.items()}


def leader(outcomes: Sequence[Outcome], ranks: Int64Array, search: TuningSearch) -> int:
    """Give the position of the best candidate without a PCA.

    The best of many noisy scores is partly luck; what is good is seldom alone. So candidates are
    compared by the mean of their own score and of their neighbours' (`smoothed`). Of those without
    gradients the best is taken. One with gradients of the untouched input, then of views, takes its
    place if it leads by more than one standard error of the paired difference and by more than
    `min_gain`. The plain embedding comes first; `ranks` are the candidates' costs.
    """
    whole = [i for i, one in enumerate(outcomes) if one.candidate.components is None]
    score = smoothed([outcomes[i] for i in whole], search)
    steps = (0, FIRST_GRADIENT, FIRST_GRADIENT + 2)
    chosen = 0
    for low, high in zip(steps, (*steps[1:], np.inf), strict=True):
        places = np.flatnonzero((ranks[whole] >= low) & (ranks[whole] < high))
        if not len(places):
            continue
        best = int(places[score[places].argmax()])
        error = lead(outcomes[whole[best]].share, outcomes[whole[chosen]].share)[1]
        if low == 0 or score[best] - score[chosen] > max(error, search.min_gain):
            chosen = best
    return whole[chosen]


def choose(outcomes: Sequence[Outcome], first: int, search: TuningSearch) -> int:
    """Give the position of the chosen candidate: the leader, a PCA of it, or the plain embedding.

    A PCA takes the leader's place if it leads by more than one standard error and by more than
    `min_gain`. The plain embedding, the first outcome, stays where nothing has a higher share than
    it, and where one standard error below the gain lies a loss of more than `max_risk`. `first` is
    the position of the leader.
    """
    position, parent = first, outcomes[first].candidate
    for i, one in enumerate(outcomes):
        reduced = one.candidate.components is not None
        if reduced and dataclasses.replace(one.candidate, components=None) == parent:
            ahead, error = map(float, lead(one.share, outcomes[position].share))
            if ahead > max(error, search.min_gain):
                position = i
    gains, errors = lead(np.stack([one.share for one in outcomes]), outcomes[0].share)
    is_risky = gains[position] - errors[position] < -search.max_risk
    return 0 if is_risky or gains.max() <= 0 else position


def smoothed(outcomes: Sequence[Outcome], search: TuningSearch) -> Float64Array:
    """Give the mean of each candidate's own score and the mean of its neighbours', [candidates].

    Neighbours share the pooling, and either the weights, under the next transform, or the
    transform, with one block's weight changed (to or from nothing, too).
    """
    own = np.array([outcome.share.mean() for outcome in outcomes])
    order = {transform: place for place, transform in enumerate(search.transforms)}
    weights = [dict(o.candidate.weights) for o in outcomes]
    blocks = sorted({name for some in weights for name in some})
    table = np.array([[some.get(name, 0.0) for name in blocks] for some in weights])
    pooling = np.array([o.candidate.pooling for o in outcomes])
    transform = np.array([order[o.candidate.transform] for o in outcomes])
    result = own.copy()
    for i in range(len(outcomes)):
        steps = (table != table[i]).sum(1) + np.abs(transform - transform[i])  # one of either
        near = (pooling == pooling[i]) & (steps == 1)
        if near.any():
            result[i] = _OWN * own[i] + (1 - _OWN) * own[near].mean()
    return result
