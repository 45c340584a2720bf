"""Embeddings and the inputs of many layers from one forward pass per input."""

from __future__ import annotations

import re
from functools import partial
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import nn

from fungi_hf.extraction.batches import cut_batches
from fungi_hf.extraction.finish import check_finite
from fungi_hf.extraction.group import pooler_of
from fungi_hf.extraction.plan import calling
from fungi_hf.gradients.tape import record, untouched
from fungi_hf.tuning.search import Space

if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Any

    from fungi_hf.config import FungiConfig
    from fungi_hf.encoders.base import Encoder
    from fungi_hf.extraction.batches import Budget
    from fungi_hf.tuning.search import TuningSearch
    from fungi_hf.types import Float32Array


def sibling_layers(encoder: Encoder, most: int) -> list[str]:
    """Give the target layer and its like in other blocks, in the order of the model.

    Gives dotted paths of linear layers of equal shape, at most `most`, spread evenly and ending
    with the last; the target layer is always among them, and alone without a block number.
    """
    path, layer = encoder.layer_path, encoder.layer
    pattern = re.sub(r"(?<=\.)\\?\d+(?=\\?\.)", r"\\d+", re.escape(path))
    found = [
        name
        for name, module in encoder.model.named_modules()
        if re.fullmatch(pattern, name)
        and isinstance(module, nn.Linear)
        and module.weight.shape == layer.weight.shape
    ]
    if len(found) > most:
        places = sorted(set(np.linspace(len(found) - 1, 0, most).round().astype(int)))
        own = found.index(path)
        if own not in places:  # in place of its nearest, so that the order stays the model's
            nearest = int(np.abs(np.array(places) - own).argmin())
            places[nearest] = own
        found = [found[place] for place in places]
    return found


def space_of(encoder: Encoder, config: FungiConfig, search: TuningSearch) -> Space:
    """Give what a search may choose for one encoder, starting from an extractor's config."""
    target = encoder.layer_path
    layers = sibling_layers(encoder, search.max_layers) if search.free_layer else [target]
    own = [spec.layers[0] for spec in search.wanted(config) if not spec.has_gradient]
    layers = [*(one for one in own if one and one not in layers), *layers]
    return Space(layer=target, specs=search.specs(config, layers, target))


def scan(
    encoder: Encoder, inputs: Sequence[Any], layers: Sequence[str], budget: Budget
) -> dict[str, Float32Array]:
    """Run every input, in canonical form (`Encoder.check`), once through a frozen encoder.

    Gives "embedding" and every layer, whose inputs are pooled like the embedding, -> [N, width]
    float32, finite, in the inputs' order.
    """
    found: dict[str, Float32Array] = {}
    encoder = calling(encoder, layers)
    modules = {path: encoder.model.get_submodule(path) for path in layers}
    with untouched(encoder.model):
        for start in range(0, len(inputs), encoder.chunk_size):
            items = encoder.prepare(inputs[start : start + encoder.chunk_size])
            for places in cut_batches(items, budget):
                batch = encoder.collate([items[place] for place in places])
                rows = np.asarray(places) + start
                pool = pooler_of(encoder, batch)
                tape = record(partial(encoder.embed, batch), noted=modules, pool=pool)
                for name, block in {"embedding": tape.embeddings, **tape.pooled}.items():
                    if name not in found:
                        found[name] = np.empty((len(inputs), block.shape[1]), np.float32)
                    found[name][rows] = block.float().cpu().numpy()
    for name, whole in found.items():
        check_finite(torch.from_numpy(whole), name)
    return found
