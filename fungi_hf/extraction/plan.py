"""What is computed of every sample and how wide it is: one encoder and one config, resolved."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from torch import nn

from fungi_hf.encoders.base import DenseEncoder, TokenEncoder
from fungi_hf.encoders.blocks import BlockEncoder
from fungi_hf.errors import ConfigError, StateError, choices
from fungi_hf.extraction.batches import Budget
from fungi_hf.gradients.layers import block_number, resolve_layer
from fungi_hf.gradients.sketches import make_sketch
from fungi_hf.gradients.tape import own_context
from fungi_hf.objectives.base import make_objective

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from torch import Tensor

    from fungi_hf.config import FungiConfig
    from fungi_hf.encoders.base import Encoder
    from fungi_hf.gradients.sketches import Sketch
    from fungi_hf.objectives.base import Objective
    from fungi_hf.specs import ObjectiveSpec


@dataclass(frozen=True, slots=True)
class GradientBlock:
    """A block of gradients: whose loss, and at which layer."""

    objective: str
    path: str
    layer: nn.Linear
    sketch: Sketch | None = None  # keeps exact factors

    @property
    def shape(self) -> tuple[int, int]:
        """(m, n1) of a gradient."""
        return self.layer.out_features, self.layer.in_features + (self.layer.bias is not None)


@dataclass(frozen=True, kw_only=True)
class Plan:
    """The blocks of one extractor by name, layers by dotted path; fixed once it is made."""

    encoder: Encoder  # holds the target layer
    objectives: Mapping[str, Objective]  # losses by name
    activations: Mapping[str, tuple[str, nn.Linear]] = field(default_factory=dict)
    # Layers of every objective in place of blocks; the unusable ones among them are left out.
    layers: Mapping[str, nn.Linear] = field(default_factory=dict)
    # By default each objective's at the target layer, as exact factors.
    gradients: Mapping[str, GradientBlock] = field(default_factory=dict)
    rank: int = 4  # terms of exact factors
    tokens: str = "all"  # whose outer products are summed
    round_sketch: bool = False  # to bfloat16
    reads_tokens: bool = False  # an objective's views are tokens
    base_block: str = "embedding"  # or the tokens, where every part gets a vector
    traced: Mapping[str, nn.Linear] = field(init=False)  # whose gradients are taken
    widths: dict[str, int] = field(init=False)  # of raw blocks, the embedding first
    factor_shapes: dict[str, tuple[int, int]] = field(init=False)  # (m, n1) of exact factors

    @classmethod
    @own_context()  # a head drawn under a caller's inference_mode could not enter a graph
    def of(cls, encoder: Encoder, config: FungiConfig) -> Plan:
        """Find the layers and draw heads and sketch by name.

        The plan's encoder is a copy with a full last block where a shortened one would not call a
        layer: the encoder itself may serve other configs.

        Raises:
            LayerNotFoundError: If a named layer is no Linear layer of the model.
            LayerUseError: If no gradient can be taken at it.
            ConfigError: If late views begin above it.
        """
        places = {
            block: resolve_layer(encoder.model, path)
            if path and path != encoder.layer_path
            else (encoder.layer_path, encoder.layer)
            for spec in config.objectives
            for block, path in spec.blocks.items()
        }
        activations = {b: places[b] for b, s in config.blocks.items() if not s.has_gradient}
        depths = {block: spec.late_views for block, spec in config.blocks.items()}
        late = {block: depth for block, depth in depths.items() if depth is not None}
        for block, depth in late.items():
            if isinstance(encoder, BlockEncoder):
                encoder.blocks.check(depth, places[block][0])
        encoder = calling(
            encoder,
            [path for path, _ in activations.values()],
            [places[block][0] for block in late],
        )
        encoder, reads_tokens = token_encoder(encoder, config)
        objectives = {
            name: make_objective(spec, width=encoder.width, seed=config.seed)
            for name, spec in config.losses.items()
        }
        rank = sketch_rank(encoder, config, config.sketch)
        sketches: dict[tuple[int, int], Sketch] = {}

        def gradient(block: str, spec: ObjectiveSpec) -> GradientBlock:
            bare = GradientBlock(spec.name, *places[block])
            if config.sketch == "none":
                return bare
            if bare.shape not in sketches:
                sketches[bare.shape] = make_sketch(
                    config.sketch,
                    *bare.shape,
                    config.sketch_dim or encoder.width,
                    seed=config.seed,
                    rank=rank,
                    published=config.published_signs,
                )
            return replace(bare, sketch=sketches[bare.shape])

        return cls(
            encoder=encoder,
            objectives=objectives,
            activations=activations,
            gradients={b: gradient(b, s) for b, s in config.blocks.items() if s.has_gradient},
            rank=rank,
            tokens=config.gradient_tokens,
            round_sketch=config.round_sketch,
            reads_tokens=reads_tokens,
            base_block=config.base_block,
        )

    def __post_init__(self) -> None:
        """Say once what follows from the fields: layers and widths."""
        target = self.encoder.layer_path, self.encoder.layer
        if not self.gradients:
            found = {name: GradientBlock(name, *target) for name in self.objectives}
            object.__setattr__(self, "gradients", found)
        gradients = self.gradients.items()
        widths = {
            self.base_block: self.encoder.width,
            **{
                block: self.rank * sum(one.shape) if one.sketch is None else one.sketch.width
                for block, one in gradients
            },
            **{name: layer.in_features for name, (_, layer) in self.activations.items()},
        }
        factor_shapes = {block: one.shape for block, one in gradients if one.sketch is None}
        own = {one.path: one.layer for _, one in gradients}
        object.__setattr__(self, "traced", self.layers or own)
        object.__setattr__(self, "widths", widths)
        object.__setattr__(self, "factor_shapes", factor_shapes)

    def bare(self) -> Plan:
        """Give the plan of the same encoder that computes embeddings alone."""
        return Plan(
            encoder=self.encoder,
            objectives={},
            reads_tokens=self.reads_tokens,
            base_block=self.base_block,
        )

    @property
    def budget(self) -> Budget:
        """Limits that suit the device and the graphs: one above every token holds an MLP for each.

        A GPU wants far larger calls than two cores; `FungiExtractor.calibrate` finds its own.
        """
        short, span = self.is_shallow, self._span()
        if next(self.encoder.model.parameters()).device.type == "cpu":
            return Budget(group_tokens=32768 if short else max(1024, 6144 // span))
        return Budget(batch_tokens=32768, group_tokens=131072 if short else 32768 // span)

    @property
    def is_shallow(self) -> bool:
        """Whether a graph is one token's: a short last block, and no layer but the target's."""
        return self.encoder.uses_short_last_block and self._is_of_target

    @property
    def _is_of_target(self) -> bool:
        return self.traced.keys() <= {self.encoder.layer_path}

    def _span(self) -> int:
        # Blocks that a graph spans; one where the config names no layers beside the target.
        if self._is_of_target:
            return 1
        numbers = [n for path in self.traced if (n := block_number(path)) is not None]
        every = (block_number(path) or 0 for path, _ in self.encoder.model.named_modules())
        return 1 + max(every) - min(numbers, default=0)

    def paths_of(self, objective: str) -> list[str] | None:
        """Give the layers at which an objective's gradient is wanted; None is all that are usable.

        Each of a list must be usable.
        """
        if self.layers:
            return None
        return list(
            dict.fromkeys(b.path for b in self.gradients.values() if b.objective == objective)
        )

    def digests(self) -> dict[str, str]:
        """Give a digest of every random object that was drawn."""
        digests = {
            f"objective/{name}": objective.digest()
            for name, objective in self.objectives.items()
            if hasattr(objective, "digest")
        }
        drawn = {b.shape: b.sketch.digest() for b in self.gradients.values() if b.sketch}
        for (m, n1), digest in drawn.items():
            digests["sketch" if len(drawn) == 1 else f"sketch/{m}x{n1}"] = digest
        return digests

    def state(self) -> dict[str, dict[str, Tensor]]:
        """Give what objectives learned, by block; those that learned nothing are left out."""
        return {
            name: objective.state()
            for name, objective in self.objectives.items()
            if hasattr(objective, "state") and objective.state()
        }

    @own_context()
    def load_state(self, state: Mapping[str, Mapping[str, Tensor]]) -> None:
        """Give objectives back what they learned.

        Raises:
            StateError: If there is no such objective, or its state does not fit.
        """
        for name, tensors in state.items():
            if name not in self.objectives:
                raise StateError(
                    f"the stored state has an objective {choices(name, self.objectives)}"
                )
            own = {key: tensor.clone() for key, tensor in tensors.items()}
            self.objectives[name].load_state(own)


def sketch_rank(encoder: Encoder, config: FungiConfig, sketch: str) -> int:
    """Give the terms of a sketch of that kind, where the config leaves them open.

    The gradient at a patch is one outer product, at a word or a column of patches a few.
    """
    if config.dense and sketch == "none" and encoder.modality == "vision":
        return config.sketch_rank or 1
    return config.sketch_rank or (
        4 if sketch == "none" or encoder.reads_first_token or config.dense else 2
    )


def token_encoder(encoder: Encoder, config: FungiConfig) -> tuple[Encoder, bool]:
    """Give an encoder with all tokens in its last block, and True, where they are read.

    Raises:
        ConfigError: If the encoder gives none.
    """
    if config.dense:
        if not isinstance(encoder, DenseEncoder):
            raise ConfigError(
                f"{type(encoder).__name__} does not say what its tokens are, which dense features "
                "need: set dense=False, or write the members of "
                "fungi_hf.encoders.base.DenseEncoder"
            )
        return encoder.with_full_last_block(), True
    if not any(spec.reads_tokens for spec in config.objectives):
        return encoder, False
    if not isinstance(encoder, TokenEncoder):
        raise ConfigError(
            f"{type(encoder).__name__} gives no tokens, which an objective of tokens (ibot) reads: "
            "leave it out, or write the members of fungi_hf.encoders.base.TokenEncoder"
        )
    return encoder.with_full_last_block(), True


def calling(encoder: Encoder, paths: Iterable[str], late: Iterable[str] = ()) -> Encoder:
    """Give an encoder that calls these layers, and those for every late view.

    A shortened last block does not call all layers, one that late views share not for each view.
    """
    is_shared = isinstance(encoder, BlockEncoder) and encoder.shared_block is not None
    paths = [*(paths if encoder.uses_short_last_block else ()), *(late if is_shared else ())]
    if not paths:
        return encoder
    names = [n for n, m in encoder.model.named_modules() if isinstance(m, nn.Linear)]
    last = next(b for name in reversed(names) if (b := block_number(name)) is not None)
    if all(block_number(path) != last or path == encoder.layer_path for path in paths):
        return encoder
    return encoder.with_full_last_block()
