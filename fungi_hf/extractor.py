"""The one orchestrator: raw inputs to FUNGI features, with or without fitted state.

Invariant: a vector is a function of its input, the config, the encoder and the fitted state;
batch, order, padding, chunk and process change nothing but the last bits of rounding.
"""

from __future__ import annotations

import hashlib
import heapq
import itertools
import warnings
from collections import Counter
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from fungi_hf.batching import Budget, Sample, cut_groups
from fungi_hf.buffering import SketchBuffer
from fungi_hf.config import FungiConfig
from fungi_hf.encoders.loading import Source, encoder_digest, load_encoder
from fungi_hf.engine import Group, Plan
from fungi_hf.errors import (
    ConfigError,
    FungiError,
    InputError,
    InputTypeError,
    NotFittedError,
    StateError,
    choices,
)
from fungi_hf.features import Failure, FungiFeatures
from fungi_hf.finishing import Finisher
from fungi_hf.gradients import untouched
from fungi_hf.hub.store import CONFIG_NAME, STATE_NAME, HubOptions
from fungi_hf.hub.store import find_file, read_document, read_tensors, write_folder
from fungi_hf.objectives.base import make_objective
from fungi_hf.seeding import derive, sample_generator
from fungi_hf.sketches import DenseSketch, make_sketch
from fungi_hf.specs import Custom, SimCLR
from fungi_hf.state import FittedState

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping
    from pathlib import Path

    from torch import nn

    from fungi_hf.encoders.base import Encoder, Prepared
    from fungi_hf.specs import ObjectiveSpec
    from fungi_hf.types import Float32Array
    from fungi_hf.views.base import ViewGenerator


