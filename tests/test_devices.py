"""What goes to a device."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
import torch

from fungi_hf.devices import sent

if TYPE_CHECKING:
    from torch import Tensor


@pytest.mark.parametrize(
    "tensor",
    [
        torch.arange(3)[:, None].expand(3, 4),
        torch.arange(12).reshape(3, 4).T,
        torch.arange(12)[::2],
        torch.tensor(1.0),
    ],
    ids=["expanded", "transposed", "strided", "scalar"],
)
def test_only_contiguous_memory_is_pinned(tensor: Tensor, monkeypatch: pytest.MonkeyPatch) -> None:
    """CUDA refuses to pin a tensor whose elements share their memory."""
    seen: list[Any] = []

    def pinned(own: Tensor) -> Tensor:
        assert own.is_contiguous()
        seen.append(own)
        return own

    def moved(own: Tensor, _device: torch.device, *, non_blocking: bool = False) -> Tensor:
        assert non_blocking
        return own

    monkeypatch.setattr(torch.Tensor, "pin_memory", pinned)
    monkeypatch.setattr(torch.Tensor, "to", moved)
    found = sent(tensor, torch.device("cuda"))
    monkeypatch.undo()
    assert len(seen) == 1
    assert torch.equal(found, tensor)
