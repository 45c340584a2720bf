"""Apply drawn audio views to a batch, on whatever device the batch is.

Invariant: each row's result depends on its own draw and values alone; nothing is drawn from a
shared generator and rows without a draw come back unchanged.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import torch
from torch import nn

from fungi_hf.seeding import uniform
from fungi_hf.views.audio import CropDraw, MaskDraw, NoiseRollDraw

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from torch import Tensor

    from fungi_hf.views.audio import Draw, GainShiftDraw


def apply_to_wave(wave: Tensor, draw: GainShiftDraw, rate: int) -> Tensor:
    """Scale and shift one [samples] waveform; positive shifts are later, around the end."""
    gain = 10.0 ** (draw.gain_db / 20.0)
    return torch.roll(wave, round(draw.shift_s * rate)) * gain


def apply_to_spectrograms(
    mels: Tensor,
    draws: Sequence[Draw | None],
    clip_frames: Sequence[int],
    roll_frames: Sequence[int],
) -> Tensor:
    """Apply one draw to each log-mel [N, frames, n_mels], padded and not normalised yet.

    None and waveform draws leave the row alone. `clip_frames` of a row come from the clip, at
    least 1; `NoiseRoll` acts over `roll_frames`. What is given is not modified.
    """
    result = mels.clone()
    for kind, apply in _APPLY.items():
        rows = [i for i, draw in enumerate(draws) if isinstance(draw, kind)]
        if rows:
            lengths = roll_frames if kind is NoiseRollDraw else clip_frames
            region = torch.tensor([lengths[i] for i in rows], device=mels.device)
            result[rows] = apply(mels[rows], [draws[i] for i in rows], region)
    return result


def _noise_roll(mels: Tensor, draws: list[NoiseRollDraw], region: Tensor) -> Tensor:
    frames, n_mels = mels.shape[1:]
    noise = torch.zeros(mels.shape)
    for row, draw in enumerate(draws):  # each view has a stream of its own, on the CPU
        generator = torch.Generator().manual_seed(draw.seed)
        length = int(region[row])
        noise[row, :length] = uniform(generator, length, n_mels) * draw.amplitude
    noisy = mels + noise.to(mels)
    shift = torch.tensor([draw.shift for draw in draws], device=mels.device)
    time = torch.arange(frames, device=mels.device).expand(len(draws), -1)
    source = torch.where(time < region[:, None], (time - shift[:, None]) % region[:, None], time)
    return noisy.gather(1, source[:, :, None].expand(-1, -1, n_mels))


def _crop(mels: Tensor, draws: list[CropDraw], region: Tensor) -> Tensor:
    frames, n_mels = mels.shape[1:]

    def column(name: str) -> Tensor:
        return torch.tensor([getattr(draw, name) for draw in draws], dtype=torch.float64)[:, None]

    length = region.double().cpu()[:, None]
    time = torch.arange(frames, dtype=torch.float64).expand(len(draws), -1) + 0.5
    wide = column("time") * length
    inside = column("time_offset") * (length - wide) + time * column("time")
    inside = torch.minimum(inside.clamp_min(0.5), length - 0.5)  # never reads the padding
    time = torch.where(time < length, inside, time)
    bins = torch.arange(n_mels, dtype=torch.float64) + 0.5
    high = column("frequency") * n_mels
    bins = column("frequency_offset") * (n_mels - high) + bins * column("frequency")
    x = (bins * 2 / n_mels - 1)[:, None, :].expand(-1, frames, -1)
    y = (time * 2 / frames - 1)[:, :, None].expand(-1, -1, n_mels)
    grid = torch.stack([x, y], dim=-1).to(mels)  # [N, frames, n_mels, 2]
    found = nn.functional.grid_sample(
        mels[:, None], grid, mode="bilinear", padding_mode="border", align_corners=False
    )
    return found[:, 0]


def _mask(mels: Tensor, draws: list[MaskDraw], region: Tensor) -> Tensor:
    frames, n_mels = mels.shape[1:]
    masked = torch.zeros(mels.shape, dtype=torch.bool)
    real = torch.arange(frames) < region.cpu()[:, None]  # [N, frames]
    for row, draw in enumerate(draws):
        for start, stop in _spans(draw.time, draw.time_fraction, int(region[row])):
            masked[row, start:stop] = True
        for start, stop in _spans(draw.frequency, draw.frequency_fraction, n_mels):
            masked[row, :, start:stop] = True
    masked &= real[:, :, None]
    inside = real.to(mels)[:, :, None]
    mean = (mels * inside).sum((1, 2)) / (region * n_mels)
    return torch.where(masked.to(mels.device), mean[:, None, None].to(mels.dtype), mels)


def _spans(
    pairs: tuple[tuple[float, float], ...], fraction: float, length: int
) -> list[tuple[int, int]]:
    widest = int(fraction * length + 1e-9)  # 0.2 * 15 is 3, rounding aside
    widths = [int(width_draw * (widest + 1)) for width_draw, _ in pairs]
    starts = [
        int(pair[1] * (length - width + 1)) for pair, width in zip(pairs, widths, strict=True)
    ]
    return [(start, start + width) for start, width in zip(starts, widths, strict=True)]


_APPLY: Final[dict[type, Callable[[Tensor, list[Any], Tensor], Tensor]]] = {
    NoiseRollDraw: _noise_roll,
    CropDraw: _crop,
    MaskDraw: _mask,
}
