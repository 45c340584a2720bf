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
from fungi_hf.tuning.report import TuningReport
from fungi_hf.tuning.sample import check_votes, draw_rows, read_classes, read_groups
from fungi_hf.tuning.search import TuningSearch
from fungi_hf.tuning.selection import FIRST_GRADIENT, choose, scores
from fungi_hf.tuning.stages import FEW_DRAWS, FEW_ROWS, Stages

if TYPE_CHECKING:
    from collections.abc import Iterable

    from fungi_hf.extractor import FungiExtractor
    from fungi_hf.neighbors.labels import Labels
    from fungi_hf.tuning.report import CandidateScore
    from fungi_hf.types import Int64Array


def tune(
    extractor: FungiExtractor,
    inputs: Iterable[Any],
    labels: Labels,
    *,
    groups: Labels | None = None,
    search: TuningSearch | None = None,
    progress: bool = False,
) -> FungiExtractor:
    """Choose a config from labelled training data by leave-one-out nearest neighbours.

    Args:
        extractor: What to start from; it is not changed. What the search does not vary (sketch,
            length, dtype, seed) stays as its config says.
        inputs: N training inputs.
        labels: N integers or strings, one a row, at least two classes.
        groups: N integers or strings: rows of one group (a speaker, a source recording) do not
            vote for each other. Pass them wherever test data comes from other groups.
        search: What may be chosen.
        progress: Show bars.

    Returns:
        A new extractor with the chosen config, fitted on all inputs; `.tuning` is the evidence.

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
    for place, raw in enumerate(items):
        extractor.encoder.check(raw, place)  # before the work, also what is not drawn
    rows = draw_rows(codes, search.max_rows, search.seed)
    check_votes(codes[rows], numbers[rows])
    stages = Stages(extractor, [items[row] for row in rows], codes[rows], numbers[rows], search)
    outcomes = stages.outcomes(progress=progress)
    position = choose(outcomes, stages.specs, search)
    start = time.perf_counter()
    tuned = stages.build(outcomes[position].candidate)
    if tuned.config.needs_fit:
        tuned.fit(items, progress=progress)
    seconds = {**stages.seconds, "fit": round(time.perf_counter() - start, 1)}
    found = scores(outcomes, stages.specs)
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
        search={**dataclasses.asdict(search), "objectives": [s.to_dict() for s in stages.specs]},
        seconds=seconds,
        notes=_notes(stages, counts, len(items), n_groups),
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


def _notes(stages: Stages, counts: Int64Array, n_rows: int, n_groups: int) -> tuple[str, ...]:
    notes = []
    if counts.sum() < n_rows:
        notes.append(f"{int(counts.sum())} of {n_rows} rows voted, drawn within each class")
    single = int((counts == 1).sum())
    if single:
        notes.append(f"{single} classes have one row, which no other row can classify")
    notes += stages.notes
    if stages.has_few_voters:
        notes.append(
            "the plain embedding has nearly all training rows right, so candidates were compared "
            f"by {FEW_DRAWS} draws of {FEW_ROWS} voting rows a class"
        )
        if not n_groups:
            notes.append(
                "if rows come in groups (speakers, sources) that test rows will not come from, "
                "pass groups"
            )
    return tuple(notes)
