"""Which dtype a processor computes fast: bfloat16 without its own units is emulated."""

from __future__ import annotations

import functools
import platform
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Final

import torch

from fungi_hf.errors import SlowDtypeWarning

if TYPE_CHECKING:
    from torch import nn

_UNITS: Final = frozenset({"avx512_bf16", "amx_bf16", "bf16"})  # x86-64, x86-64, 64-bit Arm
_CPUINFO: Final = Path("/proc/cpuinfo")


def bfloat16_units(cpuinfo: str) -> bool | None:
    """Say whether a processor has bfloat16 units; None where /proc/cpuinfo lists no features."""
    lines = (line.partition(":") for line in cpuinfo.splitlines())
    words = [value.split() for name, _, value in lines if name.strip() in ("flags", "Features")]
    found = {word for line in words for word in line}
    return bool(found & _UNITS) if found else None


@functools.cache
def has_bfloat16_units() -> bool | None:
    """Say whether this machine's processor has bfloat16 units; None where Linux does not tell."""
    if platform.system() != "Linux" or not _CPUINFO.is_file():
        return None
    return bfloat16_units(_CPUINFO.read_text("utf-8", errors="replace"))


@functools.cache  # once a process
def _warn() -> None:
    warnings.warn(
        "this processor has no bfloat16 units: bfloat16 is emulated and slower than "
        "float32; use dtype='float32' here",
        SlowDtypeWarning,
        stacklevel=4,
    )


def warn_of_slow_dtype(model: nn.Module) -> None:
    """Warn once a process of a bfloat16 model on a processor that emulates bfloat16."""
    parameter = next(model.parameters(), None)
    if parameter is None or parameter.dtype != torch.bfloat16 or parameter.device.type != "cpu":
        return
    if has_bfloat16_units() is False:
        _warn()
