"""Gradients of many Linear layers from one forward and one backward pass.

The graph begins at the lowest tapped layers; every tapped layer's output gradient is asked for in
the same backward pass. Each layer's factors are those of `gradients.record` at that layer alone.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from torch.autograd.graph import get_gradient_edge

from fungi_hf.errors import ConfigError, LayerUseError
from fungi_hf.extraction.group import Group
from fungi_hf.gradients.tape import concatenate, gradients_allowed, layer_factors

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from torch import Tensor, nn

    from fungi_hf.encoders.base import Batch, LateBatch
    from fungi_hf.extraction.batches import Budget, Sample
    from fungi_hf.extraction.group import Plan
    from fungi_hf.gradients.tape import LayerFactors
    from fungi_hf.objectives.base import Objective


@dataclass(slots=True)
class _Tap:
    """What one layer's hook saw."""

    bias: bool
    calls: int = 0
    a: Tensor | None = None
    edge: Any = None
    n_inputs: int = 0

    def __call__(self, _: nn.Module, args: tuple[Tensor, ...], out: Tensor) -> Tensor:
        self.calls += 1
        a = args[0].detach()
        self.a = a.flatten(1, -2) if a.dim() > 2 else a[:, None]
        self.n_inputs = out.shape[0]
        if not out.requires_grad:  # nothing below is tapped: the graph begins here
            out = out.detach().requires_grad_(True)
        # The edge of this very output, also where the model changes it in place afterwards.
        self.edge = get_gradient_edge(out)
        return out


class Taps:
    """The graph from the lowest tapped layers to the embeddings of one batch.

    Attributes:
        embeddings: [N, D] detached, in the model's dtype.
        a: Layer -> its input, [N, T, n], detached, in the model's dtype.
        unusable: Layer -> why it has no per-sample gradient.
    """

    def __init__(self, embeddings: Tensor, taps: Mapping[str, _Tap]) -> None:
        """Sort out the layers that have no per-sample gradient.

        Args:
            embeddings: [N, D], with the graph.
            taps: Layer -> what its hook saw.
        """
        self._embeddings = embeddings
        self.embeddings = embeddings.detach()
        self.unusable: dict[str, str] = {}
        for path, tap in taps.items():
            if tap.calls != 1:
                self.unusable[path] = f"called {tap.calls} times in one forward pass"
            elif tap.n_inputs != len(embeddings):
                self.unusable[path] = "the first axis of its output is not the batch"
        self._taps = {path: tap for path, tap in taps.items() if path not in self.unusable}
        self.a = {path: tap.a for path, tap in self._taps.items() if tap.a is not None}

    def pull_back(
        self, gradient: Tensor, owner: Tensor, n_samples: int, *, tokens: str = "all"
    ) -> dict[str, LayerFactors]:
        """Pull a gradient at the embeddings back to every tapped layer, in one backward pass.

        Args:
            gradient: [N, D], dl/de of the summed loss; any floating dtype.
            owner: [N] int64, the sample of each encoded input.
            n_samples: B.
            tokens: As in `gradients.Tape.pull_back`.

        Returns:
            Layer -> factors; layers that the embedding does not depend on are left out and noted
            in `unusable`.
        """
        taps = {path: tap for path, tap in self._taps.items() if path not in self.unusable}
        deltas = torch.autograd.grad(
            self._embeddings,
            [tap.edge for tap in taps.values()],
            grad_outputs=gradient.to(self._embeddings.dtype),
            retain_graph=True,
            allow_unused=True,
        )
        found = {}
        for (path, tap), delta in zip(taps.items(), deltas, strict=True):
            if delta is None:
                self.unusable[path] = "the embedding does not depend on it"
                continue
            found[path] = layer_factors(
                delta, self.a[path], owner, n_samples, bias=tap.bias, tokens=tokens
            )
        return found


