"""Late views: tokens dropped from the hidden state before the last k blocks; no block below is run.

Definition. h is the hidden state [T, D] of the untouched input before block L - k, of L blocks. A
late view drops tokens from h and runs the last k blocks on the rest. Dropped tokens take no part in
attention or pooling. Absolute positions are those of the untouched input, since h holds them; what
the last k blocks themselves derive from positions (relative biases, rotary angles, windows) they
derive from the shortened sequence, as for a text without these words. With k = L nothing is shared,
and a text's view is the full computation of the shortened text.

The model's own forward pass does all of this: during the pass the first L - k blocks are skipped
and block L - k gets the stored state. Of the families, only T5's passed-on bias needs care.
"""

from __future__ import annotations

import contextlib
import re
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from fungi_hf.encoders.last_block import shadowed
from fungi_hf.errors import ConfigError
from fungi_hf.gradients.layers import resolve_layer
from fungi_hf.gradients.tape import of_this_thread

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterator

    from torch import Tensor


class BlockStack:
    """The blocks of one model; the model is shadowed for the length of a `with` and given back.

    Attributes:
        n_blocks: L.
    """

    def __init__(self, model: nn.Module, layer_path: str) -> None:
        """Find the blocks: the outermost module list that holds the target or the default layer.

        The model is only read; late views must contain the target layer.

        Raises:
            ConfigError: If the blocks are not a list of modules that are called once each.
        """
        name = type(model).__name__
        prefix = _list_of(model, layer_path) or _list_of(model, resolve_layer(model)[0])
        if prefix is None:
            raise ConfigError(
                f"{name} has no list of blocks, which late views need; set late_views=None"
            )
        self._prefix, self._name, self._layer_path = prefix, name, layer_path
        self._blocks: list[Any] = list(model.get_submodule(prefix).children())
        self.n_blocks = len(self._blocks)
        self._passes_on: int | None = None  # what a block gives beside the state; None: nothing
        self._carries = False

    def check(self, k: int, path: str | None = None) -> None:
        """Refuse a k that this encoder or a layer, by default the target layer, does not allow.

        Raises:
            ConfigError: Saying what is allowed.
        """
        if k > self.n_blocks:
            raise ConfigError(
                f"late_views={k} is more than the {self.n_blocks} blocks of {self._name}; choose 1 "
                f"to {self.n_blocks}, or None for views of the raw input"
            )
        what = "target_layer" if path in (None, self._layer_path) else "layer"
        path = path or self._layer_path
        inside = re.match(rf"{re.escape(self._prefix)}\.(\d+)\.", path)
        above = path.startswith("pooler.")
        if not above and (inside is None or int(inside[1]) < self.n_blocks - k):
            needed = f"{self.n_blocks - int(inside[1])} or more" if inside else "None"
            raise ConfigError(
                f"{what} {path!r} lies below block {self.n_blocks - k}, where "
                f"views with late_views={k} begin, so they have no gradient there; choose a layer "
                f"of the last {k} of {self.n_blocks} blocks, or late_views={needed}"
            )

    def last(self, k: int) -> list[Any]:
        """Give the last k blocks."""
        return self._blocks[self.n_blocks - k :]

    @contextlib.contextmanager
    def watching(self, depths: Collection[int]) -> Iterator[dict[int, Tensor]]:
        """Note the state [N, T, D] before the last k blocks of the latest pass inside, by k."""
        states: dict[int, Tensor] = {}
        with contextlib.ExitStack() as stack:
            for k in depths:
                block = self._blocks[self.n_blocks - k]
                hook = of_this_thread(_noting(states, k))
                handle = block.register_forward_pre_hook(hook, with_kwargs=True)
                stack.callback(handle.remove)
            if depths:
                handle = self._blocks[0].register_forward_hook(of_this_thread(self._learn))
                stack.callback(handle.remove)
            yield states

    def _learn(self, _: nn.Module, __: object, out: object) -> None:
        """Remember what a block gives: its state, or a tuple of it and what it passes on."""
        rest = out[1:] if isinstance(out, tuple) else None
        self._passes_on = None if rest is None else len(rest)
        self._carries = rest is not None and any(isinstance(item, torch.Tensor) for item in rest)

    @contextlib.contextmanager
    def entered(self, k: int, hidden: Tensor) -> Iterator[None]:
        """Let passes begin at block L - k with [N, T, D], whatever the model was given.

        N and T must be those of the model inputs; a pass under `watching` came before.
        """
        first = self.n_blocks - k
        with contextlib.ExitStack() as stack:
            carried: list[Any] = []
            for i, block in enumerate(self._blocks[:first]):
                makes = i == 0 and self._carries
                aside = _standing_aside(self._passes_on, carried)
                stack.enter_context(shadowed(block, _carrying(block, carried) if makes else aside))
            entry = self._blocks[first]
            hook = of_this_thread(_handing(hidden))
            handle = entry.register_forward_pre_hook(hook, with_kwargs=True)
            stack.callback(handle.remove)
            yield


def _list_of(model: nn.Module, path: str) -> str | None:
    parts = path.split(".")
    prefixes = (".".join(parts[:i]) for i in range(1, len(parts)))
    return next((p for p in prefixes if isinstance(model.get_submodule(p), nn.ModuleList)), None)


def _noting(states: dict[int, Tensor], k: int) -> Callable[..., None]:
    def hook(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        states[k] = (args[0] if args else kwargs["hidden_states"]).detach()

    return hook


def _handing(hidden: Tensor) -> Callable[..., tuple[tuple[Any, ...], dict[str, Any]]]:
    def hook(
        _: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]]:
        if args:
            return (hidden, *args[1:]), kwargs
        return args, kwargs | {"hidden_states": hidden}

    return hook


def _standing_aside(passes_on: int | None, carried: list[Any]) -> Callable[..., Any]:
    def forward(hidden_states: Tensor, *_: Any, **__: Any) -> Any:
        if passes_on is None:
            return hidden_states
        return (hidden_states, *(carried or [None] * passes_on))

    return forward


def _carrying(block: Any, carried: list[Any]) -> Callable[..., Any]:
    """Block 0 makes what all blocks pass on: a T5's bias is asked for, else the block is run."""
    whole = block.forward
    parts = getattr(block, "layer", None)
    first: Any = parts[0] if isinstance(parts, nn.ModuleList) else None
    attention = getattr(first, "SelfAttention", None)

    def forward(hidden_states: Tensor, *args: Any, **kwargs: Any) -> Any:
        if attention is not None:
            length = hidden_states.shape[1]
            bias = attention.compute_bias(length, length, device=hidden_states.device)
            out: tuple[Any, ...] = (hidden_states, bias, None)
        else:
            out = whole(hidden_states, *args, **kwargs)
        carried[:] = out[1:]
        return out

    return forward
