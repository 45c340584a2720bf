"""What users would do without tuning, judged on the same rows, and what to use."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch

from fungi_hf.gradients.factors import unit_rows
from fungi_hf.tuning.candidates import EMBEDDING, FIRST_GRADIENT, Candidate, lead
from fungi_hf.tuning.report import Baseline
from fungi_hf.tuning.ridge import ridge_leave_out
from fungi_hf.tuning.sample import draw_rows
from fungi_hf.tuning.stages import moved
from fungi_hf.tuning.votes import leave_one_out

if TYPE_CHECKING:
    from collections.abc import Mapping

    from fungi_hf.tuning.search import Space, TuningSearch
    from fungi_hf.tuning.stages import Blocks, Decision
    from fungi_hf.types import Float64Array, Int64Array


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """The baselines, and what follows from them in one sentence."""

    baselines: tuple[Baseline, ...]
    advice: str


def compare(
    decision: Decision, rank: int, space: Space, search: TuningSearch, codes: Int64Array
) -> Comparison:
    """Judge embedding, activation and the tuned features by both heads; `rank` is their cost."""
    voters = decision.voters
    plain = decision.outcomes[0].candidate
    activation = Candidate(
        pooling=plain.pooling,
        layer=plain.layer,
        weights=((space.activations[space.layer], 1.0),),
    )
    places = draw_rows(codes, search.linear_rows, search.seed)
    ways = {EMBEDDING: plain, "activation": activation}
    tuned = f"tuned: {decision.chosen.name}" if decision.position else EMBEDDING
    if decision.position:
        ways[tuned] = decision.chosen
    rights: dict[tuple[str, str], Float64Array] = {}
    for name, candidate in ways.items():
        blocks = _blocks_of(candidate, decision.raw[candidate.pooling])
        weights = [candidate.weights]
        votes = leave_one_out(blocks, weights, codes, voters.groups, voters.n_neighbors)[0]
        few = {block: rows[places] for block, rows in blocks.items()}
        fits = ridge_leave_out(few, weights, codes[places], voters.groups[places])[0]
        rights[name, "neighbors"] = votes.astype(np.float64)
        rights[name, "linear"] = fits.astype(np.float64)
    found = tuple(
        Baseline(features=name, head=head, accuracy=float(right.mean()), n_rows=len(right))
        for (name, head), right in rights.items()
    )
    return Comparison(baselines=found, advice=_advice(rights, places, tuned, rank, search))


def _blocks_of(candidate: Candidate, raw: Mapping[str, object]) -> Blocks:
    directions = {
        name: unit_rows(torch.as_tensor(raw[name], dtype=torch.float32))
        for name, _ in candidate.weights
    }
    return moved(directions, candidate.transform)


def _advice(
    rights: Mapping[tuple[str, str], Float64Array],
    places: Int64Array,
    tuned: str,
    rank: int,
    search: TuningSearch,
) -> str:
    # On the rows that all heads have judged; "as good" is within one standard error.
    here = {
        (name, head): right if head == "linear" else right[places]
        for (name, head), right in rights.items()
    }
    probe, judged = here[EMBEDDING, "linear"], here[tuned, search.judge]
    ahead, error = map(float, lead(judged, probe))
    share, other = 100 * float(judged.mean()), 100 * float(probe.mean())
    needs = "gradients" if rank >= FIRST_GRADIENT else "tuned features"
    head = "a linear probe" if search.judge == "linear" else "nearest neighbours"
    if tuned == EMBEDDING and search.judge == "linear":
        return f"use a linear probe on the plain embedding ({other:.1f} %): nothing surely beats it"
    if tuned == EMBEDDING:
        if -ahead > error:
            return (
                f"use a linear probe on the plain embedding: it has {other:.1f} % right, the "
                f"embedding's neighbours {share:.1f} %; you need no gradients"
            )
        return (
            f"use the plain embedding: its neighbours have {share:.1f} % right, a linear probe on "
            f"it {other:.1f} %; you need no gradients"
        )
    if ahead > error:
        return (
            f"use {head} on the tuned features: {share:.1f} % right against {other:.1f} % of a "
            "linear probe on the plain embedding"
        )
    return (
        f"a linear probe on the plain embedding is as good ({other:.1f} % against {share:.1f} % of "
        f"{head} on the tuned features); you need no {needs}"
    )
