"""A choice in words: why it was made, and what a reader of its scores needs to know."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from fungi_hf.tuning.candidates import FIRST_GRADIENT
from fungi_hf.tuning.stages import FEW_DRAWS, FEW_ROWS

if TYPE_CHECKING:
    from fungi_hf.tuning.evidence import Evidence
    from fungi_hf.tuning.report import CandidateScore
    from fungi_hf.tuning.stages import Voters


def reason_of(found: list[CandidateScore], position: int, best: int, evidence: Evidence) -> str:
    """Say in one sentence what leads, what was chosen, and on what evidence."""
    chosen, top = found[position], found[best]
    held = (
        f"on rows that did not choose, the choice gains {100 * evidence.gain:+.1f} points with a "
        f"standard error of {100 * evidence.error:.1f} (p = {evidence.p:.2g})"
    )
    gain = (
        f"{100 * chosen.against_embedding:+.1f} points against the plain embedding "
        f"(exact McNemar p = {chosen.p:.2g}, one of {len(found)} candidates)"
    )
    if chosen.share == top.share:
        return f"nothing has a higher share of right rows: {gain}; {held}"
    pca = f", PCA {top.components}" if top.components else ""
    behind = (
        f"{top.name} ({top.pooling}, {top.transform}{pca}) leads by {100 * chosen.behind_best:.1f} "
        f"points with a standard error of {100 * chosen.error:.1f}"
    )
    if chosen.share != chosen.accuracy or top.share != top.accuracy:
        behind += " where few rows vote"
    if position == 0:
        return f"{behind}, but {held}: too little to leave the plain embedding for"
    if top.cost >= FIRST_GRADIENT > chosen.cost:
        why = "too little for the gradients in it"
    elif top.components and not chosen.components:
        why = "too little for a PCA"
    else:
        why = "features like it do worse"
    return f"{behind}, but {why}; {gain}; {held}"


def notes_of(
    voters: Voters, wanted: int, n_rows: int, n_groups: int, more: list[str]
) -> tuple[str, ...]:
    """Give facts about the rows that voted, with more in their midst."""
    n_used, single = len(voters.codes), int((np.bincount(voters.codes) == 1).sum())
    before = {
        f"{n_used} of {n_rows} rows voted, drawn within each class": n_used < n_rows,
        f"{single} classes have one row, which no other row can classify": single,
        f"{voters.n_neighbors} neighbours voted, not {wanted}: half of the {n_used} rows, "
        "since with more the other classes always win": voters.n_neighbors < wanted,
    }
    after = {
        "the plain embedding has nearly all training rows right, so candidates were compared "
        f"by {FEW_DRAWS} draws of {FEW_ROWS} voting rows a class": voters.few,
        "if rows come in groups (speakers, sources) that test rows will not come from, pass "
        "groups": voters.few and not n_groups,
    }
    said, also = ([text for text, holds in some.items() if holds] for some in (before, after))
    return (*said, *more, *also)
