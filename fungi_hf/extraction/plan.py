"""What is computed of every sample and how wide it is: one encoder and one config, resolved."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from torch import nn

from fungi_hf.encoders.base import DenseEncoder, TokenEncoder
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


@dataclass(frozen=True, kw_only=True)
class Plan:
    """The blocks of one extractor by name, layers by dotted path; fixed once it is made."""

    encoder: Encoder  # holds the target layer
    objectives: Mapping[str, Objective]  # of blocks of gradients
    activations: Mapping[str, tuple[str, nn.Linear]] = field(default_factory=dict)
    # Layers of gradients beside the target layer; of several the unusable ones are left out.
    layers: Mapping[str, nn.Linear] = field(default_factory=dict)
    sketch: Sketch | None = None  # keeps exact factors, of `rank` terms
    rank: int = 4
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
            LayerNotFoundError: If an activation's layer is no Linear layer of the model.
        """
        activations = {
            spec.name: resolve_layer(encoder.model, spec.layer)
            if spec.layer and spec.layer != encoder.layer_path
            else (encoder.layer_path, encoder.layer)
            for spec in config.objectives
            if not spec.has_gradient
        }
        encoder = calling(encoder, [path for path, _ in activations.values()])
        encoder, reads_tokens = token_encoder(encoder, config)
        objectives = {
            spec.name: make_objective(spec, width=encoder.width, seed=config.seed)
            for spec in config.objectives
            if spec.has_gradient
        }
        rank = sketch_rank(encoder, config, config.sketch)
        sketch = None
        if objectives and config.sketch != "none":
            sketch = make_sketch(
                config.sketch,
                *_gradient_shape(encoder.layer),
                config.sketch_dim or encoder.width,
                seed=config.seed,
                rank=rank,
                published=config.published_signs,
            )
        return cls(
            encoder=encoder,
            objectives=objectives,
            activations=activations,
            sketch=sketch,
            rank=rank,
            tokens=config.gradient_tokens,
            round_sketch=config.round_sketch,
            reads_tokens=reads_tokens,
            base_block=config.base_block,
        )

    def __post_init__(self) -> None:
        """Say once what follows from the fields: layers and widths."""
        own = {self.encoder.layer_path: self.encoder.layer} if self.objectives else {}
        shape = _gradient_shape(self.encoder.layer)
        gradient = self.rank * sum(shape) if self.sketch is None else self.sketch.width
        widths = {
            self.base_block: self.encoder.width,
            **dict.fromkeys(self.objectives, gradient),
            **{name: layer.in_features for name, (_, layer) in self.activations.items()},
        }
        factor_shapes = dict.fromkeys(self.objectives, shape) if self.sketch is None else {}
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
        short = self.encoder.uses_short_last_block
        if next(self.encoder.model.parameters()).device.type == "cpu":
            return Budget(group_tokens=32768 if short else 6144)
        return Budget(batch_tokens=32768, group_tokens=131072 if short else 32768)

    def digests(self) -> dict[str, str]:
        """Give a digest of every random object that was drawn."""
        digests = {
            f"objective/{name}": objective.digest()
            for name, objective in self.objectives.items()
            if hasattr(objective, "digest")
        }
        if self.sketch is not None:
            digests["sketch"] = self.sketch.digest()
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


def _gradient_shape(layer: nn.Linear) -> tuple[int, int]:
    return layer.out_features, layer.in_features + (layer.bias is not None)


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


def calling(encoder: Encoder, paths: Iterable[str]) -> Encoder:
    """Give an encoder that calls these layers; a shortened last block does not call all others."""
    if not encoder.uses_short_last_block:
        return encoder
    names = [n for n, m in encoder.model.named_modules() if isinstance(m, nn.Linear)]
    last = next(b for name in reversed(names) if (b := block_number(name)) is not None)
    if all(block_number(path) != last or path == encoder.layer_path for path in paths):
        return encoder
    return encoder.with_full_last_block()