def record_taps(layers: Mapping[str, nn.Linear], forward: Callable[[], Tensor]) -> Taps:
    """Run a forward pass and keep the graph above the lowest of some layers.

    Args:
        layers: Names and layers, inside a model that `untouched` holds.
        forward: Runs the model and gives the embeddings [N, D].

    Returns:
        The taps.

    Raises:
        LayerUseError: If the embeddings depend on none of the layers.
    """
    taps = {path: _Tap(layer.bias is not None) for path, layer in layers.items()}
    handles = [layer.register_forward_hook(taps[path]) for path, layer in layers.items()]
    try:
        with gradients_allowed():
            embeddings = forward()
    finally:
        for handle in handles:
            handle.remove()
    if not embeddings.requires_grad:
        raise LayerUseError(
            f"the embedding depends on none of the layers {', '.join(list(layers)[:10])}"
        )
    return Taps(embeddings, taps)


class TappedGroup(Group):
    """A group whose graphs begin at the lowest of several layers.

    Attributes:
        unusable: Layer -> why it has no per-sample gradient.
    """

    def __init__(
        self,
        samples: Sequence[Sample],
        plan: Plan,
        budget: Budget,
        layers: Mapping[str, nn.Linear],
        *,
        activations: bool = False,
    ) -> None:
        """Encode every distinct input of every sample once.

        Args:
            samples: As for `Group`.
            plan: As for `Group`, without an activation block; its encoder computes every token
                of its last block.
            budget: As for `Group`.
            layers: Names and layers to tap.
            activations: Whether to keep the layers' pooled inputs.
        """
        self._layers, self._wants_activations = layers, activations
        self._pooled: list[dict[str, Tensor]] = []
        self.unusable: dict[str, str] = {}
        super().__init__(samples, plan, budget)

    def _record(self, batch: Batch) -> Any:
        encoder = self._plan.encoder
        taps = record_taps(self._layers, partial(encoder.embed, batch))
        self.unusable |= taps.unusable
        pooled = {}
        if self._wants_activations:
            n_tokens = max((a.shape[1] for a in taps.a.values()), default=0)
            with torch.no_grad():
                pooled = {
                    path: encoder.pool_activation(a, batch)
                    for path, a in taps.a.items()
                    if a.shape[1] in (1, n_tokens)
                }
        self._pooled.append(pooled)
        return taps

    def _record_late(self, batch: LateBatch) -> Any:  # noqa: ARG002
        raise ConfigError(
            "many layers at once need views of the raw input, since late views reach the last "
            "blocks only; set late_views=None"
        )

    def layer_factors(self, name: str, objective: Objective) -> dict[str, LayerFactors]:
        """Give the exact gradients of one objective at every layer that has them."""
        gradient, used = self.embedding_gradient(name, objective)
        parts: dict[str, list[LayerFactors]] = {}
        for segment in self._segments:
            if not used[segment.units].any():
                continue
            taps: Any = segment.tape
            here = gradient[segment.units.to(gradient.device)]
            owner = self._owner[segment.units]
            found = taps.pull_back(here, owner, self._n, tokens=self._plan.tokens)
            self.unusable |= taps.unusable
            for path, factors in found.items():
                parts.setdefault(path, []).append(factors)
        return {path: concatenate(some) for path, some in parts.items()}

    def layer_activations(self) -> dict[str, Tensor]:
        """Give the pooled input of every layer, [B, n]."""
        found: dict[str, Tensor] = {}
        units = torch.cat([segment.units for segment in self._segments])
        for path in self._pooled[0]:
            rows = torch.cat([pooled[path] for pooled in self._pooled])
            placed = torch.empty_like(rows).index_copy_(0, units.to(rows.device), rows)
            found[path] = placed[self._base.to(rows.device)]
        return found

    def embeddings(self) -> Tensor:
        """Give the embeddings of the untouched inputs, [B, D]."""
        return self._embeddings[self._base.to(self._embeddings.device)]
