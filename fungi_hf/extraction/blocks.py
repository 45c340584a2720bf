"""Raw blocks of samples: objectives, sketch and views of one config applied to one encoder."""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING, Any

import torch

from fungi_hf.errors import StateError, choices
from fungi_hf.extraction.batches import Budget, cut_groups
from fungi_hf.extraction.draws import TrainingDraw
from fungi_hf.extraction.group import Group
from fungi_hf.extraction.inputs import InputReader
from fungi_hf.extraction.plan import Plan
from fungi_hf.gradients.sketches import DenseSketch, SketchBuffer
from fungi_hf.gradients.tape import own_context, untouched

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from tqdm import tqdm

    from fungi_hf.config import FungiConfig
    from fungi_hf.extraction.batches import Sample
    from fungi_hf.specs import ObjectiveSpec


class BlockComputer:
    """Computes the embedding and every objective's block of samples, raw.

    Attributes:
        plan: What is computed.
        budget: Limits of batches and groups.
        reader: Prepares inputs and their views.
    """

    def __init__(
        self, plan: Plan, config: FungiConfig, draw_streams: Mapping[str, str] | None = None
    ) -> None:
        """Build the views; nothing is encoded yet.

        Args:
            plan: Its objectives are those of the config, by name.
            config: What the plan was made from.
            draw_streams: Block name -> name that seeds its draw of training inputs, for blocks
                that share another block's draw.
        """
        self.plan, self._config, self._draw_streams = plan, config, draw_streams
        self.budget = Budget(group_tokens=32768 if plan.graphs_are_small else 6144)
        self.reader = InputReader(plan.encoder, config)

    def digests(self) -> dict[str, str]:
        """Digests of every random object drawn at construction."""
        digests = {
            f"objective/{name}": objective.digest()
            for name, objective in self.plan.objectives.items()
            if hasattr(objective, "digest")
        }
        if self.plan.sketch is not None:
            digests["sketch"] = self.plan.sketch.digest()
        return digests

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
        plan, lost = self.plan, {} if lost is None else lost
        with untouched(plan.encoder.model):
            blocks = {
                name: torch.empty(len(samples), width, dtype=torch.float32)
                for name, width in plan.widths.items()
            }
            waiting = {}
            if isinstance(plan.sketch, DenseSketch):
                waiting = {
                    name: SketchBuffer(plan.sketch, blocks[name], rounded=plan.round_sketch)
                    for name in plan.objectives
                }
            for some in cut_groups(samples, budget):
                Group(some, plan, budget).write(blocks, waiting, lost)
                bar.update(len(some))
            for buffer in waiting.values():
                buffer.flush()
        return blocks

    def draw_training_inputs(self, checked: Iterable[Any]) -> TrainingDraw:
        """Begin one pass over checked inputs that keeps what the objectives will learn from."""
        wanted = {spec.name: spec.n_training for spec in self._config.objectives if spec.needs_fit}
        content, seed = self.plan.encoder.content, self._config.seed
        return TrainingDraw(checked, wanted, content, seed, self._draw_streams)

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
            for name, objective in self.plan.objectives.items()
            if hasattr(objective, "state") and objective.state()
        }

    def _fit(self, spec: ObjectiveSpec, chosen: list[Any]) -> None:
        encoder = self.plan.encoder
        if len(chosen) < spec.n_training:
            warnings.warn(
                f"objective {spec.name!r} wants {spec.n_training} distinct training inputs; "
                f"all {len(chosen)} are used",
                stacklevel=5,
            )
        plan = Plan(encoder=encoder, objectives={})
        parts: dict[int, torch.Tensor] = {}
        size = encoder.chunk_size
        with untouched(encoder.model):
            for start in range(0, len(chosen), size):
                samples = self.reader.training_samples(chosen[start : start + size], spec)
                for group in cut_groups(samples, self.budget):
                    embeddings = Group(group, plan, self.budget).view_embeddings(spec.name)
                    for sample, embedding in zip(group, embeddings, strict=True):
                        parts[start + sample.index] = embedding
        objective = self.plan.objectives[spec.name]
        objective.fit(torch.stack([parts[i] for i in sorted(parts)]).cpu().double())

    @own_context()
    def load_state(self, state: Mapping[str, dict[str, torch.Tensor]]) -> None:
        """Give objectives back what they learned.

        Raises:
            StateError: If there is no such objective, or its state does not fit.
        """
        for name, tensors in state.items():
            objective = self.plan.objectives.get(name)
            if objective is None:
                raise StateError(
                    f"the stored state has an objective {choices(name, self.plan.objectives)}"
                )
            objective.load_state({key: tensor.clone() for key, tensor in tensors.items()})
