"""One fit of one encoder and config: inputs to a part of a stage, a part to fitted state."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final, TypeAlias

from fungi_hf.encoders.base import SummingEncoder
from fungi_hf.errors import InputError
from fungi_hf.extraction.draws import NO_INPUT, Draw, StoredInput, TrainingDraw, fit_objectives
from fungi_hf.extraction.finish import Finisher
from fungi_hf.extraction.fit_part import FitPart, Tally
from fungi_hf.extraction.group import compute
from fungi_hf.extraction.latents import AllTraining, fit_latents
from fungi_hf.extraction.stages import COMPONENTS, DRAW, LATENTS, MOMENTS, foundation, stages_of
from fungi_hf.extraction.state import FittedState
from fungi_hf.seeding import derive_each

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from torch import Tensor

    from fungi_hf.extraction.batches import Budget
    from fungi_hf.extraction.classes import ClassSums
    from fungi_hf.extraction.fit_part import Origin
    from fungi_hf.extraction.inputs import InputReader
    from fungi_hf.extraction.plan import Plan
    from fungi_hf.features import Failure
    from fungi_hf.types import Int64Array

    _Note: TypeAlias = Callable[[list[Any]], None]

FEATURES: Final = "features"
"""Name of the moments of finished rows, in a part of the components."""


class Learner:
    """Makes the parts of a fit and learns from them; plan and encoder take what is learned.

    Attributes:
        stages: The stages that are needed, in their order.
        blocks: Raw blocks of the last extraction, chunk by chunk; None where they were too many.
        notes: What was special in it -> number of inputs.
    """

    def __init__(
        self,
        reader: InputReader,
        plan: Plan,
        budget: Budget,
        *,
        progress: bool = False,
        skip: bool = False,
        most_bytes: int = 0,
        codes: Int64Array | None = None,
    ) -> None:
        """Begin; up to `most_bytes` raw blocks are kept, so that inputs are extracted once.

        With `skip` unusable inputs are left out. `codes` are class numbers of all inputs.
        """
        self.stages = stages_of(reader.config, reader.encoder)
        self.blocks: list[dict[str, Tensor]] | None = None
        self.notes = Counter[str]()
        self._reader, self._plan, self._budget = reader, plan, budget
        self._progress, self._skip, self._most = progress, skip, most_bytes
        self._codes = codes
        self._classes: dict[str, ClassSums] = {}

    def covariance_columns(self, stage: str) -> int:
        """Give the columns of the widest covariance that a part of a stage may hold."""
        config = self._reader.config
        finisher = self._finisher(FittedState())
        if stage == COMPONENTS:
            return finisher.width
        whitens = stage == MOMENTS and config.whitening > 0
        widths = [columns.stop - columns.start for columns in finisher.layout.values()]
        return max(widths) if whitens else 0

    def part(
        self,
        inputs: Iterable[Any],
        stage: str,
        state: FittedState,
        origin: Origin,
        *,
        name: str | None = None,
        digested: bool = True,
    ) -> FitPart:
        """Compute what inputs give to a stage, which builds on the state.

        Without a name the part is named by the digest of its inputs.
        """
        tally = Tally(self._reader.encoder if digested else None)
        make = {DRAW: self._drawn, LATENTS: self._latents}.get(stage)
        found = (
            self._moments(inputs, stage, state, tally.add)
            if make is None
            else make(inputs, tally.add)
        )
        names = {name or tally.digest(): tally.digest()} if tally.n else {}
        return FitPart(stage=stage, origin=origin, names=names, n_inputs=tally.n, **found)

    def _drawn(self, inputs: Iterable[Any], note: _Note) -> dict[str, Any]:
        reader = self._reader
        sums: dict[str, Tensor] = {}
        every = AllTraining(self._plan, reader, self._budget)
        specs = [] if LATENTS in self.stages else every.specs

        def each(chunk: list[Any]) -> None:
            note(chunk)
            if specs:
                every.add(chunk)

        draw = TrainingDraw(reader, inputs, each=each, skip=self._skip)
        if isinstance(reader.encoder, SummingEncoder):
            sums = reader.encoder.sums(draw)
        else:
            reader.encoder.fit(draw)
        # An encoder that did not care needs nothing read that is read again.
        draw.finish(one_is_enough=len(self.stages) > 1 and not (draw.draws or specs))
        latents = every.found()
        failures = tuple(draw.failures)
        return {"sums": sums, "draws": draw.draws, "latents": latents, "failures": failures}

    def _latents(self, inputs: Iterable[Any], note: _Note) -> dict[str, Any]:
        every = AllTraining(self._plan, self._reader, self._budget)

        def each(chunk: list[Any]) -> None:
            note(chunk)
            every.add(chunk)

        draw = TrainingDraw(self._reader, inputs, each=each, skip=self._skip)
        draw.finish()
        return {"latents": every.found(), "failures": tuple(draw.failures)}

    def _moments(
        self, inputs: Iterable[Any], stage: str, state: FittedState, note: _Note
    ) -> dict[str, Any]:
        finisher = self._finisher(foundation(stage, state))
        failures: list[Failure] = []
        chunks = self._chunks(inputs, note, failures) if self.blocks is None else self.blocks
        if stage == MOMENTS:
            self._classes = finisher.class_sums(self._codes)
            moments = finisher.block_moments(chunks, self._classes)
        else:
            moments = {FEATURES: finisher.feature_moments(chunks)}
        return {"moments": moments, "failures": tuple(failures)}

    def _chunks(
        self, inputs: Iterable[Any], note: _Note, failures: list[Failure]
    ) -> Iterator[dict[str, Tensor]]:
        kept: list[dict[str, Tensor]] | None = []
        room = self._most
        reading = self._reader.read(inputs, skip=self._skip, each=note)
        for found in compute(reading, self._plan, self._budget, progress=self._progress):
            blocks = reading.finite(found) if self._skip else found
            room -= sum(block.nbytes for block in blocks.values())
            if room < 0:
                kept = None
            elif kept is not None:
                kept.append(blocks)
            yield blocks
        failures += sorted(reading.failures, key=lambda failure: failure.index)
        self.blocks, self.notes = kept, reading.notes

    def learn(self, part: FitPart, state: FittedState) -> FittedState:
        """Give the state after a stage, from all its parts in one and the state before.

        Raises:
            InputError: If there was no usable input.
        """
        plan, encoder, stage = self._plan, self._reader.encoder, part.stage
        n = min((some.n for some in part.moments.values()), default=part.n_inputs)
        if not n:
            skipped = len(part.failures)
            raise InputError(f"{NO_INPUT} that is usable of {skipped}" if skipped else NO_INPUT)
        if part.sums and isinstance(encoder, SummingEncoder):
            encoder.fit_sums(part.sums)
        fit_latents(plan, part.latents)
        fit_objectives(plan, self._canonical(part.draws), self._reader, self._budget)
        known = FittedState(objectives=plan.state(), encoder=encoder.state())
        if stage == DRAW and LATENTS in self.stages:
            for spec in self._reader.config.objectives:
                if spec.learns_from_all:
                    known.objectives.pop(spec.name, None)  # of an earlier fit
        if stage in (DRAW, LATENTS):
            return known
        before = foundation(stage, state)
        finisher = self._finisher(replace(known, means=before.means, whitening=before.whitening))
        if stage == COMPONENTS:
            finisher.learn_features(part.moments[FEATURES])
        else:
            finisher.learn_blocks(part.moments, self._classes)
        return finisher.state

    def _finisher(self, state: FittedState) -> Finisher:
        finisher = Finisher(self._reader.config, self._plan.widths, self._plan.factor_shapes)
        finisher.load(state)
        return finisher

    def _canonical(self, draws: dict[str, Draw]) -> dict[str, Draw]:
        # Inputs from a file are checked again; a path may lead to something else by now.
        encoder, seed, found = self._reader.encoder, self._reader.config.seed, {}
        for name, draw in draws.items():
            items = dict(draw.items)
            for place, (key, item) in enumerate(draw.items.items()):
                if isinstance(item, StoredInput):
                    items[key] = encoder.check(item.raw, place)
                    contents = encoder.contents([items[key]])
                    if derive_each(seed, ("negatives", name), contents) != [key]:
                        raise InputError(
                            f"{encoder.describe(item.raw)} is not what was drawn for {name!r}: it "
                            "has changed since; compute the part again"
                        )
            found[name] = Draw(draw.most, items)
        return found
