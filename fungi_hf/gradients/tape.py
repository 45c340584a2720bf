"""Per-sample gradients of Linear layers from one backward pass, beside the loop that defines them.

Invariant: the model leaves every function here bit-identical, also after an exception.
"""

from __future__ import annotations

import contextlib
import threading
from functools import partial
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Final

import torch
from torch.autograd.graph import get_gradient_edge

from fungi_hf.devices import sent
from fungi_hf.errors import EncoderError, LayerUseError
from fungi_hf.gradients.factors import LayerFactors

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

    from torch import Tensor, nn

_LOCK = threading.RLock()  # hooks and flags live on the user's model: one recording at a time
_NONE: Final[Mapping[str, Any]] = MappingProxyType({})
_OFF_PATH: Final = "is not on the path to the embedding"


@contextlib.contextmanager
def own_context() -> Iterator[None]:
    """Leave a caller's autocast and `inference_mode`, whose tensors cannot enter a graph.

    Autocast would round the pullback and the sketch, and turn a KL gradient into noise.
    """
    with (
        torch.inference_mode(False),
        torch.autocast("cpu", enabled=False),
        torch.autocast("cuda", enabled=False),
    ):
        yield


@contextlib.contextmanager
def untouched(model: nn.Module) -> Iterator[None]:
    """Freeze and `eval` a model in `own_context`, then restore every flag and buffer.

    Buffers made under `inference_mode`, which cannot enter a graph, are cloned for the duration.
    Modules compiled in place run as written: hooks never fire in compiled code.

    Raises:
        EncoderError: If parameters were made under `inference_mode`.
    """
    with _LOCK, own_context():
        if any(p.is_inference() for p in model.parameters()):
            raise EncoderError(
                f"{type(model).__name__} has parameters made under torch.inference_mode(), which "
                "cannot enter a graph; load the model outside of it"
            )
        modules = list(model.modules())
        training = [module for module in modules if module.training]
        trainable = [p for p in model.parameters() if p.requires_grad]
        buffers = [
            (module, name, buffer)
            for module in modules
            for name, buffer in module._buffers.items()
            if buffer is not None and buffer.is_inference()
        ]
        compiled = [(m, call) for m in modules if (call := m._compiled_call_impl) is not None]
        try:
            _set_flags(training, trainable, value=False)
            for module, name, buffer in buffers:
                module._buffers[name] = buffer.clone()
            for module, _ in compiled:
                module._compiled_call_impl = None
            yield
        finally:
            for module, call in compiled:
                module._compiled_call_impl = call
            for module, name, buffer in buffers:
                module._buffers[name] = buffer
            _set_flags(training, trainable, value=True)


def _set_flags(modules: list[nn.Module], parameters: Sequence[Tensor], *, value: bool) -> None:
    for module in modules:
        module.training = value
    for parameter in parameters:
        parameter.requires_grad_(value)


def of_this_thread(hook: Callable[..., Any]) -> Callable[..., Any]:
    """Give a hook that does nothing in passes of other threads, which are not the package's."""
    owner = threading.get_ident()

    def chosen(*args: Any) -> Any:
        return hook(*args) if threading.get_ident() == owner else None

    return chosen


class _Watch:
    """A forward hook: what a layer was given, and the edge at which its gradient is asked for."""

    def __init__(self, pool: Callable[[Tensor], Tensor | None] | None, *, traced: bool) -> None:
        self._pool, self._traced = pool, traced
        self.calls = 0
        self.pooled: Tensor | None = None
        self.a: Any = None
        self.shape: tuple[int, ...] = ()
        self.edge: Any = None

    def __call__(self, _: nn.Module, args: tuple[Tensor, ...], out: Tensor) -> Tensor:
        self.calls += 1
        a = args[0].detach()
        a = a.flatten(1, -2) if a.dim() > 2 else a[:, None]  # [N, T, n]
        if self._pool is not None:
            self.pooled = self._pool(a)
        if self._traced:
            self.a, self.shape = a, tuple(out.shape)
            if not out.requires_grad:  # nothing below is traced: the graph begins here
                out = out.detach().requires_grad_(True)
            # The edge of this very output, also where the model changes it in place afterwards.
            self.edge = get_gradient_edge(out)
        return out

    def refusal(self, n_inputs: int) -> str:
        """Say why the layer cannot be used; empty where it can."""
        if self.calls == 0:
            return (
                "was not called in the forward pass: it is unused, replaced by a functional call, "
                "or compiled (pass the model as it was before torch.compile)"
            )
        if self.calls > 1:
            return (
                f"was called {self.calls} times in one forward pass (a shared layer), so no call "
                "alone gives its gradient or its activation"
            )
        if self._traced and self.shape[0] != n_inputs:
            return (
                f"gave an output of shape {self.shape} for {n_inputs} inputs; its first axis must "
                "be the batch"
            )
        return ""


