"""The stages of a choice: raw blocks -> transformed blocks -> outcomes of votes -> one candidate.

Invariant: nothing is read but the rows that vote. What is cheap decides first: activations, then
gradients of the untouched input, then, if they lead on a part of the rows, gradients of views.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol, TypeAlias

import numpy as np
import torch

from fungi_hf.extraction.reduction import PrincipalComponents, centred_alone
from fungi_hf.gradients.factors import unit_rows
from fungi_hf.neighbors.shots import draw_few
from fungi_hf.tuning.candidates import EMBEDDING, Candidate, Outcome, costs
from fungi_hf.tuning.choice import Rule, choose
from fungi_hf.tuning.combinations import cheap, with_gradients, with_views
from fungi_hf.tuning.evidence import held_out_gain
from fungi_hf.tuning.ridge import ridge_leave_out
from fungi_hf.tuning.sample import draw_rows
from fungi_hf.tuning.votes import leave_one_out

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from torch import Tensor

    from fungi_hf.tuning.candidates import Transform, Weights
    from fungi_hf.tuning.evidence import Evidence
    from fungi_hf.tuning.search import Space, TuningSearch
    from fungi_hf.types import Float32Array, Int64Array

Blocks: TypeAlias = dict[str, "Float32Array"]
FEW_ROWS = 10  # of each class, where nearly all rows are right; also the number of neighbours
FEW_DRAWS = 3


class RawRows(Protocol):
    """Raw blocks, [N, width] each, of the rows that vote; computed when asked for."""

    def scans(self) -> Iterator[tuple[str, Blocks]]:
        """Give every pooling, the extractor's own first, with the embedding and activations."""

    def gradients(
        self, pooling: str, names: Sequence[str], places: Int64Array | None = None
    ) -> Blocks:
        """Give the named blocks of gradients, of all rows or of those at some places.

        None are given where that pooling allows no gradient.
        """


