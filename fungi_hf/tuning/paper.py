"""The published preset beside a choice: judged by neighbours on as many rows as are affordable."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

import torch

from fungi_hf.config import FungiConfig
from fungi_hf.errors import FungiError
from fungi_hf.gradients.factors import unit_rows
from fungi_hf.specs.paper import PAPER
from fungi_hf.tuning.candidates import EMBEDDING
from fungi_hf.tuning.forecast import affordable_rows
from fungi_hf.tuning.report import Baseline
from fungi_hf.tuning.sample import draw_rows
from fungi_hf.tuning.search import LEAST_PAPER_ROWS
from fungi_hf.tuning.votes import leave_one_out

if TYPE_CHECKING:
    from fungi_hf.tuning.search import Space, TuningSearch
    from fungi_hf.types import Int64Array


class Rows(Protocol):
    """What is asked of the rows that judge."""

    extractor: Any
    raws: list[Any]
    progress: bool

    @property
    def space(self) -> Space:
        """What may be chosen."""


def judge_paper(
    rows: Rows, codes: Int64Array, groups: Int64Array, search: TuningSearch
) -> tuple[list[Baseline], list[str]]:
    """Judge the preset, and the plain embedding on the same rows; give what stood in the way."""
    own = rows.extractor
    if own.encoder.modality not in PAPER or not search.paper_rows:
        return [], []
    preset = FungiConfig.paper(own.encoder.modality).replace(dtype=own.config.dtype)
    n_rows = min(search.paper_rows, affordable_rows(preset, len(codes), rows.space))
    if n_rows < LEAST_PAPER_ROWS:
        reason = "its views cost more than a quarter of the tuning; evaluate it apart"
        return [], [f"the paper preset was not judged: {reason}"]
    places = draw_rows(codes, n_rows, search.seed)
    raws = [rows.raws[place] for place in places]
    try:
        features = own.with_config(preset).fit_transform(raws, progress=rows.progress)
    except FungiError as error:
        return [], [f"the paper preset does not run on this encoder: {error}"]
    k = max(1, min(search.n_neighbors, len(places) // 2))
    judged = {"paper preset": features.array}
    if EMBEDDING in features.layout:  # no PCA has mixed the blocks
        judged["embedding, on the rows of the paper preset"] = features.block(EMBEDDING)
    found = []
    for name, array in judged.items():
        unit = {name: unit_rows(torch.from_numpy(array)).numpy()}
        right = leave_one_out(unit, [((name, 1.0),)], codes[places], groups[places], k)[0]
        share = float(right.mean())
        found.append(Baseline(features=name, head="neighbors", accuracy=share, n_rows=len(places)))
    return found, []
