"""The stages of a tuning: a scan of layers and poolings, one extraction of gradients, a PCA."""

from __future__ import annotations

import dataclasses
import time
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from fungi_hf.config import FungiConfig
from fungi_hf.encoders.loading import reconfigure
from fungi_hf.errors import ConfigError, EncoderError
from fungi_hf.evaluation.tuning.scan import scan, sibling_layers
from fungi_hf.evaluation.tuning.scoring import leave_one_out
from fungi_hf.evaluation.tuning.search import EMBEDDING, Candidate
from fungi_hf.evaluation.tuning.selection import Outcome, choose
from fungi_hf.features import unit_rows
from fungi_hf.finishing import Finisher
from fungi_hf.reduction import PrincipalComponents
from fungi_hf.specs import Activation

if TYPE_CHECKING:
    from fungi_hf.encoders.base import Encoder
    from fungi_hf.evaluation.tuning.search import Transform, TuningSearch
    from fungi_hf.extractor import FungiExtractor
    from fungi_hf.types import Float32Array, Int64Array

_REDUCED = "reduced"


class Stages:
    """Scores candidates on the rows that vote; nothing else is read.

    Attributes:
        specs: The objectives that candidates name, the activation among them.
        min_gain: The search's, and 0 where rows come in groups.
        seconds: Stage -> seconds.
    """

    def __init__(
        self,
        extractor: FungiExtractor,
        items: list[Any],
        codes: Int64Array,
        groups: Int64Array,
        search: TuningSearch,
    ) -> None:
        """Keep what is needed; nothing is encoded yet."""
        self._extractor, self._search = extractor, search
        self._items, self._codes, self._groups = items, codes, groups
        self.specs = search.specs(extractor.config)
        self._activation = next(s.name for s in self.specs if isinstance(s, Activation))
        self._rows: dict[tuple[str, str, str], Float32Array] = {}  # (pooling, layer, block)
        # The margin guards against rows that resemble each other; groups say which ones do.
        grouped = len(np.unique(groups)) < len(groups)
        self.min_gain = 0.0 if grouped else search.min_gain
        self.seconds: dict[str, float] = {}

    def outcomes(self, *, progress: bool) -> list[Outcome]:
        """Give every candidate's outcome, the plain embedding first."""
        start = time.perf_counter()
        found = [outcome for encoder in self._encoders() for outcome in self._scanned(encoder)]
        start = self._clock("scan", start)
        if any(not isinstance(spec, Activation) for spec in self.specs):
            found += self._with_gradients(found, progress=progress)
            start = self._clock("gradients", start)
        position, _ = choose(found, self.specs, self.min_gain)
        found += self._reduced(found[position].candidate)
        self._clock("reduction", start)
        return found

    def build(self, candidate: Candidate) -> FungiExtractor:
        """Give an unfitted extractor with a candidate's config."""
        config = candidate.config(
            self._extractor.config, self.specs, adjustable=self._is_adjustable()
        )
        return self._with_config(config)

    def _clock(self, stage: str, start: float) -> float:
        now = time.perf_counter()
        self.seconds[stage] = round(now - start, 1)
        return now

    def _with_config(self, config: FungiConfig) -> FungiExtractor:
        old = self._extractor
        own = (old.config.pooling, old.config.target_layer)
        encoder = old.encoder
        if (config.pooling, config.target_layer) != own or config.audio_statistics == "fit":
            encoder = reconfigure(encoder, config, old.source)
        built = type(old)(encoder, config, source=old.source)
        built.budget = dataclasses.replace(built.budget, batch_size=old.budget.batch_size)
        return built

    def _encoders(self) -> list[Encoder]:
        """Give an encoder for each pooling, the extractor's own first."""
        old = self._extractor
        found = [old.encoder]
        for pooling in ("mean", "cls") if self._search.free_pooling else ():
            try:
                other = reconfigure(found[0], old.config.replace(pooling=pooling), old.source)
            except (ConfigError, EncoderError):
                continue  # this encoder has no such pooling, or no other than its own
            # A text encoder's "first" is its "cls".
            known = {"cls" if one.pooling == "first" else one.pooling for one in found}
            if other.pooling not in known:
                found.append(other)
        return found

    def _is_adjustable(self) -> bool:
        """Whether the encoder can be rebuilt; a third party's cannot."""
        old = self._extractor
        try:
            reconfigure(old.encoder, old.config, old.source)
        except EncoderError:
            return False
        return True

    def _scanned(self, encoder: Encoder) -> list[Outcome]:
        """Judge the embedding and each layer's activation, alone and together."""
        own = encoder.layer_path
        layers = [own]
        if self._search.free_layer and self._is_adjustable():
            layers = sibling_layers(encoder, self._search.max_layers)
        raw = self.scan(encoder, layers)
        for layer in layers:
            self._rows[encoder.pooling, layer, EMBEDDING] = raw[EMBEDDING]
            self._rows[encoder.pooling, layer, self._activation] = raw[layer]
        found = []
        for transform in self._search.transforms:
            blocks = {name: finished(rows, transform) for name, rows in raw.items()}
            candidates, combinations = [], []
            for layer in (own, *(layer for layer in layers if layer != own)):
                for weights in self._search.cheap_combinations(self._activation):
                    if len(weights) == 1 and weights[0][0] == EMBEDDING and layer != own:
                        continue
                    candidates.append(self._candidate(encoder.pooling, layer, transform, weights))
                    named = [(layer if n == self._activation else n, w) for n, w in weights]
                    combinations.append(named)
            found += self._judge(candidates, blocks, combinations)
        return found

    def _with_gradients(self, scanned: list[Outcome], *, progress: bool) -> list[Outcome]:
        """Judge combinations with gradients of the target layer, at the best pooling so far.

        At an earlier layer every token carries a gradient, which costs several times more.
        """
        best = max(scanned, key=lambda one: one.right.mean()).candidate
        layer = self._extractor.encoder.layer_path
        weights = ((EMBEDDING, 1.0), *((spec.name, 1.0) for spec in self.specs))
        extractor = self.build(self._candidate(best.pooling, layer, weights=weights))
        rows = self.extract(extractor, progress=progress)
        for name, block in rows.items():
            self._rows[best.pooling, layer, name] = block
        combinations = list(self._search.gradient_combinations(self.specs))
        found = []
        for transform in self._search.transforms:
            blocks = {name: finished(block, transform) for name, block in rows.items()}
            candidates = [
                self._candidate(best.pooling, layer, transform, weights) for weights in combinations
            ]
            found += self._judge(candidates, blocks, combinations)
        return found

    def scan(self, encoder: Encoder, layers: list[str]) -> dict[str, Float32Array]:
        """Give "embedding" and every layer's pooled input, [N, width], of the rows that vote."""
        items = [encoder.check(raw, place) for place, raw in enumerate(self._items)]
        if hasattr(encoder, "fit"):
            encoder.fit(items)
        return scan(encoder, items, layers, self._extractor.budget)

    def extract(self, extractor: FungiExtractor, *, progress: bool) -> dict[str, Float32Array]:
        """Give every block, [N, width], of the rows that vote."""
        features = extractor.fit(self._items)(self._items, progress=progress)
        return {name: features.block(name) for name in features.layout}

    def _reduced(self, chosen: Candidate) -> list[Outcome]:
        """Judge PCAs of the chosen features."""
        parts = [
            weight**0.5 * finished(self._rows[chosen.pooling, chosen.layer, name], chosen.transform)
            for name, weight in chosen.weights
        ]
        rows = torch.from_numpy(np.concatenate(parts, axis=1, dtype=np.float32))
        found = []
        for n_components in self._search.components:
            if n_components < min(rows.shape):
                pca = PrincipalComponents.fit(rows, n_components)
                blocks = {_REDUCED: unit_rows(pca.transform(rows)).numpy()}
                candidate = dataclasses.replace(chosen, components=n_components)
                found += self._judge([candidate], blocks, [[(_REDUCED, 1.0)]])
        return found

    def _candidate(
        self,
        pooling: str,
        layer: str,
        transform: Transform | None = None,
        weights: tuple[tuple[str, float], ...] = (),
    ) -> Candidate:
        transform = transform or self._search.transforms[0]
        return Candidate(pooling=pooling, layer=layer, transform=transform, weights=weights)

    def _judge(
        self,
        candidates: list[Candidate],
        blocks: dict[str, Float32Array],
        combinations: list[Any],
    ) -> list[Outcome]:
        right = leave_one_out(
            blocks, combinations, self._codes, self._groups, self._search.n_neighbors
        )
        return [Outcome(one, rows) for one, rows in zip(candidates, right, strict=True)]


def finished(rows: Float32Array, transform: Transform) -> Float32Array:
    """Centre, whiten and normalise one block as `Finisher` does, learning from the rows given."""
    config = FungiConfig(objectives=(), center=transform.center, whitening=transform.whitening)
    finisher = Finisher(config, {EMBEDDING: rows.shape[1]}, {})
    block = {EMBEDDING: torch.from_numpy(rows)}
    finisher.fit(block)
    return finisher.finish(block)