@dataclass(frozen=True, slots=True, kw_only=True)
class Voters:
    """The rows that vote, or that a linear classifier is fitted on."""

    codes: Int64Array  # [N] class numbers
    groups: Int64Array  # [N] group numbers; rows of one group never vote for each other
    n_neighbors: int
    judge: str = "neighbors"
    # Draws of row numbers: where there are any, candidates are compared by the votes of each draw,
    # since with all rows nearly all are right.
    few: tuple[Int64Array, ...] = ()

    @classmethod
    def of(cls, codes: Int64Array, groups: Int64Array, search: TuningSearch) -> Voters:
        """Let all rows vote; with more neighbours than half the rows other classes always win."""
        k = min(search.n_neighbors, max(1, len(codes) // 2))
        return cls(codes=codes, groups=groups, n_neighbors=k, judge=search.judge)

    def subset(self, places: Int64Array) -> Voters:
        """Let some of the rows vote for each other."""
        k = min(self.n_neighbors, max(1, len(places) // 2))
        codes, groups = self.codes[places], self.groups[places]
        return dataclasses.replace(self, codes=codes, groups=groups, n_neighbors=k, few=())

    def outcomes(
        self, candidates: Sequence[Candidate], blocks: Blocks, weights: Sequence[Weights]
    ) -> list[Outcome]:
        """Classify every row by the others, for each candidate with its weights of blocks."""
        codes, groups, k = self.codes, self.groups, self.n_neighbors
        if self.judge == "linear":
            right = ridge_leave_out(blocks, weights, codes, groups)
        else:
            right = leave_one_out(blocks, weights, codes, groups, k)
        shares = right.astype(np.float64)
        if self.few:
            k = min(FEW_ROWS, k)
            draws = [leave_one_out(blocks, weights, codes, groups, k, few) for few in self.few]
            shares = np.mean(draws, axis=0)
        return [Outcome(*each) for each in zip(candidates, right, shares, strict=True)]


@dataclass(frozen=True, slots=True, kw_only=True)
class Decision:
    """What was chosen, and from what.

    Attributes:
        outcomes: The plain embedding with the extractor's own pooling first, PCAs last.
        position: Of the chosen one.
        voters: How rows voted.
        evidence: For leaving the plain embedding.
        raw: Pooling -> the blocks of the rows that voted.
        notes: Facts that a reader of the scores needs.
    """

    outcomes: list[Outcome]
    position: int
    voters: Voters
    evidence: Evidence
    raw: dict[str, Blocks]
    notes: list[str] = field(default_factory=list)

    @property
    def chosen(self) -> Candidate:
        """The chosen candidate."""
        return self.outcomes[self.position].candidate


def decide(rows: RawRows, space: Space, voters: Voters, search: TuningSearch) -> Decision:
    """Score what may be chosen and choose; gradients are taken with the best pooling so far."""
    raw: dict[str, Blocks] = {}
    found: list[Outcome] = []
    notes: list[str] = []
    for pooling, blocks in rows.scans():
        if not raw:
            voters = _at_ceiling(voters, blocks[EMBEDDING], search)
        raw[pooling] = blocks
        plain = Candidate(pooling=pooling, layer=space.layer)
        found += _judged(plain, blocks, cheap(search, space), voters, search)
    plain = max(found, key=lambda one: one.share.mean()).candidate
    here = raw[plain.pooling]
    if space.gradients and (gradients := rows.gradients(plain.pooling, space.gradients)):
        here |= gradients
        found += _judged(plain, here, with_gradients(search, space), voters, search)
    if space.views:
        found += _with_views(rows, plain, here, space, voters, search, notes)
    ranks = costs(found, space.specs)
    rule = Rule([one.candidate for one in found], ranks, search)
    shares = np.stack([one.share for one in found])
    evidence = held_out_gain(shares, voters.groups, rule, search.seed)
    first = rule(shares)
    parent = found[choose(found, first, search, evidence)].candidate
    found += _reduced(parent, raw[parent.pooling], voters, search)
    position = choose(found, first, search, evidence)
    return Decision(
        outcomes=found,
        position=position,
        voters=voters,
        evidence=evidence,
        raw=raw,
        notes=notes,
    )


def _at_ceiling(voters: Voters, embedding: Float32Array, search: TuningSearch) -> Voters:
    """Let few rows vote where the plain embedding has nearly all right by the votes of all."""
    if voters.judge == "linear":
        return voters
    blocks = {EMBEDDING: unit_rows(torch.from_numpy(embedding)).numpy()}
    alone = [((EMBEDDING, 1.0),)]
    right = leave_one_out(blocks, alone, voters.codes, voters.groups, voters.n_neighbors)
    if right[0].mean() < search.ceiling:
        return voters
    seeds = range(search.seed, search.seed + FEW_DRAWS)
    few = tuple(draw_few(voters.codes, FEW_ROWS, seed) for seed in seeds)
    return dataclasses.replace(voters, few=few)


def _with_views(
    rows: RawRows,
    plain: Candidate,
    blocks: Blocks,
    space: Space,
    voters: Voters,
    search: TuningSearch,
    notes: list[str],
) -> list[Outcome]:
    """Judge gradients of views on a part of the rows first, then on all where they lead there."""
    combinations, n = with_views(search, space), len(voters.codes)
    places = draw_rows(voters.codes, search.pilot_rows, search.seed)
    if len(places) < n:
        pilot = rows.gradients(plain.pooling, space.views, places)
        if not pilot:
            return []
        some, few = voters.subset(places), {k: v[places] for k, v in blocks.items()} | pilot
        known = cheap(search, space)
        known += with_gradients(search, space) if space.gradients else []
        known = [one for one in known if {name for name, _ in one} <= few.keys()]
        best, without = (
            max(one.share.mean() for one in _judged(plain, few, each, some, search))
            for each in (combinations, known)
        )
        if best - without <= search.min_gain:
            notes.append(
                f"gradients of views ({', '.join(space.views)}) were tried on {len(places)} rows, "
                f"where they reach {100 * best:.1f} % and the others {100 * without:.1f} %: they "
                "were not computed for the rest"
            )
            return []
    blocks |= rows.gradients(plain.pooling, space.views)
    if not blocks.keys() >= set(space.views):
        return []
    return _judged(plain, blocks, combinations, voters, search)


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
        found += voters.outcomes(some, moved(directions, transform), combinations)
    return found


def _reduced(
    parent: Candidate, blocks: Blocks, voters: Voters, search: TuningSearch
) -> list[Outcome]:
    """Judge PCAs of a candidate; a linear classifier needs none."""
    if voters.judge == "linear":
        return []
    directions = {name: unit_rows(torch.from_numpy(blocks[name])) for name, _ in parent.weights}
    parts = moved(directions, parent.transform)
    weighted = [weight**0.5 * parts[name] for name, weight in parent.weights]
    rows = torch.from_numpy(np.concatenate(weighted, axis=1, dtype=np.float32))
    found = []
    for n_components in search.components:
        if n_components < min(rows.shape):
            pca = PrincipalComponents.fit(rows, n_components)
            reduced = {"reduced": unit_rows(pca.transform(rows)).numpy()}
            candidate = dataclasses.replace(parent, components=n_components)
            found += voters.outcomes([candidate], reduced, [(("reduced", 1.0),)])
    return found


def moved(directions: Mapping[str, Tensor], transform: Transform) -> Blocks:
    """Centre and whiten blocks of unit rows as `Finisher` does."""
    if transform.center or transform.whitening:
        directions = centred_alone(directions, transform.whitening)
    return {name: rows.numpy() for name, rows in directions.items()}
