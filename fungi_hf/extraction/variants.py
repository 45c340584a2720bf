"""Blocks of many variants at once: layers x objectives x sketches from the same forward passes.

What differs between two variants is what is swept: heads are drawn by an objective's name, sketches
and views by the config's seed, as an extractor of that variant alone would draw them.
"""

from __future__ import annotations

import dataclasses
from contextlib import closing
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

import torch
from tqdm.auto import tqdm

from fungi_hf.errors import ConfigError, InputError, LayerNotFoundError, choices
from fungi_hf.extraction.batches import Budget, cut_groups
from fungi_hf.extraction.draws import NO_INPUT, TrainingDraw, fit_objectives
from fungi_hf.extraction.finish import check_finite
from fungi_hf.extraction.group import Group
from fungi_hf.extraction.inputs import InputReader, iterate
from fungi_hf.extraction.latents import AllTraining, fit_latents
from fungi_hf.extraction.plan import Plan, sketch_rank, token_encoder
from fungi_hf.gradients.factors import concatenate, unit_rows
from fungi_hf.gradients.layers import block_number, linear_layers
from fungi_hf.gradients.sketches import SketchBuffer, make_sketch
from fungi_hf.gradients.tape import own_context, untouched
from fungi_hf.objectives.base import make_objective

if TYPE_CHECKING:
    from collections.abc import Generator, Iterable, Mapping, Sequence

    from torch import Tensor

    from fungi_hf.config import FungiConfig
    from fungi_hf.encoders.base import Encoder
    from fungi_hf.gradients.factors import LayerFactors
    from fungi_hf.gradients.sketches import Sketch
    from fungi_hf.specs import ObjectiveSpec
    from fungi_hf.types import Float32Array

_TOKENS: Final = 8192  # of the graphs that are alive, over the blocks that they span


@dataclass(frozen=True, slots=True, kw_only=True)
class SketchSettings:
    """One sketch of a sweep.

    Attributes:
        kind: As in `FungiConfig.sketch`, without "none".
        width: P.
        rank: Terms of a Khatri-Rao sketch; dense kinds have none.
        seed: None takes the config's.
    """

    kind: str = "khatri_rao"
    width: int = 384
    rank: int = 4
    seed: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class VariantBlocks:
    """Blocks of N inputs, rows of unit norm (all zero where a gradient is)."""

    embedding: Float32Array  # [N, D]
    gradients: dict[tuple[str, str, str], Float32Array]  # (layer, objective, sketch) -> [N, P]
    activations: dict[str, Float32Array] = field(default_factory=dict)  # layer -> pooled, [N, n]
    unusable: dict[str, str] = field(default_factory=dict)  # layer -> why it has no blocks


