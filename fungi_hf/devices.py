"""Tensors on their way to a device, without a wait for it, and back once."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from torch import Tensor


def sent(tensor: Tensor, device: torch.device) -> Tensor:
    """Give a tensor of the host on a device; the host does not wait for the copy.

    On the CPU it is the tensor itself. CUDA copies from pinned memory, which the copy keeps alive.
    """
    if device.type == tensor.device.type:
        return tensor.to(device)
    if device.type == "cuda":
        tensor = tensor.contiguous().pin_memory()  # an expanded one cannot be pinned
    return tensor.to(device, non_blocking=True)


def received(tensor: Tensor) -> Tensor:
    """Give a tensor on the host, through pinned memory from CUDA; the one wait of a chunk."""
    if tensor.device.type != "cuda":
        return tensor.cpu()
    return torch.empty_like(tensor, device="cpu", pin_memory=True).copy_(tensor)


class Mirror:
    """The last copy of a constant tensor of the host, where it was wanted."""

    def __init__(self) -> None:
        self._original: Tensor | None = None
        self._copy: Tensor | None = None

    def __call__(self, tensor: Tensor, like: Tensor) -> Tensor:
        """Give a tensor with the device and dtype of another; it is sent when these change."""
        copy = self._copy
        known = tensor is self._original and copy is not None
        if not (known and copy.device == like.device and copy.dtype == like.dtype):  # type: ignore[union-attr]
            copy = sent(tensor, like.device).to(like.dtype)
            self._original, self._copy = tensor, copy
        return copy  # type: ignore[return-value]