class Tape:
    """What one forward pass left, detached, in the model's dtype: embeddings, layers' inputs.

    Beside them it holds the graph above the traced layers.
    """

    def __init__(
        self,
        embeddings: Tensor,
        layers: Mapping[str, nn.Linear],
        watches: Mapping[str, _Watch],
        unusable: dict[str, str],
    ) -> None:
        self._embeddings, self._layers, self._watches = embeddings, layers, watches
        self.embeddings = embeddings.detach()  # [N, D]
        self.unusable = unusable  # traced layer -> why it has no per-sample gradient
        self.pooled = {  # noted layer -> its pooled input, [N, n]
            path: watch.pooled
            for path, watch in watches.items()
            if watch.pooled is not None and path not in unusable
        }

    def n_tokens(self, path: str) -> int:
        """Give the tokens of an input at a traced layer, padding included."""
        return int(self._watches[path].a.shape[1])

    def pull_back(
        self,
        gradient: Tensor,
        owner: Tensor,
        n_samples: int,
        *,
        tokens: str = "all",
        paths: Iterable[str] | None = None,
    ) -> dict[str, LayerFactors]:
        """Pull a gradient [N, D] at the embeddings back to traced layers, all or some, in one pass.

        Input i is of sample owner[i], or token t of it of sample owner[i, t], of none where that
        is negative; the owner is on the CPU. `tokens` "first" keeps position 0 alone (the published
        audio code). Gives layer -> factors in float32 (float64 for a float64 model), on the CPU
        without rows with a zero delta; layers off the embedding's path are noted in `unusable`.
        """
        asked = self._layers if paths is None else paths
        paths = [path for path in asked if path not in self.unusable]
        if not paths:
            return {}
        deltas = torch.autograd.grad(
            self._embeddings,
            [self._watches[path].edge for path in paths],
            grad_outputs=gradient.to(self._embeddings.dtype),
            retain_graph=True,
            allow_unused=True,
        )
        found = {}
        for path, delta in zip(paths, deltas, strict=True):
            if delta is None:
                self.unusable[path] = _OFF_PATH
                continue
            a, wide = self._watches[path].a, torch.promote_types(delta.dtype, torch.float32)
            d = (delta.flatten(1, -2) if delta.dim() > 2 else delta[:, None]).to(wide)  # [N, T, m]
            if tokens == "first":
                d, a = d[:, :1], a[:, :1]
            owners = owner if owner.dim() == 2 else owner[:, None].expand(-1, d.shape[1])
            bias = self._layers[path].bias is not None
            found[path] = live_rows(d, a.to(wide), owners, n_samples, bias=bias)
        return found


def live_rows(
    d: Tensor,
    a: Tensor,
    owners: Tensor,
    n_samples: int,
    *,
    bias: bool,
    looks: bool | None = None,
) -> LayerFactors:
    """Give the factors of tokens with deltas [N, T, m] and inputs [N, T, n], owned as [N, T] says.

    Padding, unread tokens and inputs of other objectives have a delta of exactly 0, and what `a`
    holds there must not matter. On the CPU such rows are looked for and dropped, `looks` says so
    elsewhere; a look makes a device wait, so there they stay, with zeros in place of `a`. A NaN is
    not 0: it must reach the features' check.
    """
    kept = owners >= 0
    if d.device.type == "cpu" if looks is None else looks:
        kept = kept & (d.abs().amax(-1) != 0).to("cpu")
    else:
        a = a.where((d != 0).any(-1, keepdim=True), 0)
    delta, inputs, owner = d.flatten(0, 1), a.flatten(0, 1), owners.flatten()
    rows = kept.flatten().nonzero()[:, 0]
    if len(rows) < len(owner):
        there = sent(rows, d.device)
        delta, inputs, owner = delta[there], inputs[there], owner[rows]
    return LayerFactors(delta=delta, a=inputs, owner=owner, n_samples=n_samples, bias=bias)


def record(
    forward: Callable[[], Tensor],
    layers: Mapping[str, nn.Linear] = _NONE,
    *,
    noted: Mapping[str, nn.Module] = _NONE,
    pool: Callable[[str, Tensor], Tensor | None] | None = None,
) -> Tape:
    """Run a forward pass of a model that `untouched` holds; keep the graph above some layers.

    Each layer's factors are those of a recording of that layer alone; without `layers` there is no
    graph. `pool`, wanted with `noted`, gives [N, n] of a noted path and its input [N, T, n], or
    None to leave the layer out.

    Raises:
        LayerUseError: If none of `layers` was called exactly once on the path to the embeddings,
            or one of the layers that are noted only was not called exactly once.
    """
    watches = {
        path: _Watch(partial(pool, path) if pool and path in noted else None, traced=path in layers)
        for path in {**layers, **noted}
    }
    with contextlib.ExitStack() as stack:
        for path, layer in {**noted, **layers}.items():
            stack.callback(layer.register_forward_hook(of_this_thread(watches[path])).remove)
        stack.enter_context(torch.set_grad_enabled(bool(layers)))
        embeddings = forward()
    found = {path: watch.refusal(len(embeddings)) for path, watch in watches.items()}
    refused = {path: reason for path, reason in found.items() if reason and path in layers}
    for path, reason in found.items():
        if reason and path not in layers:
            raise LayerUseError(f"layer {path!r} {reason}; choose another layer")
    if layers and not embeddings.requires_grad:
        refused = dict.fromkeys(layers, _OFF_PATH) | refused
    if layers and len(refused) == len(layers):
        among = f"none of {len(layers)} layers can be used: " if len(layers) > 1 else ""
        path, reason = next(iter(refused.items()))
        raise LayerUseError(f"{among}layer {path!r} {reason}; choose another target_layer")
    return Tape(embeddings, layers, watches, refused)


def reference_gradient(
    model: nn.Module, layer: nn.Linear, loss: Callable[[], Tensor]
) -> tuple[Tensor, Tensor]:
    """Give one sample's gradient the slow, obviously right way: full autograd, one backward.

    `loss` runs the sample's whole forward pass. Gives `cat([W.grad, b.grad[:, None]], dim=1)`
    [m, n1] and the loss.
    """
    wanted = [layer.weight] if layer.bias is None else [layer.weight, layer.bias]
    with untouched(model), torch.enable_grad():
        _set_flags([], wanted, value=True)
        try:
            value = loss()
            grads = torch.autograd.grad(value, wanted)
        finally:
            _set_flags([], wanted, value=False)
    return torch.cat([grads[0], *(grad[:, None] for grad in grads[1:])], dim=1), value.detach()