class FungiExtractor:
    """Extracts FUNGI features with one encoder and one config.

    Example:
        >>> extractor = FungiExtractor.from_pretrained("folder-or-hub-id")
        >>> features = extractor(["a text", "another"])
        >>> features.array.shape, list(features.layout)
    """

    def __init__(
        self, encoder: Encoder, config: FungiConfig | None = None, *, source: Source | None = None
    ) -> None:
        """Build heads, sketch and views; nothing is encoded yet.

        Args:
            encoder: Any object that conforms to `fungi_hf.encoders.base.Encoder`.
            config: What to compute; the default config if None.
            source: Where the encoder came from; written into saved folders.
        """
        self.encoder = encoder
        self.config = config or FungiConfig()
        self.source = source or Source()
        self.budget = Budget()
        self._objectives = {
            spec.name: make_objective(spec, width=encoder.width, seed=self.config.seed)
            for spec in self.config.objectives
        }
        self._views: dict[str, ViewGenerator] = {
            spec.name: encoder.views(spec.views, spec.n_views, spec.view_options)
            for spec in self.config.objectives
            if isinstance(spec, (SimCLR, Custom)) and spec.n_views > 1
        }
        self._streams = {spec.name: _stream(spec) for spec in self.config.objectives}
        layer = encoder.layer
        self._gradient_shape = (layer.out_features, layer.in_features + (layer.bias is not None))
        self._sketch_width = self.config.sketch_dim or encoder.width
        exact = self.config.sketch == "none"
        reads_one = getattr(encoder, "reads_first_token", False)
        self._rank = self.config.sketch_rank or (4 if exact or reads_one else 2)
        has_gradients = any(objective is not None for objective in self._objectives.values())
        self.sketch = (
            None
            if exact or not has_gradients
            else make_sketch(
                self.config.sketch,
                *self._gradient_shape,
                self._sketch_width,
                seed=self.config.seed,
                rank=self._rank,
                published=self.config.published_signs,
            )
        )
        self.state = FittedState()
        self._finisher = Finisher(self.config, self._widths(), self._factor_shapes())
        self._fingerprint: tuple[object, str] | None = None

    @classmethod
    def from_pretrained(  # noqa: PLR0913  (the ecosystem's own signature)
        cls,
        model_or_folder: str | Path | nn.Module,
        config: FungiConfig | None = None,
        processor: Any = None,
        *,
        device: str | torch.device | None = None,
        revision: str | None = None,
        token: str | bool | None = None,
        cache_dir: str | Path | None = None,
        local_files_only: bool = False,
        model: str | Path | nn.Module | None = None,
    ) -> FungiExtractor:
        """Load an encoder, or a saved extractor with its config and fitted state.

        Args:
            model_or_folder: A Hub id or folder of a model; a folder or repository written by
                `save_pretrained`; or a loaded model.
            config: What to compute. Must be None for a saved extractor. A loaded model's own
                dtype is taken when it is None.
            processor: The loaded model's tokenizer or feature extractor.
            device: Where to put a model that is loaded here.
            revision: Branch, tag or commit.
            token: Access token of the Hub.
            cache_dir: Cache folder of the Hub.
            local_files_only: Do not ask the network.
            model: The encoder of a saved extractor when it is not where it was.

        Returns:
            The extractor.

        Raises:
            EncoderError: If the model or its preprocessor cannot be used.
            StateError: If a saved folder's digests do not hold here.
            StorageError: If a folder or repository cannot be read.
            ConfigError: If the config does not fit the encoder.
        """
        hub = HubOptions(
            revision=revision, token=token, cache_dir=cache_dir, local_files_only=local_files_only
        )
        if not isinstance(model_or_folder, torch.nn.Module):
            found = find_file(model_or_folder, CONFIG_NAME, hub)
            if found is not None:
                if config is not None:
                    raise ConfigError(
                        f"{str(model_or_folder)!r} brings its own config; pass config=None, or the "
                        "model's own name with your config"
                    )
                return cls._load(model_or_folder, found, processor, device, hub, model)
        if config is None:
            config = FungiConfig()
            if isinstance(model_or_folder, torch.nn.Module):
                dtype = str(next(model_or_folder.parameters()).dtype).removeprefix("torch.")
                config = config.replace(dtype=dtype)
        encoder, source = load_encoder(
            model_or_folder, config, processor=processor, device=device, hub=hub
        )
        return cls(encoder, config, source=source)

    @classmethod
    def _load(  # noqa: PLR0913, PLR0917
        cls,
        folder: str | Path,
        config_path: Path,
        processor: Any,
        device: str | torch.device | None,
        hub: HubOptions,
        model: str | Path | nn.Module | None,
    ) -> FungiExtractor:
        document = read_document(config_path)
        config = FungiConfig.from_dict(document["config"])
        recorded = document.get("encoder") or {}
        beside = find_file(folder, "config.json", hub) is not None
        where = model if model is not None else (folder if beside else recorded.get("name"))
        if not where:
            raise StateError(
                f"{str(folder)!r} does not name its encoder (it was made from a model object); "
                "pass model="
            )
        elsewhere = HubOptions(
            revision=recorded.get("revision") if where == recorded.get("name") else None,
            token=hub.token,
            cache_dir=hub.cache_dir,
            local_files_only=hub.local_files_only,
        )
        encoder, source = load_encoder(
            where,
            config.replace(**(document.get("resolved") or {})),
            processor=processor,
            device=device,
            hub=hub if beside and where == folder else elsewhere,
        )
        extractor = cls(encoder, config, source=source)
        state_path = find_file(folder, STATE_NAME, hub)
        tensors = {} if state_path is None else read_tensors(state_path)
        extractor._restore(document, FittedState.from_tensors(tensors))
        return extractor

    def _restore(self, document: Mapping[str, Any], state: FittedState) -> None:
        stored = document.get("digests") or {}
        here = {**self._digests(), "state": state.digest(), "encoder": encoder_digest(self.encoder)}
        for name, digest in stored.items():
            if here.get(name) != digest:
                raise StateError(
                    f"the digest of {name!r} is {here.get(name)} here and {digest} in the saved "
                    "folder: the file was altered, the encoder's weights differ, or this version "
                    "of torch draws other random numbers; features would not be comparable"
                )
        self._set_state(state)

    def _set_state(self, state: FittedState) -> None:
        for name, tensors in state.objectives.items():
            objective = self._objectives.get(name)
            if objective is None:
                raise StateError(
                    f"the stored state has an objective {choices(name, self._objectives)}"
                )
            objective.load_state(tensors)
        self._finisher.load(state.means, state.components)
        if state.encoder:
            self.encoder.load_state(state.encoder)  # type: ignore[attr-defined]
        self.state = state
        self._fingerprint = None

    def _digests(self) -> dict[str, str]:
        digests = {
            f"objective/{name}": objective.digest()
            for name, objective in self._objectives.items()
            if objective is not None and hasattr(objective, "digest")
        }
        if self.sketch is not None:
            digests["sketch"] = self.sketch.digest()
        return digests

    def save_pretrained(self, folder: str | Path) -> None:
        """Write config, encoder name, digests and fitted state; the model itself is not copied.

        Args:
            folder: Made if missing. Files of a model that live there are not touched.

        Raises:
            StorageError: If the folder cannot be written.
        """
        document = {
            "config": self.config.to_dict(),
            "encoder": {"name": self.source.name, "revision": self.source.revision},
            "resolved": {
                "target_layer": self.encoder.layer_path,
                "pooling": self.encoder.pooling,
                "max_length": self.encoder.max_length,
            },
            "digests": {
                **self._digests(),
                "state": self.state.digest(),
                "encoder": encoder_digest(self.encoder),
            },
            "fingerprint": self.fingerprint,
        }
        write_folder(folder, document, self.state.to_tensors())

    @property
    def is_fitted(self) -> bool:
        """Whether everything that the config wants from `fit` is there."""
        return not self._missing_state()

    def _missing_state(self) -> list[str]:
        missing = [
            spec.name
            for spec in self.config.objectives
            if spec.needs_fit and not self.state.objectives.get(spec.name)
        ]
        if self.config.center and not self.state.means:
            missing.append("center")
        if self.config.reduction is not None and not self._finisher.has_reduction:
            missing.append("reduction")
        if self.config.audio_statistics == "fit" and not self.state.encoder:
            missing.append("audio_statistics")
        return missing

    @property
    def layout(self) -> dict[str, slice]:
        """Ordered block name -> slice of the columns."""
        return self._finisher.layout

    @property
    def fingerprint(self) -> str:
        """Digest of config, encoder (weights, preprocessor, layer, pooling, length) and state."""
        versions = tuple((p.data_ptr(), p._version) for p in self.encoder.model.parameters())  # noqa: SLF001
        if self._fingerprint is None or self._fingerprint[0] != versions:
            parts = (
                self.config.fingerprint(),
                encoder_digest(self.encoder),
                self.encoder.layer_path,
                self.encoder.pooling,
                str(self.encoder.max_length),
                self.state.digest(),
            )
            digest = hashlib.sha256("|".join(parts).encode()).hexdigest()[:16]
            self._fingerprint = (versions, digest)
        return self._fingerprint[1]

    def fit(
        self, inputs: Iterable[Any], labels: Any = None, *, progress: bool = False
    ) -> FungiExtractor:
        """Learn what the config asks for: negative banks, block means, principal components.

        Args:
            inputs: Training inputs; nothing depends on their order.
            labels: Ignored; taken so that the call fits scikit-learn's convention.
            progress: Show a bar.

        Returns:
            The extractor itself.

        Raises:
            InputError: If there are no inputs, or one is unusable.
        """
        del labels
        self._fit(inputs, progress=progress)
        return self

    def fit_transform(
        self, inputs: Iterable[Any], labels: Any = None, *, progress: bool = False
    ) -> FungiFeatures:
        """`fit`, and give the training inputs' features with one extraction less.

        Args:
            inputs: Training inputs.
            labels: Ignored.
            progress: Show a bar.

        Returns:
            The features of `inputs`.

        Raises:
            InputError: If there are no inputs, or one is unusable.
        """
        del labels
        raw = self._fit(inputs, progress=progress)
        if raw is None:
            return self(inputs, progress=progress)
        array = self._finisher.finish(raw)
        return self._features(array, (), ())

    def _fit(self, inputs: Iterable[Any], *, progress: bool) -> dict[str, torch.Tensor] | None:
        items = [self.encoder.check(raw, i) for i, raw in enumerate(_items(inputs))]
        if not items:
            raise InputError("fit needs at least one input; got none")
        if hasattr(self.encoder, "fit"):
            self.encoder.fit(items)
        for spec in self.config.objectives:
            if spec.needs_fit and isinstance(spec, (SimCLR, Custom)):
                self._fit_objective(spec, items)
        objectives = {
            name: objective.state()
            for name, objective in self._objectives.items()
            if objective is not None and hasattr(objective, "state") and objective.state()
        }
        encoder_state = getattr(self.encoder, "state", dict)()
        raw = None
        means: dict[str, torch.Tensor] = {}
        components = None
        if self.config.center or self.config.reduction is not None:
            raw = self._raw_blocks(items, progress=progress)
            means, components = self._finisher.fit(raw)
        self._set_state(FittedState(objectives, means, components, encoder_state))
        return raw

    def _fit_objective(self, spec: SimCLR | Custom, items: list[Any]) -> None:
        wanted = spec.n_negatives if isinstance(spec, SimCLR) else spec.n_fit
        per_input = spec.negative_views if isinstance(spec, SimCLR) else spec.n_views
        chosen = self._draw(items, wanted, spec.name)
        if len(chosen) < wanted:
            warnings.warn(
                f"objective {spec.name!r} wants {wanted} distinct training inputs; "
                f"all {len(chosen)} are used",
                stacklevel=5,
            )
        views = self.encoder.views(spec.views, per_input, spec.view_options)
        prepared = self._prepare(chosen)
        samples = [
            Sample(i, item, {spec.name: self._make_views(raw, views, _stream(spec))})
            for i, (raw, item) in enumerate(zip(chosen, prepared, strict=True))
        ]
        plan = Plan(encoder=self.encoder, objectives={}, sketch=None)
        parts: list[tuple[int, torch.Tensor]] = []
        with untouched(self.encoder.model):
            for group in cut_groups(samples, self.budget):
                embeddings = Group(group, plan, self.budget).view_embeddings(spec.name)
                parts += [(s.index, e) for s, e in zip(group, embeddings, strict=True)]
        stacked = torch.stack([e for _, e in sorted(parts, key=lambda part: part[0])])
        objective = self._objectives[spec.name]
        if objective is not None:
            objective.fit(stacked.cpu().double())

    def _draw(self, items: list[Any], wanted: int, name: str) -> list[Any]:
        """Draw distinct inputs by the seeded digest of their content: order does not matter."""
        keyed: dict[int, Any] = {}
        for raw in items:
            keyed.setdefault(
                derive(self.config.seed, "negatives", name, self.encoder.content(raw)), raw
            )
        return [keyed[key] for key in heapq.nsmallest(wanted, keyed)]

    def __call__(
        self,
        inputs: Iterable[Any],
        batch_size: int | None = None,
        *,
        progress: bool = False,
        on_error: str = "raise",
    ) -> FungiFeatures:
        """Extract features.

        Args:
            inputs: A list, generator, array or data set column of raw inputs. Generators are
                read in chunks; memory grows with the output alone.
            batch_size: Most inputs of one forward pass; None lets the token budget decide.
                It does not change the features.
            progress: Show a bar.
            on_error: "raise", or "skip" to leave unusable inputs out and list them in
                `.failures`.

        Returns:
            Features in the inputs' order, [N, F] float32.

        Raises:
            NotFittedError: If the config needs `fit` first.
            InputError: If an input is unusable.
            InputTypeError: If an input, or `inputs` itself, has the wrong type.
        """
        if on_error not in ("raise", "skip"):
            raise ConfigError(f"on_error is {choices(on_error, ('raise', 'skip'))}")
        missing = self._missing_state()
        if missing:
            raise NotFittedError(
                f"the config needs training inputs for {', '.join(missing)}; "
                "call extractor.fit(training_inputs) first"
            )
        budget = _with_batch_size(self.budget, batch_size)
        arrays: list[Float32Array] = []
        failures: list[Failure] = []
        notes: Counter[str] = Counter()
        for chunk in self._chunks(inputs, on_error, failures, notes, progress=progress):
            blocks = self._extract(chunk, budget)
            arrays.append(self._finisher.finish(blocks))
        self._warn(notes)
        array = _join(arrays, self._finisher.width)
        return self._features(array, tuple(failures), self._finisher.notes)

    def _features(
        self, array: Float32Array, failures: tuple[Failure, ...], notes: tuple[str, ...]
    ) -> FungiFeatures:
        return FungiFeatures(
            array=array,
            layout=dict(self._finisher.layout),
            fingerprint=self.fingerprint,
            factors=self._factor_shapes(),
            failures=failures,
            notes=notes,
        )

    def _raw_blocks(self, items: list[Any], *, progress: bool) -> dict[str, torch.Tensor]:
        parts = [
            self._extract(chunk, self.budget)
            for chunk in self._chunks(items, "raise", [], Counter(), progress=progress)
        ]
        return {name: torch.cat([part[name] for part in parts]) for name in parts[0]}

    def _chunks(
        self,
        inputs: Iterable[Any],
        on_error: str,
        failures: list[Failure],
        notes: Counter[str],
        *,
        progress: bool,
    ) -> Iterator[list[Sample]]:
        """Check, prepare and make views, a chunk of inputs at a time."""
        from tqdm.auto import tqdm

        source = enumerate(_items(inputs))
        total = len(inputs) if hasattr(inputs, "__len__") else None
        with tqdm(total=total, disable=not progress, unit="input") as bar:
            while chunk := list(itertools.islice(source, self.encoder.chunk_size)):
                samples = self._samples(chunk, on_error, failures)
                for sample in samples:
                    notes.update(sample.original.notes)
                if samples:
                    yield samples
                bar.update(len(chunk))

    def _samples(
        self, chunk: list[tuple[int, Any]], on_error: str, failures: list[Failure]
    ) -> list[Sample]:
        raws: list[Any] = []
        prepared: list[Prepared] = []
        try:
            raws = [self.encoder.check(raw, index) for index, raw in chunk]
            prepared = self.encoder.prepare(raws)
        except FungiError:
            if on_error == "raise":
                raise
            raws, prepared = [], []
            for index, raw in chunk:
                try:
                    checked = self.encoder.check(raw, index)
                    prepared += self.encoder.prepare([checked])
                    raws.append(checked)
                except FungiError as error:
                    failures.append(Failure(index=index, source=_describe(raw), error=str(error)))
        return [
            Sample(
                place,
                item,
                {
                    name: self._make_views(raw, views, self._streams[name])
                    for name, views in self._views.items()
                },
            )
            for place, (raw, item) in enumerate(zip(raws, prepared, strict=True))
        ]

    def _prepare(self, raws: list[Any]) -> list[Prepared]:
        return self.encoder.prepare(raws)

    def _make_views(self, raw: Any, views: ViewGenerator, stream: str) -> list[Prepared]:
        generator = sample_generator(self.config.seed, f"views/{stream}", self.encoder.content(raw))
        made = views(raw, generator)
        distinct: dict[bytes, Any] = {self.encoder.content(view): view for view in made}
        prepared = dict(zip(distinct, self.encoder.prepare(list(distinct.values())), strict=True))
        return [prepared[self.encoder.content(view)] for view in made]

    def _extract(self, samples: list[Sample], budget: Budget) -> dict[str, torch.Tensor]:
        """Give every raw block of a chunk, [N, width] float32, in the chunk's order."""
        plan = Plan(
            encoder=self.encoder,
            objectives=self._objectives,
            sketch=self.sketch,
            rank=self._rank,
            tokens=self.config.gradient_tokens,
            round_sketch=self.config.round_sketch,
        )
        blocks = {name: torch.empty(len(samples), width) for name, width in self._widths().items()}
        waiting = {}
        if isinstance(self.sketch, DenseSketch):
            waiting = {
                name: SketchBuffer(self.sketch, blocks[name], rounded=plan.round_sketch)
                for name, objective in self._objectives.items()
                if objective is not None
            }
        with untouched(self.encoder.model):
            for group in cut_groups(samples, budget):
                rows = torch.tensor([sample.index for sample in group])
                for name, block in Group(group, plan, budget).blocks(waiting, rows).items():
                    blocks[name][rows] = block
        for buffer in waiting.values():
            buffer.flush()
        return blocks

    def _widths(self) -> dict[str, int]:
        widths = {"embedding": self.encoder.width}
        exact = self._rank * sum(self._gradient_shape)
        for name, objective in self._objectives.items():
            if objective is None:
                widths[name] = self.encoder.layer.in_features
            else:
                widths[name] = exact if self.config.sketch == "none" else self._sketch_width
        return widths

    def _factor_shapes(self) -> dict[str, tuple[int, int]]:
        if self.config.sketch != "none":
            return {}
        return {n: self._gradient_shape for n, o in self._objectives.items() if o is not None}

    def _warn(self, notes: Counter[str]) -> None:
        for name, count in notes.items():
            message = self.encoder.NOTES[name].format(n=count, limit=self.encoder.max_length)
            warnings.warn(message, stacklevel=3)


