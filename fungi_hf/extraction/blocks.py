"""Raw blocks of samples: objectives, sketch and views of one config applied to one encoder."""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING, Any

import torch

from fungi_hf.errors import StateError, choices
from fungi_hf.extraction.activations import activation_layers, calling
from fungi_hf.extraction.batches import Budget, cut_groups
from fungi_hf.extraction.draws import TrainingDraw
from fungi_hf.extraction.group import Group, Plan
from fungi_hf.extraction.inputs import InputReader
from fungi_hf.gradients.buffering import SketchBuffer
from fungi_hf.gradients.sketches import DenseSketch, make_sketch
from fungi_hf.gradients.tape import own_context, untouched
from fungi_hf.objectives.build import make_objective

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from tqdm import tqdm

    from fungi_hf.config import FungiConfig
    from fungi_hf.encoders.base import Encoder
    from fungi_hf.extraction.batches import Sample
    from fungi_hf.specs import ObjectiveSpec


class BlockComputer:
    """Computes the embedding and every objective's block of samples, raw.

    Attributes:
        objectives: Block name -> objective; None for an activation block.
        sketch: The shared sketch; None for exact factors or without gradients.
        budget: Limits of batches and groups.
        reader: Prepares inputs and their views.
        draw_streams: Block name -> name that keys its draw of training inputs; by default its own.
    """

    @own_context()  # a head drawn under a caller's inference_mode could not enter a graph
    def __init__(self, encoder: Encoder, config: FungiConfig) -> None:
        """Draw heads and sketch by name; nothing is encoded yet."""
        self._activations = activation_layers(encoder, config.objectives)
        encoder = calling(encoder, [path for path, _ in self._activations.values()])
        self._encoder, self._config = encoder, config
        # Graphs above a pooled token are small; those above every token are an MLP each.
        self.budget = Budget(group_tokens=32768 if encoder.uses_short_last_block else 6144)
        self.reader = InputReader(encoder, config)
        self.draw_streams: dict[str, str] = {}
        self.objectives = {
            spec.name: make_objective(spec, width=encoder.width, seed=config.seed)
            for spec in config.objectives
        }
        layer = encoder.layer
        self._gradient_shape = (layer.out_features, layer.in_features + (layer.bias is not None))
        self._sketch_width = config.sketch_dim or encoder.width
        exact = config.sketch == "none"
        self._rank = config.sketch_rank or (4 if exact or encoder.reads_first_token else 2)
        has_gradients = any(objective is not None for objective in self.objectives.values())
        self.sketch = (
            None
            if exact or not has_gradients
            else make_sketch(
                config.sketch,
                *self._gradient_shape,
                self._sketch_width,
                seed=config.seed,
                rank=self._rank,
                published=config.published_signs,
            )
        )

    @property
    def widths(self) -> dict[str, int]:
        """Block name -> width of the raw block, the embedding first."""
        widths = {"embedding": self._encoder.width}
        exact = self._rank * sum(self._gradient_shape)
        for name, objective in self.objectives.items():
            if objective is None:
                widths[name] = self._activations[name][1].in_features
            else:
                widths[name] = exact if self._config.sketch == "none" else self._sketch_width
        return widths

    @property
    def factor_shapes(self) -> dict[str, tuple[int, int]]:
        """Block name -> (m, n1) of the blocks kept as exact factors."""
        if self._config.sketch != "none":
            return {}
        return {n: self._gradient_shape for n, o in self.objectives.items() if o is not None}

    def digests(self) -> dict[str, str]:
        """Digests of every random object drawn at construction."""
        digests = {
            f"objective/{name}": objective.digest()
            for name, objective in self.objectives.items()
            if objective is not None and hasattr(objective, "digest")
        }
        if self.sketch is not None:
            digests["sketch"] = self.sketch.digest()
        return digests

    @own_context()
    def compute(
        self,
        samples: list[Sample],
        budget: Budget,
        bar: tqdm[Any],
        lost: dict[str, float] | None = None,
    ) -> dict[str, torch.Tensor]:
        """Give every raw block of a chunk, [N, width] float32, in the chunk's order.

        Args:
            samples: The chunk.
            budget: Limits of batches and groups.
            bar: Moved by one per sample.
            lost: Updated: block of exact factors -> largest share of a squared norm dropped.
        """
        plan = Plan(
            encoder=self._encoder,
            objectives=self.objectives,
            activations=self._activations,
            sketch=self.sketch,
            rank=self._rank,
            tokens=self._config.gradient_tokens,
            round_sketch=self._config.round_sketch,
        )
        blocks = {
            name: torch.empty(len(samples), width, dtype=torch.float32)
            for name, width in self.widths.items()
        }
        waiting = {}
        if isinstance(self.sketch, DenseSketch):
            waiting = {
                name: SketchBuffer(self.sketch, blocks[name], rounded=plan.round_sketch)
                for name, objective in self.objectives.items()
                if objective is not None
            }
        with untouched(self._encoder.model):
            for group in cut_groups(samples, budget):
                rows = torch.tensor([sample.index for sample in group])
                computed = Group(group, plan, budget)
                for name, block in computed.blocks(waiting, rows).items():
                    blocks[name][rows] = block
                if lost is not None:
                    lost |= {n: max(x, lost.get(n, 0.0)) for n, x in computed.lost.items()}
                bar.update(len(group))
        for buffer in waiting.values():
            buffer.flush()
        return blocks

    def draw_training_inputs(self, checked: Iterable[Any]) -> TrainingDraw:
        """Begin one pass over checked inputs that keeps what the objectives will learn from."""
        wanted = {spec.name: spec.n_training for spec in self._config.objectives if spec.needs_fit}
        return TrainingDraw(
            checked, wanted, self._encoder.content, self._config.seed, self.draw_streams
        )

    @own_context()
    def fit_objectives(self, draw: TrainingDraw) -> dict[str, dict[str, torch.Tensor]]:
        """Let every objective learn from the training inputs that a finished pass has kept.

        Returns:
            Block name -> what its objective learned.
        """
        for spec in self._config.objectives:
            if spec.needs_fit:
                self._fit(spec, draw.kept(spec.name))
        return {
            name: objective.state()
            for name, objective in self.objectives.items()
            if objective is not None and hasattr(objective, "state") and objective.state()
        }

    def _fit(self, spec: ObjectiveSpec, chosen: list[Any]) -> None:
        objective = self.objectives[spec.name]
        if len(chosen) < spec.n_training:
            warnings.warn(
                f"objective {spec.name!r} wants {spec.n_training} distinct training inputs; "
                f"all {len(chosen)} are used",
                stacklevel=5,
            )
        plan = Plan(encoder=self._encoder, objectives={}, sketch=None)
        parts: dict[int, torch.Tensor] = {}
        size = self._encoder.chunk_size
        with untouched(self._encoder.model):
            for start in range(0, len(chosen), size):
                samples = self.reader.training_samples(chosen[start : start + size], spec)
                for group in cut_groups(samples, self.budget):
                    embeddings = Group(group, plan, self.budget).view_embeddings(spec.name)
                    for sample, embedding in zip(group, embeddings, strict=True):
                        parts[start + sample.index] = embedding
        if objective is not None:
            objective.fit(torch.stack([parts[i] for i in sorted(parts)]).cpu().double())

    @own_context()
    def load_state(self, state: Mapping[str, dict[str, torch.Tensor]]) -> None:
        """Give objectives back what they learned.

        Raises:
            StateError: If there is no such objective, or its state does not fit.
        """
        for name, tensors in state.items():
            objective = self.objectives.get(name)
            if objective is None:
                raise StateError(
                    f"the stored state has an objective {choices(name, self.objectives)}"
                )
            objective.load_state({key: tensor.clone() for key, tensor in tensors.items()})
