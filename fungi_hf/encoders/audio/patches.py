"""AST and SSAST: transformers over the patches of a log-mel, and their position tables."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import nn

from fungi_hf.checks import check_integer
from fungi_hf.encoders.audio import mel as front
from fungi_hf.encoders.audio.families import AudioBody, check_rate, frames_within
from fungi_hf.encoders.audio.mel import FRAME, HOP, Statistics
from fungi_hf.encoders.late.sound import run_blocks
from fungi_hf.errors import EncoderError
from fungi_hf.views.audio_ops import apply_to_spectrograms

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor
    from transformers import ASTModel

    from fungi_hf.config import FungiConfig
    from fungi_hf.encoders.audio.families import AudioInput
    from fungi_hf.encoders.base import Batch
    from fungi_hf.types import Float64Array, Int64Array

SPECIAL = 2  # class and distillation token, in front of the patches


class PatchBody(AudioBody):
    """AST and SSAST: patches of a log-mel of fixed length, two class tokens in front.

    Every clip is cut or padded to `max_length` frames (the model's own if the config gives none)
    before normalisation, as in training, so padding is part of the input. For another length than
    the model's, the position table is cut from the centre in time or interpolated. Poolings:
    "cls" (mean of the two class tokens), "first" (the first of them), "mean" (over patches);
    "auto" is "cls" for a fine-tuned AST, "mean" for SSAST, whose class tokens were never trained.
    """

    class_tokens = True
    takes_statistics = True
    poolings = ("cls", "first", "mean", "model")
    min_samples = FRAME

    def __init__(self, model: nn.Module, processor: Any, config: FungiConfig) -> None:
        check_rate(processor, "AST")
        self.model = model
        settings: Any = model.config
        own, patch = settings.max_length, settings.patch_size
        self.max_frames = frames_within(config.max_length, own, None, patch)
        self.limit_s = front.sample_count(self.max_frames) / self.rate
        self._tokens = SPECIAL + math.prod(grid_of(settings, self.max_frames))
        self._fbank = front.fbank(config.audio_frontend)
        if getattr(processor, "do_normalize", True) and hasattr(processor, "mean"):
            self.statistics = Statistics(mean=processor.mean, std=processor.std)
        trained = (getattr(settings, "architectures", None) or [""])[0]
        self.default_pooling = "cls" if str(trained).endswith("Classification") else "mean"

    @classmethod
    def fits(cls, model: nn.Module) -> bool:
        """Whether the model is an AST."""
        return type(model).__name__ == "ASTModel"

    def cost(self, samples: int) -> int:  # noqa: ARG002 - every clip is padded to one length
        """Tokens of a clip: the same for all."""
        return self._tokens

    def log_mel(self, wave: Tensor) -> Tensor:
        """Give Kaldi's log-mel, not longer than the encoder reads."""
        return self._fbank(wave, self.model.config.num_mel_bins)[: self.max_frames]

    def collate(self, items: Sequence[AudioInput]) -> Batch:
        """Give `input_values` [N, frames, n_mels]."""
        mels = [item.mel for item in items if item.mel is not None]
        stacked = torch.stack([front.fit_length(mel, self.max_frames) for mel in mels])
        draws = [item.draw for item in items]
        if any(draw is not None for draw in draws):
            lengths = [len(mel) for mel in mels]
            stacked = apply_to_spectrograms(stacked, draws, lengths, [self.max_frames] * len(mels))
        if self.statistics is not None:
            stacked = front.normalise(stacked, self.statistics)
        for row, item in enumerate(items):
            self._mask(stacked[row], item.masked)
        return {"input_values": stacked.to(self.model.dtype)}

    def _mask(self, mel: Tensor, patches: tuple[int, ...]) -> None:
        config = self.model.config
        _, columns = grid_of(config, self.max_frames)  # time runs fastest
        for patch in patches:
            low, start = patch // columns, patch % columns
            low, start = low * config.frequency_stride, start * config.time_stride
            side = config.patch_size
            mel[start : start + side, low : low + side] = 0

    def tokens(self, batch: Batch) -> Tensor:
        """Run the model, with fitted positions where the length is not its own."""
        values = batch["input_values"]
        if self.max_frames == self.model.config.max_length:
            return self.model(values).last_hidden_state
        table = {"embeddings.position_embeddings": positions_for(self.model, self.max_frames)}
        output: Any = torch.func.functional_call(self.model, table, (values,))
        return output.last_hidden_state

    def region(self, data: AudioInput) -> tuple[int, int]:  # noqa: ARG002 - one length for all
        """Give the patches, padding included; class tokens stay."""
        return 2, self._tokens

    def frames(self, data: AudioInput) -> tuple[Int64Array, Int64Array, Float64Array]:
        """Give the columns of patches that begin before the clip ends, at least one."""
        settings = self.model.config
        rows, columns = grid_of(settings, self.max_frames)  # time runs fastest
        step = settings.time_stride * HOP / self.rate
        starts = np.arange(columns) * step
        n = max(1, int((starts < len(data.wave) / self.rate).sum()))
        owners = np.tile(np.arange(n), rows)
        tokens = (np.arange(rows)[:, None] * columns + np.arange(n)).ravel()
        return (
            tokens,
            owners,
            self.spans_of(starts[:n], settings.patch_size * HOP / self.rate, data),
        )

    def last_blocks(self, hidden: Tensor, mask: Tensor) -> Tensor:
        """Run the blocks and the norm."""
        return self.model.layernorm(run_blocks(self.model.layers, hidden, mask))

    def pool(self, tokens: Tensor, batch: Batch, pooling: str) -> Tensor:
        """Pool class tokens or patches; `lengths` are there when patches were dropped."""
        if pooling == "first":
            return tokens[:, 0]
        if pooling == "mean" and "lengths" in batch:
            return super().pool(tokens[:, 2:], {"lengths": batch["lengths"] - 2}, pooling)
        if pooling == "mean":
            return tokens[:, 2:].mean(1)
        return (tokens[:, 0] + tokens[:, 1]) / 2


def patch_grid(mels: int, frames: int, stride: tuple[int, int], patch: int = 16) -> tuple[int, int]:
    """Give the numbers of patches along (frequency, time), both at least 1; so are the strides.

    Raises:
        EncoderError: If not even one patch fits.
    """
    if frames < patch or mels < patch:
        raise EncoderError(f"{mels} mel bins x {frames} frames hold no patch of {patch} x {patch}")
    return (mels - patch) // stride[0] + 1, (frames - patch) // stride[1] + 1


def resize_positions(table: Tensor, old: tuple[int, int], new: tuple[int, int]) -> Tensor:
    """Fit a table [1, 2 + frequency * time, D] to another (frequency, time), as its authors do.

    Special tokens come first, time runs fastest. An axis that gets shorter is cut from the centre,
    one that gets longer is interpolated bilinearly; time first, then frequency. The table itself
    comes back when the grids are equal.

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
    """Give a model's position table [1, tokens, D] for spectrograms of another length."""
    old, new = grid_of(model.config, model.config.max_length), grid_of(model.config, frames)
    return resize_positions(model.embeddings.position_embeddings, old, new)


def restride(model: ASTModel, *, stride: int, frames: int) -> ASTModel:
    """Give a copy of an AST, in eval mode, with positions for another stride and `max_length`.

    The stride is that along both axes, e.g. 10 for overlapping patches. All other weights are the
    model's, which is not modified. A stride not between 1 and the patch size is an EncoderError.
    """
    from transformers import ASTConfig, ASTModel

    config = model.config
    check_integer("stride", stride, 1, config.patch_size, error=EncoderError)
    strides = {"frequency_stride": stride, "time_stride": stride}
    settings = config.to_dict() | strides | {"max_length": frames}
    state, name = dict(model.state_dict()), "embeddings.position_embeddings"
    old, new = grid_of(config, config.max_length), grid_of(config, frames, stride)
    state[name] = resize_positions(state[name], old, new)
    copy = ASTModel(ASTConfig.from_dict(settings)).to(model.dtype)
    copy.load_state_dict(state, strict=True)
    return copy.to(model.device).eval()
