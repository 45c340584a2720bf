"""What each combination of blocks costs to extract, against the embedding alone."""

from __future__ import annotations

import dataclasses
import statistics
import time
from typing import TYPE_CHECKING, Any

from fungi_hf.checks import check_known
from fungi_hf.errors import FeatureError, InputError
from fungi_hf.extraction.group import compute
from fungi_hf.extraction.inputs import InputReader
from fungi_hf.extraction.plan import Plan

if TYPE_CHECKING:
    from collections.abc import Sequence

    from fungi_hf.extractor import FungiExtractor

_BASELINE, _ROUNDS = "embedding", 3


def extraction_costs(
    extractor: FungiExtractor,
    inputs: Sequence[Any],
    combinations: Sequence[Sequence[str]],
) -> dict[str, float]:
    """Time the extraction of combinations of blocks, alternated, on one machine.

    The extractor is fitted; its encoder is used, not changed. A few hundred raw inputs are enough.

    Returns:
        "a+b" -> median over three rounds, after one that is not timed, of its time over that of
        the embedding alone (one plain forward pass an input, preprocessing included) in the same
        round.

    Raises:
        InputError: If there are no inputs.
    """
    items = list(inputs)
    if not items:
        raise InputError("inputs are empty; a timing needs at least one")
    known = [_BASELINE, *extractor.config.blocks]
    runs = {_BASELINE: _run(extractor, [])}
    for names in combinations:
        check_known("the extractor", names, known, noun="block", error=FeatureError)
        runs.setdefault("+".join(names), _run(extractor, list(names)))
    rounds = [
        {name: _seconds(*run, items) for name, run in runs.items()} for _ in range(1 + _ROUNDS)
    ]
    ratios = {name: [one[name] / one[_BASELINE] for one in rounds[1:]] for name in runs}
    return {name: round(statistics.median(values), 3) for name, values in ratios.items()}


def _run(extractor: FungiExtractor, names: list[str]) -> tuple[Plan, InputReader]:
    kept = (spec.only(names) for spec in extractor.config.objectives)
    specs = tuple(spec for spec in kept if spec is not None)
    config = dataclasses.replace(extractor.config, objectives=specs)
    plan = Plan.of(extractor.encoder, config)
    learned = extractor.state.objectives
    plan.load_state({name: learned[name] for name in plan.objectives if name in learned})
    return plan, InputReader(plan.encoder, config)


def _seconds(plan: Plan, reader: InputReader, items: list[Any]) -> float:
    start = time.perf_counter()
    for _ in compute(reader.read(items), plan, plan.budget):
        pass
    return time.perf_counter() - start
