"""Digests of tensors and of JSON data; the same values give the same digits everywhere."""

from __future__ import annotations

import hashlib
import json
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor


def tensor_digest(tensors: Mapping[str, Tensor]) -> str:
    """Give a 16-digit digest of named tensors, independent of their order and device."""
    import torch  # configs are digested without it

    digest = hashlib.sha256()
    for name in sorted(tensors):
        tensor = tensors[name].detach().cpu().contiguous()
        digest.update(f"{name}:{tensor.dtype}:{tuple(tensor.shape)};".encode())
        digest.update(tensor.flatten().view(torch.uint8).numpy().data)
    return digest.hexdigest()[:16]


def json_digest(data: Mapping[str, Any]) -> str:
    """Give a 16-digit digest of plain data, independent of the order of keys."""
    text = json.dumps(data, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:16]
