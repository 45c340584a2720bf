"""Pooled inputs of Linear layers, noted during a forward pass that runs anyway."""

from __future__ import annotations

import contextlib
from functools import partial
from typing import TYPE_CHECKING, Any

from torch import nn

from fungi_hf.errors import LayerUseError
from fungi_hf.gradients.layers import block_number, resolve_layer

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from torch import Tensor

    from fungi_hf.encoders.base import Batch, Encoder
    from fungi_hf.specs import ObjectiveSpec


@contextlib.contextmanager
def noting_inputs(
    encoder: Encoder, layers: Mapping[str, nn.Module], batch: Batch
) -> Iterator[dict[str, Tensor]]:
    """Pool the inputs of some layers in the pass of one batch inside.

    Args:
        encoder: Its pooling pools the layers' inputs as it pools the embedding.
        layers: Dotted path -> layer.
        batch: What is encoded inside, N inputs.

    Yields:
        Path -> [N, n], detached, in the model's dtype; complete after the pass.

    Raises:
        LayerUseError: If the pass inside did not call each layer exactly once, or with an input
            that has not the embedding's tokens.
    """
    found: dict[str, Tensor] = {}
    with contextlib.ExitStack() as stack:
        for path, layer in layers.items():
            hook = partial(_note, found, path, encoder, batch)
            stack.callback(layer.register_forward_pre_hook(hook).remove)
        yield found
    for path in layers:
        if path not in found:
            raise LayerUseError(
                f"layer {path!r} was not called in the forward pass, so it has no activation: it "
                "is unused, replaced by a functional call, or compiled; choose another layer"
            )


def _note(
    found: dict[str, Tensor],
    path: str,
    encoder: Encoder,
    batch: Batch,
    _: nn.Module,
    arguments: tuple[Any, ...],
) -> None:
    if path in found:
        raise LayerUseError(
            f"layer {path!r} was called more than once in one forward pass (a shared layer), so "
            "its activation is not one vector; choose a layer that is called once"
        )
    a = arguments[0].detach()
    try:
        found[path] = encoder.pool_activation(
            a.flatten(1, -2) if a.dim() > 2 else a[:, None], batch
        )
    except (RuntimeError, IndexError):
        raise LayerUseError(
            f"the input of layer {path!r} has shape {tuple(a.shape)}, which cannot be pooled as "
            f"the embedding is ({encoder.pooling}); choose a layer of the encoder's blocks"
        ) from None


def activation_layers(
    encoder: Encoder, objectives: Sequence[ObjectiveSpec]
) -> dict[str, tuple[str, nn.Linear]]:
    """Find the layers whose inputs are blocks.

    Args:
        encoder: Holds the target layer, which an activation without a layer means.
        objectives: Of the config.

    Returns:
        Block name -> dotted path and layer, of the activations alone.

    Raises:
        LayerNotFoundError: If a path is no Linear layer of the model.
    """
    found = {}
    for spec in objectives:
        if not spec.has_gradient:
            if spec.layer is None or spec.layer == encoder.layer_path:
                found[spec.name] = (encoder.layer_path, encoder.layer)
            else:
                found[spec.name] = resolve_layer(encoder.model, spec.layer)
    return found


def calling(encoder: Encoder, paths: Iterable[str]) -> Encoder:
    """Give an encoder that calls these layers.

    A shortened last block calls the target layer and what follows it, but not all others.

    Args:
        encoder: Not changed, since it may serve other configs.
        paths: Dotted paths of layers.

    Returns:
        The encoder itself, or a copy that computes its last block in full.
    """
    if not encoder.uses_short_last_block:
        return encoder
    names = (n for n, m in encoder.model.named_modules() if isinstance(m, nn.Linear))
    last = max(number for name in names if (number := block_number(name)) is not None)
    if all(block_number(path) != last or path == encoder.layer_path for path in paths):
        return encoder
    return encoder.with_full_last_block()
