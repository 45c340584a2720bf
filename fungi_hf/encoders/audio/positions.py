"""Fit the position table of an AST or SSAST to another length or stride, as its authors do.

Invariant: the table of the grid a model was trained with comes back unchanged.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from fungi_hf.errors import EncoderError

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import ASTModel

SPECIAL = 2  # class and distillation token, in front of the patches


def patch_grid(mels: int, frames: int, stride: tuple[int, int], patch: int = 16) -> tuple[int, int]:
    """Give the numbers of patches along (frequency, time), both at least 1; so are the strides.

    Raises:
        EncoderError: If not even one patch fits.
    """
    if frames < patch or mels < patch:
        raise EncoderError(f"{mels} mel bins x {frames} frames hold no patch of {patch} x {patch}")
    return (mels - patch) // stride[0] + 1, (frames - patch) // stride[1] + 1


def resize_positions(table: Tensor, old: tuple[int, int], new: tuple[int, int]) -> Tensor:
    """Cut or interpolate a position table.

    An axis that gets shorter is cut from the centre, one that gets longer is interpolated
    bilinearly; time first, then frequency.

    Args:
        table: [1, 2 + frequency * time, D], special tokens first, time running fastest.
        old: (frequency, time) of the table.
        new: (frequency, time) wanted.

    Returns:
        [1, 2 + new frequency * new time, D]; the table itself when the grids are equal.

    Raises:
        EncoderError: If the table does not hold the old grid.

    Reference: Gong et al. 2022 (SSAST), fine-tuning code. There the frequency cut has a slip
    (it uses the time length); it never happens with strides of at most 16 and 128 bins.
    """
    if table.shape[1] != SPECIAL + old[0] * old[1]:
        raise EncoderError(
            f"a position table of {table.shape[1]} rows is not {SPECIAL} + {old[0]} x {old[1]}"
        )
    if old == new:
        return table
    special, patches = table[:, :SPECIAL], table[:, SPECIAL:]
    grid = patches.transpose(1, 2).unflatten(2, old)  # [1, D, frequency, time]
    grid = _resize_axis(grid, 3, new[1])
    grid = _resize_axis(grid, 2, new[0])
    return torch.cat([special, grid.flatten(2).transpose(1, 2)], dim=1)


def _resize_axis(grid: Tensor, axis: int, size: int) -> Tensor:
    length = grid.shape[axis]
    if size <= length:
        return grid.narrow(axis, length // 2 - size // 2, size)
    shape = (size, grid.shape[3]) if axis == 2 else (grid.shape[2], size)
    return nn.functional.interpolate(grid, shape, mode="bilinear")


def grid_of(config: Any, frames: int, stride: int | None = None) -> tuple[int, int]:
    """Give the (frequency, time) patches of an AST for spectrograms of that many frames."""
    strides = (config.frequency_stride, config.time_stride) if stride is None else (stride, stride)
    return patch_grid(config.num_mel_bins, frames, strides, config.patch_size)


def positions_for(model: ASTModel, frames: int) -> Tensor:
    """Give a model's position table [1, tokens, D] for spectrograms of another length.

    It is the model's own parameter when the length is the configured one.
    """
    old, new = grid_of(model.config, model.config.max_length), grid_of(model.config, frames)
    return resize_positions(model.embeddings.position_embeddings, old, new)


def restride(model: ASTModel, *, stride: int, frames: int) -> ASTModel:
    """Give a copy of an AST, in eval mode, with positions for another stride and `max_length`.

    The stride is that along both axes, e.g. 10 for overlapping patches. All other weights are the
    model's, which is not modified.

    Raises:
        EncoderError: If the stride is not between 1 and the patch size.
    """
    from transformers import ASTConfig, ASTModel

    config = model.config
    if not 1 <= stride <= config.patch_size:
        raise EncoderError(
            f"stride is {stride}; allowed are 1 to {config.patch_size}, the patch size"
        )
    settings = config.to_dict() | {
        "frequency_stride": stride,
        "time_stride": stride,
        "max_length": frames,
    }
    state, name = dict(model.state_dict()), "embeddings.position_embeddings"
    old, new = grid_of(config, config.max_length), grid_of(config, frames, stride)
    state[name] = resize_positions(state[name], old, new)
    copy = ASTModel(ASTConfig.from_dict(settings)).to(model.dtype)
    copy.load_state_dict(state, strict=True)
    return copy.to(model.device).eval()
