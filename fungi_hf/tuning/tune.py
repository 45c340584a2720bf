"""Choose objectives, temper, layer, pooling, weights, centring, whitening and PCA for a task.

Invariant: the choice is a function of the extractor, the training inputs and their labels;
nothing else is read. The rows that vote pass the encoder once per pooling, which taps every
layer, and are extracted once with all gradients; the chosen config is then fitted on all inputs.
"""

from __future__ import annotations

import dataclasses
import sys
import time
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any, Generic, Protocol, Self, TypeVar

import numpy as np
from tqdm.auto import tqdm

from fungi_hf.errors import ConfigError, EncoderError, LayerUseError
from fungi_hf.extraction.inputs import iterate
from fungi_hf.tuning.baselines import compare
from fungi_hf.tuning.candidates import EMBEDDING, Candidate, costs, scores
from fungi_hf.tuning.forecast import forecast
from fungi_hf.tuning.paper import judge_paper
from fungi_hf.tuning.report import TuningReport
from fungi_hf.tuning.sample import check_votes, draw_rows, read_classes, read_groups
from fungi_hf.tuning.scan import scan, space_of
from fungi_hf.tuning.search import TuningSearch
from fungi_hf.tuning.stages import Voters, decide
from fungi_hf.tuning.words import notes_of, reason_of

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from fungi_hf.config import FungiConfig
    from fungi_hf.encoders.base import Encoder
    from fungi_hf.extraction.batches import Budget
    from fungi_hf.features import FungiFeatures
    from fungi_hf.neighbors.labels import Labels
    from fungi_hf.tuning.search import Space
    from fungi_hf.tuning.stages import Blocks
    from fungi_hf.types import Int64Array


class Tunable(Protocol):
    """What tuning asks of an extractor."""

    encoder: Encoder
    config: FungiConfig
    tuning: TuningReport | None
    budget: Budget

    def with_config(self, config: FungiConfig) -> Self:
        """Give an unfitted extractor of the same model with another config."""

    def fit(self, inputs: Iterable[Any], *, progress: bool = False) -> object:
        """Learn what the config asks for."""

    def fit_transform(self, inputs: Iterable[Any], *, progress: bool = False) -> FungiFeatures:
        """Learn, and give the features of the same inputs."""


T = TypeVar("T", bound=Tunable)


@dataclass
class _Encoding(Generic[T]):
    """Encodes the rows that vote, once for each pooling and once for the gradients."""

    extractor: T
    search: TuningSearch
    raws: list[Any]
    items: list[Any]  # the same in canonical form (`Encoder.check`)
    progress: bool
    seconds: dict[str, float] = field(default_factory=dict)  # of "scan" and "gradients" so far
    notes: list[str] = field(default_factory=list)  # facts that a reader of the scores needs

    @cached_property
    def space(self) -> Space:
        return space_of(self.extractor.encoder, self.extractor.config, self.search)

    def scans(self) -> Iterator[tuple[str, Blocks]]:
        """Give each pooling, the extractor's own first, with the embedding and the activations."""
        names = {EMBEDDING: EMBEDDING, **self.space.activations}
        encoders = list(self._encoders())
        if self.progress:
            plan = forecast(
                encoders[0],
                self.items,
                len(encoders),
                self.space,
                self.search,
                self.extractor.budget,
            )
            tqdm.write(str(plan), file=sys.stderr)
        for encoder in tqdm(encoders, disable=not self.progress, unit="pooling"):
            with self.timed("scan"):
                encoder.fit(self.items)
                found = scan(encoder, self.items, [*names][1:], self.extractor.budget)
            yield encoder.pooling, {name: found[place] for place, name in names.items()}

    def gradients(
        self, pooling: str, names: Sequence[str], places: Int64Array | None = None
    ) -> Blocks:
        """Extract blocks of gradients of all rows, or of some; none where there are none."""
        weights = tuple((name, 1.0) for name in names)
        candidate = Candidate(pooling=pooling, layer=self.space.layer, weights=weights)
        raws = self.raws if places is None else [self.raws[place] for place in places]
        with self.timed("gradients"):
            try:
                extractor = self.build(candidate)
                features = extractor.fit_transform(raws, progress=self.progress)
            except LayerUseError as error:
                self.notes.append(f"no gradients were tried with pooling {pooling!r}: {error}")
                return {}
        return {name: features.block(name) for name in features.layout}

    def build(self, candidate: Candidate) -> T:
        """Give an unfitted extractor with a candidate's config."""
        config = self.extractor.config
        adjustable = _rebuilt(self.extractor.encoder, config) is not None  # else own pooling, layer
        config = candidate.config(config, self.space.specs, adjustable=adjustable)
        return self.extractor.with_config(config)

    def _encoders(self) -> Iterator[Encoder]:
        own, config = self.extractor.encoder, self.extractor.config
        if config.audio_statistics == "fit":  # a scan fits it, and it is the caller's
            own = own.rebuilt(config)
        yield own
        # A text encoder's "first" is its "cls".
        known = {"cls" if own.pooling == "first" else own.pooling}
        wanted = ("mean", "cls") if self.search.free_pooling else ()
        for pooling in (one for one in wanted if one not in known):
            other = _rebuilt(own, config.replace(pooling=pooling))
            if other is not None and other.pooling not in known:
                known.add(other.pooling)
                yield other

    @contextmanager
    def timed(self, stage: str) -> Iterator[None]:
        start = time.perf_counter() - self.seconds.get(stage, 0.0)
        yield
        self.seconds[stage] = round(time.perf_counter() - start, 1)


