"""The stages of a tuning: a scan of layers and poolings, one extraction of gradients, a PCA."""

from __future__ import annotations

import dataclasses
import time
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from fungi_hf.config import FungiConfig
from fungi_hf.errors import ConfigError, EncoderError, LayerUseError
from fungi_hf.extraction.finish import Finisher
from fungi_hf.extraction.reduction import PrincipalComponents
from fungi_hf.gradients.factors import unit_rows
from fungi_hf.tuning.candidates import EMBEDDING, Candidate
from fungi_hf.tuning.sample import draw_few
from fungi_hf.tuning.scan import scan, sibling_layers
from fungi_hf.tuning.selection import Outcome, choose
from fungi_hf.tuning.votes import leave_one_out

if TYPE_CHECKING:
    from fungi_hf.encoders.base import Encoder
    from fungi_hf.extractor import FungiExtractor
    from fungi_hf.tuning.candidates import Transform
    from fungi_hf.tuning.search import TuningSearch
    from fungi_hf.tuning.votes import BoolArray
    from fungi_hf.types import Float32Array, Float64Array, Int64Array

_REDUCED = "reduced"
FEW_ROWS = 10  # of each class, where nearly all rows are right; also the number of neighbours
FEW_DRAWS = 3


class Stages:
    """Scores candidates on the rows that vote; nothing else is read.

    Attributes:
        specs: The objectives that candidates name, the activation among them.
        activations: Layer -> block, lowest layer first.
        notes: Facts that a reader of the scores needs.
        seconds: Stage -> seconds: "scan" and "gradients" of the encoder, "votes" of all else.
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
        encoder = extractor.encoder
        self._layer = encoder.layer_path
        layers = [self._layer]
        if search.free_layer:
            layers = sibling_layers(encoder, search.max_layers)
        own = [s.layer for s in search.wanted(extractor.config) if not s.has_gradient]
        layers = [*(layer for layer in own if layer and layer not in layers), *layers]
        self.specs = search.specs(extractor.config, layers, self._layer)
        found = [spec.name for spec in self.specs if not spec.has_gradient]
        self.activations = dict(zip(layers, found, strict=True))  # layer -> block
        self._rows: dict[tuple[str, str], Float32Array] = {}  # (pooling, block)
        self._few: list[Int64Array] | None = None  # rows that vote; empty for all
        self._k = min(search.n_neighbors, max(1, len(codes) // 2))
        self.notes: list[str] = []
        if self._k < search.n_neighbors:
            self.notes.append(
                f"{self._k} neighbours voted, not {search.n_neighbors}: half of the {len(codes)} "
                "rows, since with more the other classes always win"
            )
        self.seconds: dict[str, float] = {}

    @property
    def has_few_voters(self) -> bool:
        """Whether candidates were compared by few votes, since nearly all rows are right."""
        return bool(self._few)

    def outcomes(self, *, progress: bool) -> list[Outcome]:
        """Give every candidate's outcome, the plain embedding first, PCAs last."""
        start = time.perf_counter()
        found = [outcome for encoder in self._encoders() for outcome in self._scanned(encoder)]
        if any(spec.has_gradient for spec in self.specs):
            found += self._with_gradients(found, progress=progress)
        position = choose(found, self.specs, self._search)
        found += self._reduced(found[position].candidate)
        total = time.perf_counter() - start
        self.seconds["votes"] = round(total - sum(self.seconds.values()), 1)
        return found

    def build(self, candidate: Candidate) -> FungiExtractor:
        """Give an unfitted extractor with a candidate's config."""
        config = candidate.config(
            self._extractor.config, self.specs, adjustable=self._is_adjustable()
        )
        return self._with_config(config)

    def _add_seconds(self, stage: str, start: float) -> None:
        now = time.perf_counter()
        self.seconds[stage] = round(self.seconds.get(stage, 0.0) + now - start, 1)

    def _with_config(self, config: FungiConfig) -> FungiExtractor:
        old = self._extractor
        own = (old.config.pooling, old.config.target_layer)
        encoder = old.encoder
        if (config.pooling, config.target_layer) != own or config.audio_statistics == "fit":
            encoder = encoder.rebuilt(config)
        built = type(old)(encoder, config, source=old.source)
        built.budget = dataclasses.replace(built.budget, batch_size=old.budget.batch_size)
        return built

    def _encoders(self) -> list[Encoder]:
        """Give an encoder for each pooling, the extractor's own first."""
        old = self._extractor
        found = [old.encoder]
        if old.config.audio_statistics == "fit":  # a scan fits it, and it is the caller's
            found = [old.encoder.rebuilt(old.config)]
        for pooling in ("mean", "cls") if self._search.free_pooling else ():
            try:
                other = found[0].rebuilt(old.config.replace(pooling=pooling))
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
            old.encoder.rebuilt(old.config)
        except EncoderError:
            return False
        return True

    def _scanned(self, encoder: Encoder) -> list[Outcome]:
        """Judge the embedding and the layers' activations, alone and together."""
        raw = self.scan(encoder, list(self.activations))
        named = {EMBEDDING: raw[EMBEDDING]}
        named |= {name: raw[layer] for layer, name in self.activations.items()}
        self._rows |= {(encoder.pooling, name): rows for name, rows in named.items()}
        combinations = self._search.cheap_combinations(list(self.activations.values()))
        return self._judge_transformed(encoder.pooling, named, combinations)

    def _with_gradients(self, scanned: list[Outcome], *, progress: bool) -> list[Outcome]:
        """Judge combinations with gradients of the target layer, at the best pooling so far.

        At an earlier layer every token carries a gradient, which costs several times more.
        """
        pooling = max(scanned, key=lambda one: one.share.mean()).candidate.pooling
        own = self.activations[self._layer]
        gradients = [spec.name for spec in self.specs if spec.has_gradient]
        weights = tuple((name, 1.0) for name in (EMBEDDING, *gradients, own))
        extractor = self.build(Candidate(pooling=pooling, layer=self._layer, weights=weights))
        try:
            rows = self.extract(extractor, progress=progress)
        except LayerUseError as error:
            self.notes.append(f"no gradients were tried with pooling {pooling!r}: {error}")
            return []
        self._rows |= {(pooling, name): block for name, block in rows.items()}
        names = list(self.activations.values())
        combinations = list(self._search.gradient_combinations(self.specs, names, own))
        known = {name: self._rows[pooling, name] for name in names}
        return self._judge_transformed(pooling, known | rows, combinations)

    def scan(self, encoder: Encoder, layers: list[str]) -> dict[str, Float32Array]:
        """Give "embedding" and every layer's pooled input, [N, width], of the rows that vote."""
        start = time.perf_counter()
        items = [encoder.check(raw, place) for place, raw in enumerate(self._items)]
        encoder.fit(items)
        found = scan(encoder, items, layers, self._extractor.budget)
        self._add_seconds("scan", start)
        return found

    def extract(self, extractor: FungiExtractor, *, progress: bool) -> dict[str, Float32Array]:
        """Give every block, [N, width], of the rows that vote."""
        start = time.perf_counter()
        features = extractor.fit(self._items)(self._items, progress=progress)
        self._add_seconds("gradients", start)
        return {name: features.block(name) for name in features.layout}

    def _reduced(self, chosen: Candidate) -> list[Outcome]:
        """Judge PCAs of the chosen features."""
        parts = [
            weight**0.5 * finished(self._rows[chosen.pooling, name], chosen.transform)
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

    def _judge_transformed(
        self, pooling: str, rows: dict[str, Float32Array], combinations: list[Any]
    ) -> list[Outcome]:
        """Judge combinations under every transform."""
        found = []
        for transform in self._search.transforms:
            blocks = {name: finished(block, transform) for name, block in rows.items()}
            candidates = [
                Candidate(pooling=pooling, layer=self._layer, transform=transform, weights=weights)
                for weights in combinations
            ]
            found += self._judge(candidates, blocks, combinations)
        return found

    def _judge(
        self,
        candidates: list[Candidate],
        blocks: dict[str, Float32Array],
        combinations: list[Any],
    ) -> list[Outcome]:
        """Classify every row by the others; the first call judges the plain embedding first."""

        def right(k: int, voters: Int64Array | None = None) -> BoolArray:
            return leave_one_out(blocks, combinations, self._codes, self._groups, k, voters)

        whole = right(self._k)
        if self._few is None:
            at_ceiling = whole[0].mean() >= self._search.ceiling
            seed = self._search.seed
            self._few = draw_few(self._codes, FEW_ROWS, FEW_DRAWS, seed) if at_ceiling else []
        shares: Float64Array = whole.astype(np.float64)
        if self._few:
            shares = np.mean([right(min(FEW_ROWS, self._k), few) for few in self._few], axis=0)
        return [
            Outcome(one, rows, share)
            for one, rows, share in zip(candidates, whole, shares, strict=True)
        ]


def finished(rows: Float32Array, transform: Transform) -> Float32Array:
    """Centre, whiten and normalise one block as `Finisher` does, learning from the rows given."""
    config = FungiConfig(objectives=(), center=transform.center, whitening=transform.whitening)
    finisher = Finisher(config, {EMBEDDING: rows.shape[1]}, {})
    block = {EMBEDDING: torch.from_numpy(rows)}
    finisher.fit(block)
    return finisher.finish(block)
