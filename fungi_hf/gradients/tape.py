"""Exact per-sample gradients of one Linear layer as factors, beside the loop that defines them.

Invariant: the model leaves every function here bit-identical, also after an exception.
"""

from __future__ import annotations

import contextlib
import threading
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from fungi_hf.errors import EncoderError, LayerUseError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from torch import Tensor, nn

_LOCK = threading.RLock()  # hooks and flags live on the user's model: one recording at a time


@dataclass(frozen=True, slots=True, kw_only=True)
class LayerFactors:
    """Per-sample gradients as sums of outer products, never materialised.

    `G_i = sum over the rows r with owner[r] == i of  delta[r] (x) [a[r]; 1]`, the 1 only with
    `bias`. Rows are float32 or float64; a sample without rows has a zero gradient.

    Attributes:
        delta: [R, m] gradient of the loss at the layer's output.
        a: [R, n] the layer's input at the same tokens.
        owner: [R] int64, the sample of each row.
        n_samples: B.
        bias: Whether the layer has a bias, whose gradient is the last column of G.
    """

    delta: Tensor
    a: Tensor
    owner: Tensor
    n_samples: int
    bias: bool

    @property
    def inputs(self) -> Tensor:
        """[R, n1]: `a` with a constant 1 appended when the layer has a bias."""
        if not self.bias:
            return self.a
        return torch.cat([self.a, self.a.new_ones(len(self.a), 1)], dim=1)

    def materialise(self) -> Tensor:
        """Give G in full, [B, m, n1]; the bias is the last column of each row."""
        G = self.delta.new_zeros(self.n_samples, self.delta.shape[1], self.a.shape[1] + self.bias)
        return G.index_add_(0, self.owner, self.delta[:, :, None] * self.inputs[:, None, :])


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
def gradients_allowed() -> Iterator[None]:
    """Allow autograd inside a caller's `no_grad` or `inference_mode`, without autocast."""
    with own_context(), torch.enable_grad():
        yield


@contextlib.contextmanager
def untouched(model: nn.Module) -> Iterator[None]:
    """Freeze and `eval` a model for the duration, then restore every flag and buffer.

    Buffers made under `inference_mode` cannot enter a graph; they are cloned for the duration.
    Modules compiled in place (`module.compile()`) run as written: hooks never fire in compiled
    code.

    Raises:
        EncoderError: If parameters were made under `inference_mode`.
    """
    with _LOCK, own_context():
        if any(p.is_inference() for p in model.parameters()):
            raise EncoderError(
                f"{type(model).__name__} has parameters made under torch.inference_mode(), which "
                "cannot enter a graph; load the model outside of it"
            )
        training = [module for module in model.modules() if module.training]
        trainable = [p for p in model.parameters() if p.requires_grad]
        buffers = _inference_buffers(model)
        compiled = _compiled_calls(model)
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


def _set_flags(modules: list[nn.Module], parameters: list[nn.Parameter], *, value: bool) -> None:
    for module in modules:
        module.training = value
    for parameter in parameters:
        parameter.requires_grad_(value)


def _compiled_calls(model: nn.Module) -> list[tuple[nn.Module, Callable[..., object]]]:
    calls = [(module, module._compiled_call_impl) for module in model.modules()]
    return [(module, call) for module, call in calls if call is not None]


def _inference_buffers(model: nn.Module) -> list[tuple[nn.Module, str, Tensor]]:
    return [
        (module, name, buffer)
        for module in model.modules()
        for name, buffer in module._buffers.items()
        if buffer is not None and buffer.is_inference()
    ]


class Tape:
    """The graph from the target layer's output to the embeddings of one batch.

    Attributes:
        embeddings: [N, D] detached, in the model's dtype.
        a: The layer's input, [N, T, n], detached, in the model's dtype.
    """

    def __init__(self, embeddings: Tensor, outputs: Tensor, a: Tensor, bias: bool) -> None:
        """Keep the graph.

        Args:
            embeddings: [N, D], with a graph that starts at `outputs`.
            outputs: [N, ..., m], the leaf returned by the layer's hook.
            a: [N, ..., n], the layer's input.
            bias: Whether the layer has a bias.
        """
        self._embeddings, self._outputs = embeddings, outputs
        self.embeddings = embeddings.detach()
        self.a = a.flatten(1, -2) if a.dim() > 2 else a[:, None]
        self._bias = bias

    def pull_back(
        self, gradient: Tensor, owner: Tensor, n_samples: int, *, tokens: str = "all"
    ) -> LayerFactors:
        """Pull a gradient at the embeddings back to the layer.

        Args:
            gradient: [N, D], dl/de of the summed loss; any floating dtype.
            owner: [N] int64, the sample of each encoded input.
            n_samples: B.
            tokens: "all", or "first" to keep position 0 alone (the published audio code).

        Returns:
            The factors in float32 (float64 for a float64 model), rows with a zero delta dropped.
        """
        (delta,) = torch.autograd.grad(
            self._embeddings,
            self._outputs,
            grad_outputs=gradient.to(self._embeddings.dtype),
            retain_graph=True,
        )
        return layer_factors(delta, self.a, owner, n_samples, bias=self._bias, tokens=tokens)