def _stream(spec: ObjectiveSpec) -> str:
    """Name the random stream of an objective's views: variants of one objective share them."""
    return spec.objective if isinstance(spec, Custom) else spec.kind


def _items(inputs: Any) -> Iterator[Any]:
    """Iterate over inputs, refusing what only looks like many."""
    if isinstance(inputs, (str, bytes, bytearray, dict)) or not hasattr(inputs, "__iter__"):
        raise InputTypeError(
            f"inputs must be a list or another iterable of inputs; got one {type(inputs).__name__}: "
            "pass a list"
        )
    return iter(inputs)


def _with_batch_size(budget: Budget, batch_size: int | None) -> Budget:
    if batch_size is None:
        return budget
    if isinstance(batch_size, bool) or not isinstance(batch_size, int) or batch_size < 1:
        raise ConfigError(f"batch_size must be None or an integer >= 1; got {batch_size!r}")
    return Budget(
        batch_tokens=budget.batch_tokens, batch_size=batch_size, group_tokens=budget.group_tokens
    )


def _join(arrays: list[Float32Array], width: int) -> Float32Array:
    if not arrays:
        return np.empty((0, width), dtype=np.float32)
    return arrays[0] if len(arrays) == 1 else np.concatenate(arrays)


def _describe(raw: object) -> str:
    text = repr(raw)
    return text if len(text) <= 80 else f"{text[:77]}..."