def _rebuilt(encoder: Encoder, config: FungiConfig) -> Encoder | None:
    """Give the encoder with another config; None where it has no such pooling, or no other."""
    try:
        return encoder.rebuilt(config)
    except (ConfigError, EncoderError):
        return None


def tune(
    extractor: T,
    inputs: Iterable[Any],
    labels: Labels,
    *,
    judge: str | None = None,
    groups: Labels | None = None,
    search: TuningSearch | None = None,
    progress: bool = False,
) -> T:
    """Choose a config from labelled training data by leaving rows out.

    What the search does not vary (sketch, length, dtype, seed) stays as the extractor's config
    says. Arguments and result are those of `FungiExtractor.tune`.

    Raises:
        ConfigError: If the extractor keeps exact factors, `search` is no search, or the judge is
            unknown.
        InputError: If an input is unusable, or no row could be classified rightly by the others.
        LabelError: If labels or groups are unusable.
    """
    search = TuningSearch() if search is None else search
    if not isinstance(search, TuningSearch):
        raise ConfigError(f"search must be a TuningSearch or None; got {type(search).__name__}")
    if judge is not None:
        search = dataclasses.replace(search, judge=judge)
    if extractor.config.sketch == "none":
        raise ConfigError(
            "sketch='none' keeps exact factors, which can be neither centred nor whitened; "
            "tune an extractor with another sketch"
        )
    items = list(iterate(inputs))
    classes, codes = read_classes(labels, len(items))
    numbers, n_groups = read_groups(groups, len(items))
    rows = draw_rows(codes, search.most_rows, search.seed)
    drawn, canonical = set(rows.tolist()), []
    for place, raw in enumerate(items):  # before the work, also what is not drawn
        checked = extractor.encoder.check(raw, place)
        if place in drawn:
            canonical.append(checked)
    check_votes(codes[rows], numbers[rows])
    start = time.perf_counter()
    raws = [items[row] for row in rows]
    encoding = _Encoding(extractor, search, raws, canonical, progress)
    space, voters = encoding.space, Voters.of(codes[rows], numbers[rows], search)
    decision = decide(encoding, space, voters, search)
    outcomes, position = decision.outcomes, decision.position
    found = scores(outcomes, costs(outcomes, space.specs))
    compared = compare(decision, found[position].cost, space, search, codes[rows])
    with encoding.timed("paper preset"):
        paper, said = judge_paper(encoding, codes[rows], numbers[rows], search)
    seconds = encoding.seconds
    seconds["votes"] = round(time.perf_counter() - start - sum(seconds.values()), 1)
    start = time.perf_counter()
    tuned = encoding.build(decision.chosen)
    if tuned.config.needs_fit:
        tuned.fit(items, progress=progress)
    seconds["fit"] = round(time.perf_counter() - start, 1)
    best = max(range(len(found)), key=lambda place: found[place].share)
    counts = np.bincount(codes[rows], minlength=len(classes))
    tuned.tuning = TuningReport(
        config=tuned.config.to_dict(),
        chosen=found[position],
        embedding=found[0],
        best=found[best],
        reason=reason_of(found, position, best, decision.evidence),
        judge=search.judge,
        evidence=decision.evidence,
        baselines=(*compared.baselines, *paper),
        advice=compared.advice,
        candidates=tuple(sorted(found, key=lambda one: -one.accuracy)),
        n_rows=len(items),
        n_used=len(rows),
        n_groups=n_groups,
        classes={str(name): int(count) for name, count in zip(classes, counts, strict=True)},
        search={**dataclasses.asdict(search), "objectives": [s.to_dict() for s in space.specs]},
        seconds=seconds,
        notes=notes_of(
            decision.voters,
            search.n_neighbors,
            len(items),
            n_groups,
            [*decision.notes, *encoding.notes, *said],
        ),
    )
    return tuned