def layer_factors(
    delta: Tensor, a: Tensor, owner: Tensor, n_samples: int, *, bias: bool, tokens: str = "all"
) -> LayerFactors:
    """Give per-sample gradients from a layer's output gradients and inputs.

    Args:
        delta: [N, ..., m] gradient at the layer's output.
        a: [N, T, n] its input.
        owner: [N] int64, the sample of each encoded input.
        n_samples: B.
        bias: Whether the layer has a bias.
        tokens: "all", or "first" to keep position 0 alone.

    Returns:
        The factors in float32 (float64 for a float64 model), rows with a zero delta dropped.
    """
    wide = torch.promote_types(delta.dtype, torch.float32)
    delta = (delta.flatten(1, -2) if delta.dim() > 2 else delta[:, None]).to(wide)  # [N, T, m]
    if tokens == "first":
        delta, a = delta[:, :1], a[:, :1]
    n_tokens = delta.shape[1]
    rows = owner.to(delta.device)
    # Padding, unread tokens and inputs of other objectives have delta exactly 0; what a holds
    # there must not matter.
    # A NaN is not 0: it must reach the features' check, not look like a zero gradient.
    kept = (delta.abs().amax(-1) != 0).flatten().nonzero()[:, 0]
    return LayerFactors(
        delta=delta.flatten(0, 1)[kept],
        a=a.flatten(0, 1)[kept].to(wide),
        owner=rows[kept // n_tokens],
        n_samples=n_samples,
        bias=bias,
    )


class _Recorder:
    """A forward hook that starts the graph at the layer's output and counts its calls."""

    def __init__(self) -> None:
        self.calls = 0
        self.a: Tensor | None = None
        self.out: Tensor | None = None

    def __call__(self, _: nn.Module, args: tuple[Tensor, ...], out: Tensor) -> Tensor:
        self.calls += 1
        self.a = args[0].detach()
        self.out = out.detach().requires_grad_(True)
        return self.out


def record(layer: nn.Linear, path: str, forward: Callable[[], Tensor]) -> Tape:
    """Run a forward pass and keep the graph above one layer.

    Args:
        layer: The target layer, inside a model that `untouched` holds.
        path: Its name, for errors.
        forward: Runs the model and gives the embeddings [N, D].

    Returns:
        The tape.

    Raises:
        LayerUseError: If the layer was not called exactly once, or the embeddings do not
            depend on it.
    """
    recorder = _Recorder()
    handle = layer.register_forward_hook(recorder)
    try:
        with gradients_allowed():
            embeddings = forward()
    finally:
        handle.remove()
    if recorder.calls == 0:
        raise LayerUseError(
            f"layer {path!r} was not called in the forward pass: it is unused, replaced by a "
            "functional call, or compiled (pass the model as it was before torch.compile); "
            "choose another target_layer"
        )
    if recorder.calls > 1:
        raise LayerUseError(
            f"layer {path!r} was called {recorder.calls} times in one forward pass (a shared "
            "layer); its gradient would miss calls: choose a target_layer that is called once"
        )
    out, a = recorder.out, recorder.a
    if out is None or a is None or not _is_upstream(embeddings):
        raise LayerUseError(
            f"the embedding does not depend on layer {path!r}; choose a layer on its path"
        )
    if out.shape[0] != embeddings.shape[0]:
        raise LayerUseError(
            f"layer {path!r} gave an output of shape {tuple(out.shape)} for {len(embeddings)} "
            "inputs; its first axis must be the batch"
        )
    return Tape(embeddings, out, a, layer.bias is not None)


def _is_upstream(embeddings: Tensor) -> bool:
    return embeddings.requires_grad


def concatenate(parts: list[LayerFactors]) -> LayerFactors:
    """Join factors of the same samples; owners keep their meaning.

    Args:
        parts: At least one, all of one layer and one number of samples.

    Returns:
        One record with all rows.
    """
    if len(parts) == 1:
        return parts[0]
    return LayerFactors(
        delta=torch.cat([part.delta for part in parts]),
        a=torch.cat([part.a for part in parts]),
        owner=torch.cat([part.owner for part in parts]),
        n_samples=parts[0].n_samples,
        bias=parts[0].bias,
    )


def reference_gradient(
    model: nn.Module, layer: nn.Linear, loss: Callable[[], Tensor]
) -> tuple[Tensor, Tensor]:
    """Give one sample's gradient the slow, obviously right way: full autograd, one backward.

    Args:
        model: Holds the layer; put in eval mode and restored.
        layer: The target layer.
        loss: Runs the whole forward pass of one sample and gives its scalar loss.

    Returns:
        `cat([W.grad, b.grad[:, None]], dim=1)` [m, n1] and the loss.
    """
    wanted = [layer.weight] if layer.bias is None else [layer.weight, layer.bias]
    with untouched(model), gradients_allowed():
        for parameter in wanted:
            parameter.requires_grad_(True)
        try:
            value = loss()
            grads = torch.autograd.grad(value, wanted)
        finally:
            for parameter in wanted:
                parameter.requires_grad_(False)
    columns = [grads[0], *(grad[:, None] for grad in grads[1:])]
    return torch.cat(columns, dim=1), value.detach()
