"""Choose objectives, temper, layer, pooling, weights, centring, whitening and PCA for a task.

Invariant: the choice is a function of the extractor, the training inputs and their labels;
nothing else is read. The rows that vote pass the encoder once per pooling, which taps every
layer, and are extracted once with all gradients; the chosen config is then fitted on all inputs.
"""

from __future__ import annotations

import dataclasses
import time
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any, Generic, Protocol, Self, TypeVar

import numpy as np

from fungi_hf.errors import ConfigError, EncoderError, LayerUseError
from fungi_hf.extraction.inputs import iterate
from fungi_hf.tuning.candidates import EMBEDDING, FIRST_GRADIENT, Candidate, costs, scores
from fungi_hf.tuning.report import TuningReport
from fungi_hf.tuning.sample import check_votes, draw_rows, read_classes, read_groups
from fungi_hf.tuning.scan import scan, space_of
from fungi_hf.tuning.search import TuningSearch
from fungi_hf.tuning.stages import FEW_DRAWS, FEW_ROWS, Voters, decide

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from fungi_hf.config import FungiConfig
    from fungi_hf.encoders.base import Encoder
    from fungi_hf.extraction.batches import Budget
    from fungi_hf.features import FungiFeatures
    from fungi_hf.neighbors.labels import Labels
    from fungi_hf.tuning.report import CandidateScore
    from fungi_hf.tuning.search import Space
    from fungi_hf.tuning.stages import Blocks


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
        for encoder in self._encoders():
            with self._timed("scan"):
                encoder.fit(self.items)
                found = scan(encoder, self.items, [*names][1:], self.extractor.budget)
            yield encoder.pooling, {name: found[place] for place, name in names.items()}

    def gradients(self, pooling: str) -> Blocks:
        """Give the embedding, the gradients and the activation of the target layer."""
        layer = self.space.layer
        names = (EMBEDDING, *self.space.gradients, self.space.activations[layer])
        weights = tuple((name, 1.0) for name in names)
        extractor = self.build(Candidate(pooling=pooling, layer=layer, weights=weights))
        with self._timed("gradients"):
            try:
                features = extractor.fit_transform(self.raws, progress=self.progress)
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
    def _timed(self, stage: str) -> Iterator[None]:
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
    raws = [items[row] for row in rows]
    encoding = _Encoding(extractor, search, raws, canonical, progress)
    space, voters = encoding.space, Voters.of(codes[rows], numbers[rows], search)
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