class VariantExtractor:
    """Computes the blocks of all variants of one encoder and config.

    Attributes:
        layers: Dotted path -> layer, lowest first.
        objectives: Name of the variant -> objective.
    """

    @own_context()
    def __init__(
        self,
        encoder: Encoder,
        config: FungiConfig,
        *,
        layers: Sequence[str] | None = None,
        objectives: Mapping[str, ObjectiveSpec] | None = None,
        sketches: Mapping[str, SketchSettings] | None = None,
    ) -> None:
        """Draw heads and sketches; nothing is encoded yet.

        Args:
            encoder: Used, not changed.
            config: Objectives, seed, sketch and tokens where nothing else is said; what follows
                raw blocks is not applied.
            layers: Dotted paths; None takes those of the objectives.
            objectives: Name of the variant -> its spec, whose own name draws the head, so that
                variants can share one. None takes the config's objectives under their names.
            sketches: Name -> settings; None takes the config's sketch, named "config".

        Raises:
            ConfigError: If no objective has a gradient.
            LayerNotFoundError: If a layer is none of the model's usable Linear layers.
        """
        usable = linear_layers(encoder.model)
        for path in layers or ():
            if path not in usable:
                raise LayerNotFoundError(f"no usable linear layer {choices(path, usable)}")
        specs = objectives or config.losses
        own = (path for spec in specs.values() for path in spec.layers if spec.has_gradient)
        wanted = set(layers or [path or encoder.layer_path for path in own])
        self.objectives = {
            name: make_objective(spec, width=encoder.width, seed=config.seed)
            for name, spec in specs.items()
            if spec.has_gradient
        }
        if not self.objectives:
            raise ConfigError(
                "there is no gradient to compute: name an objective beside activation"
            )
        self.layers = {path: layer for path, layer in usable.items() if path in wanted}
        named = tuple(dataclasses.replace(specs[name], name=name) for name in self.objectives)
        self._config = dataclasses.replace(config, objectives=named)
        _, reads_tokens = token_encoder(encoder, self._config)
        self._plan = Plan(
            encoder=encoder.with_full_last_block(),  # a short one would not call its other layers
            objectives=self.objectives,
            layers=self.layers,
            tokens=config.gradient_tokens,
            reads_tokens=reads_tokens,
        )
        self._streams = {name: specs[name].name for name in self.objectives}
        self._reader = InputReader(self._plan.encoder, self._config)
        kind = "khatri_rao" if config.sketch == "none" else config.sketch
        width, rank = config.sketch_dim or encoder.width, sketch_rank(encoder, config, kind)
        default = {"config": SketchSettings(kind=kind, width=width, rank=rank)}
        self._settings = dict(sketches or default)
        self._sketches: dict[tuple[int, int, str], Sketch] = {}

    @property
    def budget(self) -> Budget:
        """Limits of batches and groups: the more blocks a graph spans, the fewer tokens."""
        numbers = [n for path in self.layers if (n := block_number(path)) is not None]
        every = linear_layers(self._plan.encoder.model)
        top = max((block_number(path) or 0 for path in every), default=0)
        tokens = _TOKENS // (1 + top - min(numbers, default=0))
        return Budget(batch_tokens=min(2048, tokens), group_tokens=max(512, tokens))

    def fit(self, inputs: Iterable[Any]) -> VariantExtractor:
        """Let objectives learn from training inputs, e.g. their negatives.

        Raises:
            InputError: If there is none, or one is unusable.
        """
        every = AllTraining(self._plan, self._reader, self._plan.budget, self._streams)
        draw = TrainingDraw(self._reader, inputs, self._streams, each=every.add)
        draw.finish()
        if not draw.n_inputs:
            raise InputError(NO_INPUT)
        fit_latents(self._plan, every.found())
        fit_objectives(self._plan, draw.draws, self._reader, self._plan.budget)
        return self

    def __call__(
        self, inputs: Iterable[Any], *, activations: bool = False, progress: bool = False
    ) -> VariantBlocks:
        """Extract the blocks of all variants, of activations where they are asked for, in order."""
        items = list(iterate(inputs))
        blocks: dict[Any, Tensor] = {}
        buffers: dict[Any, SketchBuffer] = {}
        unusable: dict[str, str] = {}

        def place(key: Any, width: int) -> Tensor:
            if key not in blocks:
                blocks[key] = torch.zeros(len(items), width)
            return blocks[key]

        with closing(self._groups(items, activations=activations, progress=progress)) as groups:
            for group, rows in groups:
                pooled = {"embedding": group.embeddings(), **group.activations()}
                for path, block in pooled.items():
                    place(path, block.shape[1])[rows] = block.float().cpu()
                for name in self.objectives:
                    for path, factors in group.factors(name).items():
                        for label in self._settings:
                            sketch, key = self._sketch(factors, label), (path, name, label)
                            buffer = SketchBuffer(sketch, place(key, sketch.width))
                            buffers.setdefault(key, buffer).add(rows, factors)
                unusable |= group.unusable
        for buffer in buffers.values():
            buffer.flush()
        for key, block in blocks.items():
            check_finite(block, key if isinstance(key, str) else " ".join(key))
        unit = {key: unit_rows(block).numpy() for key, block in blocks.items()}
        return VariantBlocks(
            embedding=unit.pop("embedding"),
            gradients={key: rows for key, rows in unit.items() if isinstance(key, tuple)},
            activations={key: rows for key, rows in unit.items() if key in self.layers},
            unusable=unusable,
        )

    def exact_gradients(
        self, inputs: Iterable[Any], *, progress: bool = False
    ) -> dict[tuple[str, str], LayerFactors]:
        """Give every input's exact gradients as factors, (layer, objective) -> N samples."""
        items = list(iterate(inputs))
        parts: dict[tuple[str, str], list[LayerFactors]] = {}
        with closing(self._groups(items, activations=False, progress=progress)) as groups:
            for group, rows in groups:
                for name in self.objectives:
                    for path, factors in group.factors(name).items():
                        moved = factors.placed(rows, len(items))
                        parts.setdefault((path, name), []).append(moved)
        return {key: concatenate(some) for key, some in parts.items()}

    def _groups(
        self, items: list[Any], *, activations: bool, progress: bool
    ) -> Generator[tuple[Group, Tensor]]:
        """Give groups and the places of their samples among the items."""
        plan, budget, start = self._plan, self.budget, 0
        if activations:
            noted = {path: (path, layer) for path, layer in plan.layers.items()}
            plan = dataclasses.replace(plan, activations=noted)
        with tqdm(total=len(items), disable=not progress, unit="input") as bar:
            for chunk in self._reader.read(items):
                with untouched(plan.encoder.model):
                    for samples in cut_groups(chunk, budget):
                        group = Group(samples, plan, budget)
                        yield group, start + group.rows
                        bar.update(len(samples))
                start += len(chunk)

    def _sketch(self, factors: LayerFactors, label: str) -> Sketch:
        m, n1 = factors.shape
        if (m, n1, label) not in self._sketches:
            one = self._settings[label]
            seed = self._config.seed if one.seed is None else one.seed
            made = make_sketch(one.kind, m, n1, one.width, seed=seed, rank=one.rank)
            self._sketches[m, n1, label] = made
        return self._sketches[m, n1, label]
