"""Choose objectives, temper, layer, pooling, weights, centring, whitening and PCA for a task.

Invariant: the choice is a function of the extractor, the training inputs and their labels;
nothing else is read. The rows that vote pass the encoder once per pooling, which taps every
layer, and are extracted once with all gradients; the chosen config is then fitted on all inputs.
"""

from __future__ import annotations

import dataclasses
import time
from typing import TYPE_CHECKING, Any

import numpy as np

from fungi_hf.errors import ConfigError
from fungi_hf.extraction.inputs import iterate
from fungi_hf.tuning.candidates import FIRST_GRADIENT, costs, scores
from fungi_hf.tuning.encoding import Encoding
from fungi_hf.tuning.report import TuningReport
from fungi_hf.tuning.sample import check_votes, draw_rows, read_classes, read_groups
from fungi_hf.tuning.scan import space_of
from fungi_hf.tuning.search import TuningSearch
from fungi_hf.tuning.stages import FEW_DRAWS, FEW_ROWS, Voters, decide

if TYPE_CHECKING:
    from collections.abc import Iterable

    from fungi_hf.neighbors.labels import Labels
    from fungi_hf.tuning.encoding import T
    from fungi_hf.tuning.report import CandidateScore


def tune(
    extractor: T,
    inputs: Iterable[Any],
    labels: Labels,
    *,
    groups: Labels | None = None,
    search: TuningSearch | None = None,
    progress: bool = False,
) -> T:
    """Choose a config from labelled training data by leave-one-out nearest neighbours.

    What the search does not vary (sketch, length, dtype, seed) stays as the extractor's config
    says. Arguments and result are those of `FungiExtractor.tune`.

    Raises:
        ConfigError: If the extractor keeps exact factors, or `search` is no search.
        InputError: If an input is unusable, or no row could be classified rightly by the others.
        LabelError: If labels or groups are unusable.
    """
    search = TuningSearch() if search is None else search
    if not isinstance(search, TuningSearch):
        raise ConfigError(f"search must be a TuningSearch or None; got {type(search).__name__}")
    if extractor.config.sketch == "none":
        raise ConfigError(
            "sketch='none' keeps exact factors, which can be neither centred nor whitened; "
            "tune an extractor with another sketch"
        )
    items = list(iterate(inputs))
    classes, codes = read_classes(labels, len(items))
    numbers, n_groups = read_groups(groups, len(items))
    rows = draw_rows(codes, search.max_rows, search.seed)
    drawn, canonical = set(rows.tolist()), []
    for place, raw in enumerate(items):  # before the work, also what is not drawn
        checked = extractor.encoder.check(raw, place)
        if place in drawn:
            canonical.append(checked)
    check_votes(codes[rows], numbers[rows])
    start = time.perf_counter()
    space = space_of(extractor.encoder, extractor.config, search)
    encoding = Encoding(
        extractor=extractor,
        raws=[items[row] for row in rows],
        items=canonical,
        space=space,
        search=search,
        progress=progress,
    )
    voters = Voters.of(codes[rows], numbers[rows], search)
    outcomes, position, voters = decide(encoding, space, voters, search)
    seconds = encoding.seconds
    seconds["votes"] = round(time.perf_counter() - start - sum(seconds.values()), 1)
    start = time.perf_counter()
    tuned = encoding.build(outcomes[position].candidate)
    if tuned.config.needs_fit:
        tuned.fit(items, progress=progress)
    seconds["fit"] = round(time.perf_counter() - start, 1)
    found = scores(outcomes, costs(outcomes, space.specs))
    best = max(range(len(found)), key=lambda place: found[place].share)
    counts = np.bincount(codes[rows], minlength=len(classes))
    tuned.tuning = TuningReport(
        config=tuned.config.to_dict(),
        chosen=found[position],
        embedding=found[0],
        best=found[best],
        reason=_reason(found, position, best),
        candidates=tuple(sorted(found, key=lambda one: -one.accuracy)),
        n_rows=len(items),
        n_used=len(rows),
        n_groups=n_groups,
        classes={str(name): int(count) for name, count in zip(classes, counts, strict=True)},
        search={**dataclasses.asdict(search), "objectives": [s.to_dict() for s in space.specs]},
        seconds=seconds,
        notes=_notes(voters, search.n_neighbors, len(items), n_groups, encoding.notes),
    )
    return tuned


def _reason(found: list[CandidateScore], position: int, best: int) -> str:
    chosen, top = found[position], found[best]
    gain = (
        f"{100 * chosen.against_embedding:+.1f} points against the plain embedding "
        f"(exact McNemar p = {chosen.p:.2g}, one of {len(found)} candidates)"
    )
    if chosen.share == top.share:
        return f"nothing has a higher share of right rows: {gain}"
    pca = f", PCA {top.components}" if top.components else ""
    behind = (
        f"{top.name} ({top.pooling}, {top.transform}{pca}) leads by {100 * chosen.behind_best:.1f} "
        f"points with a standard error of {100 * chosen.error:.1f}"
    )
    if chosen.share != chosen.accuracy or top.share != top.accuracy:
        behind += " where few rows vote"
    if position == 0:
        return f"{behind}: too little, or too uncertain, to leave the plain embedding for"
    if top.cost >= FIRST_GRADIENT > chosen.cost:
        why = "too little for the gradients in it"
    elif top.components and not chosen.components:
        why = "too little for a PCA"
    else:
        why = "features like it do worse"
    return f"{behind}, but {why}; {gain}"


def _notes(
    voters: Voters, wanted: int, n_rows: int, n_groups: int, more: list[str]
) -> tuple[str, ...]:
    notes, n_used = [], len(voters.codes)
    if n_used < n_rows:
        notes.append(f"{n_used} of {n_rows} rows voted, drawn within each class")
    single = int((np.bincount(voters.codes) == 1).sum())
    if single:
        notes.append(f"{single} classes have one row, which no other row can classify")
    if voters.n_neighbors < wanted:
        notes.append(
            f"{voters.n_neighbors} neighbours voted, not {wanted}: half of the {n_used} rows, "
            "since with more the other classes always win"
        )
    notes += more
    if voters.few:
        notes.append(
            "the plain embedding has nearly all training rows right, so candidates were compared "
            f"by {FEW_DRAWS} draws of {FEW_ROWS} voting rows a class"
        )
    if voters.few and not n_groups:
        notes.append(
            "if rows come in groups (speakers, sources) that test rows will not come from, pass "
            "groups"
        )
    return tuple(notes)
