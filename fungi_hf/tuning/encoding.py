"""Raw blocks of the rows that vote: a scan for each pooling, one extraction of gradients."""

from __future__ import annotations

import time
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any, Generic, Protocol, Self, TypeVar

from fungi_hf.errors import ConfigError, EncoderError, LayerUseError
from fungi_hf.tuning.candidates import EMBEDDING, Candidate
from fungi_hf.tuning.scan import scan

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from fungi_hf.config import FungiConfig
    from fungi_hf.encoders.base import Encoder
    from fungi_hf.extraction.batches import Budget
    from fungi_hf.features import FungiFeatures
    from fungi_hf.tuning.report import TuningReport
    from fungi_hf.tuning.search import Space, TuningSearch
    from fungi_hf.tuning.stages import Blocks


class Tunable(Protocol):
    """What tuning asks of an extractor."""

    encoder: Encoder
    config: FungiConfig
    tuning: TuningReport | None

    @property
    def budget(self) -> Budget:
        """Limits of one batch."""

    def with_config(self, config: FungiConfig) -> Self:
        """Give an unfitted extractor of the same model with another config."""

    def fit(self, inputs: Iterable[Any], *, progress: bool = False) -> object:
        """Learn what the config asks for."""

    def fit_transform(self, inputs: Iterable[Any], *, progress: bool = False) -> FungiFeatures:
        """Learn, and give the features of the same inputs."""


T = TypeVar("T", bound=Tunable)


@dataclass(kw_only=True)
class Encoding(Generic[T]):
    """Encodes the rows that vote, once for each pooling and once for the gradients.

    Attributes:
        extractor: Not changed.
        raws: N inputs.
        items: The same in canonical form (`Encoder.check`).
        space: What may be chosen.
        search: Says whether other poolings are tried.
        progress: Show a bar.
        seconds: "scan" and "gradients" -> seconds so far.
        notes: Facts that a reader of the scores needs.
    """

    extractor: T
    raws: list[Any]
    items: list[Any]
    space: Space
    search: TuningSearch
    progress: bool = False
    seconds: dict[str, float] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    def scans(self) -> Iterator[tuple[str, Blocks]]:
        """Give each pooling, the extractor's own first, with the embedding and the activations."""
        names = {EMBEDDING: EMBEDDING, **self.space.activations}
        for encoder in self._encoders():
            with self._timed("scan"):
                encoder.fit(self.items)
                layers = list(self.space.activations)
                found = scan(encoder, self.items, layers, self.extractor.budget)
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
        config = candidate.config(
            self.extractor.config, self.space.specs, adjustable=self._is_adjustable
        )
        return self.extractor.with_config(config)

    @cached_property
    def _is_adjustable(self) -> bool:
        """Whether pooling and layer can be set: a third party's encoder may not be rebuilt."""
        return _rebuilt(self.extractor.encoder, self.extractor.config) is not None

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
        start = time.perf_counter()
        yield
        spent = self.seconds.get(stage, 0.0) + time.perf_counter() - start
        self.seconds[stage] = round(spent, 1)


def _rebuilt(encoder: Encoder, config: FungiConfig) -> Encoder | None:
    """Give the encoder with another config; None where it has no such pooling, or no other."""
    try:
        return encoder.rebuilt(config)
    except (ConfigError, EncoderError):
        return None
