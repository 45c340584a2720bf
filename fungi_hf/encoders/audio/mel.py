"""Turn waveforms into what an audio encoder reads, equal to the reference front-ends.

Invariant: the result for a clip is a function of that clip alone, bit for bit on the CPU. Clips
are therefore computed one after the other there, which is also the faster order: one clip of ten
seconds stays in the cache, a batch does not.
"""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import nn

from fungi_hf.checks import check_choice
from fungi_hf.errors import AudioError, ConfigError, OptionalDependencyError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from torch import Tensor

FRAME = 400  # samples of a window: 25 ms at 16 kHz
HOP = 160  # samples between windows: 10 ms at 16 kHz
FFT = 512
RATE = 16000


@dataclass(frozen=True, slots=True, kw_only=True)
class Statistics:
    """Mean and standard deviation of a training set's log-mel values."""

    mean: float
    std: float

    def __post_init__(self) -> None:
        """Refuse values that cannot normalise.

        Raises:
            ConfigError: If the mean is not finite or the std is not positive.
        """
        if not (math.isfinite(self.mean) and math.isfinite(self.std) and self.std > 0):
            raise ConfigError(
                f"log-mel statistics need a finite mean and a positive std, "
                f"got mean {self.mean} and std {self.std}"
            )


# AudioSet is the AST extractor's default; the other two are those of SSAST's published recipes.
STATISTICS: dict[str, Statistics] = {
    "audioset": Statistics(mean=-4.2677393, std=4.5689974),
    "esc50": Statistics(mean=-6.6268077, std=5.358466),
    "speech_commands": Statistics(mean=-6.845978, std=5.5654526),
}


def statistics(name: str) -> Statistics:
    """Give the preset of a data set; an unknown name is a ConfigError."""
    return STATISTICS[check_choice("the preset of log-mel statistics", name, STATISTICS)]


def sample_count(frames: int) -> int:
    """Give the number of 16 kHz samples that exactly that many windows cover."""
    return 0 if frames < 1 else FRAME + (frames - 1) * HOP


@functools.lru_cache(maxsize=8)
def mel_bank(n_mels: int = 128) -> Tensor:
    """Give Kaldi's triangular filters between 20 Hz and 8 kHz, [n_mels, 257] float32.

    The order of operations is that of the reference in float32: computed in double precision and
    rounded, the steep low filters differ by up to 7e-5 in the log.
    """
    low, high = (1127.0 * math.log(1.0 + hertz / 700.0) for hertz in (20.0, RATE / 2))
    step = (high - low) / (n_mels + 1)
    index = torch.arange(n_mels)[:, None]
    left = low + index * step
    centre = low + (index + 1.0) * step
    right = low + (index + 2.0) * step
    hertz = (RATE / FFT) * torch.arange(float(FFT // 2))
    mel = 1127.0 * (1.0 + hertz / 700.0).log()
    rise, fall = (mel - left) / (centre - left), (right - mel) / (right - centre)
    filters = torch.minimum(rise, fall).clamp_min(0)
    return nn.functional.pad(filters, (0, 1))  # the Nyquist column is 0


@functools.lru_cache(maxsize=8)
def _constants(n_mels: int, device: str) -> tuple[Tensor, Tensor]:
    window = torch.hann_window(FRAME, periodic=False)
    return window.to(device), mel_bank(n_mels).T.contiguous().to(device)


def _log_mel(waves: Tensor, n_mels: int) -> Tensor:
    window, bank = _constants(n_mels, str(waves.device))
    # Each rounding step is the reference's: a fused multiply-add or re^2 + im^2 is quicker, but
    # after the cancellation in the lowest bins it moves a log-mel by more than 1e-5.
    frames = waves.unfold(-1, FRAME, HOP)  # [..., S] -> [..., frames, 400]
    frames = frames - frames.mean(-1, keepdim=True)
    before = torch.cat([frames[..., :1], frames[..., :-1]], -1).mul_(0.97)
    frames = frames.sub_(before).mul_(window)
    power = torch.fft.rfft(frames, FFT).abs().square_()  # [..., frames, 257]
    return (power @ bank).clamp_min_(torch.finfo(torch.float32).eps).log_()


def kaldi_fbank(waves: Tensor, n_mels: int = 128) -> Tensor:
    """Give the log-mel filter bank that AST and SSAST were trained on.

    Formula: windows of 400 samples each 160; minus their mean; pre-emphasis 0.97; symmetric Hann
    window; power of a 512-point FFT; triangular filters on the HTK mel scale between 20 Hz and
    8 kHz; natural logarithm, floored at float32's epsilon. No dither, no energy.

    From [samples] or [B, samples], 16 kHz, -1..1, float32, to [frames, n_mels] or
    [B, frames, n_mels] float32 before normalisation; frames = 1 + (samples - 400) // 160, the
    incomplete tail is dropped. Fewer than 400 samples are an AudioError.
    """
    _check_waves(waves)
    if waves.ndim == 1 or waves.device.type != "cpu":
        return _log_mel(waves, n_mels)
    return torch.stack([_log_mel(wave, n_mels) for wave in waves])


def fbank(frontend: str) -> Callable[[Tensor, int], Tensor]:
    """Give the filter bank of that name, `torch` (ours) or `torchaudio`, ready to be called.

    Both have the arguments, shapes and errors of `kaldi_fbank`. An unknown name is a ConfigError, a
    missing or broken torchaudio an OptionalDependencyError, here and not at the first clip.
    """
    if check_choice("the front-end", frontend, ("torch", "torchaudio")) == "torch":
        return kaldi_fbank
    kaldi = _torchaudio_kaldi()
    options = {"sample_frequency": float(RATE), "window_type": "hanning"}

    def torchaudio_fbank(waves: Tensor, n_mels: int = 128) -> Tensor:
        _check_waves(waves)
        each = waves.reshape(-1, waves.shape[-1])
        rows = [kaldi(wave[None], num_mel_bins=n_mels, **options) for wave in each]
        return rows[0] if waves.ndim == 1 else torch.stack(rows)

    return torchaudio_fbank


def _torchaudio_kaldi() -> Callable[..., Tensor]:
    way_out = (
        "uninstall torchaudio or install the build of torch that it was made for; "
        "frontend='torch' gives the same numbers without it"
    )
    try:
        from torchaudio.compliance.kaldi import fbank as reference
    except ModuleNotFoundError as error:
        if (error.name or "").split(".")[0] != "torchaudio":
            raise
        raise OptionalDependencyError(
            "torchaudio", "audio", f"torchaudio is not installed; {way_out.split('; ')[1]}"
        ) from None
    except (ImportError, OSError, AttributeError, RuntimeError) as error:
        reason = (
            f"torchaudio is installed but cannot be loaded by torch {torch.__version__} "
            f"({error.__cause__ or error}); {way_out}"
        )
        raise OptionalDependencyError("torchaudio", "audio", reason) from None
    return reference


def _check_waves(waves: Tensor) -> None:
    if waves.shape[-1] < FRAME:
        raise AudioError(
            f"a clip of {waves.shape[-1]} samples is too short for a log-mel frame; "
            f"the filter bank needs at least {FRAME} samples (25 ms at 16 kHz)"
        )


def fit_length(mel: Tensor, frames: int) -> Tensor:
    """Cut a [..., frames, mels] log-mel at the end, or pad it with zeros, to a length.

    Meant for values before normalisation, so that padding becomes (0 - mean) / (2 std), as in the
    extractor that AST was trained with.
    """
    return nn.functional.pad(mel, (0, 0, 0, frames - mel.shape[-2]))  # a negative number cuts


def normalise(mel: Tensor, stats: Statistics) -> Tensor:
    """Give (x - mean) / (2 std), AST's normalisation."""
    return (mel - stats.mean) / (2 * stats.std)


def sum_up(mels: Iterable[Tensor]) -> Tensor:
    """Give the number of values of log-mels, not padded, their sum and that of squares: float64.

    Sums of parts add up.
    """
    sums = torch.zeros(3, dtype=torch.float64)
    for values in (mel.cpu().double() for mel in mels):
        sums += torch.stack([torch.tensor(values.numel()), values.sum(), values.square().sum()])
    return sums


def estimate_statistics(sums: Tensor) -> Statistics:
    """Estimate mean and standard deviation of a training set's log-mels from what `sum_up` gave.

    Raises:
        AudioError: If there are no values, or all are equal.
    """
    count, total, squares = sums.tolist()
    mean, square = total / max(count, 1), squares / max(count, 1)
    # Mean and deviation are of one size: the difference loses a digit, and equal values leave one.
    if square - mean**2 <= 1e-12 * square:
        raise AudioError(
            f"log-mel statistics need values that differ, got {count:.0f} values; "
            f"pass statistics or one of the presets {sorted(STATISTICS)}"
        )
    return Statistics(mean=mean, std=math.sqrt(square - mean**2))


@functools.lru_cache(maxsize=8)
def _whisper_constants(n_mels: int, device: str) -> tuple[Tensor, Tensor]:
    from transformers.audio_utils import mel_filter_bank

    bank = mel_filter_bank(
        num_frequency_bins=1 + FRAME // 2,
        num_mel_filters=n_mels,
        min_frequency=0.0,
        max_frequency=8000.0,
        sampling_rate=RATE,
        norm="slaney",
        mel_scale="slaney",
    )
    filters = torch.from_numpy(bank).to(device, torch.float32).T.contiguous()
    return torch.hann_window(FRAME, device=device), filters


def whisper_log_mel(wave: Tensor, n_mels: int = 80, frames: int = 3000) -> Tensor:
    """Give Whisper's log-mel of one clip, as if padded with silence to `frames` frames.

    Formula: log10 of the Slaney mel power of a centred 400-point STFT with hop 160, floored at
    1e-10 and at 8 below the clip's maximum, then (x + 4) / 4. Only windows that touch the clip
    are transformed: silence beyond it is the floor, exactly.

    From [samples], 16 kHz, -1..1, float32, cut at `frames` * 160, to [n_mels, frames] float32;
    there are 80 filters, 128 for large-v3, and 3000 frames in Whisper's 30 s.

    Raises:
        AudioError: If the clip is empty.
    """
    if wave.shape[-1] == 0:
        raise AudioError("a clip without samples has no log-mel; Whisper needs at least one sample")
    wave = wave[: frames * HOP]
    window, filters = _whisper_constants(n_mels, str(wave.device))
    touched = min(frames, (wave.shape[-1] + FRAME // 2 - 1) // HOP + 1)
    # Two more hops of silence keep the reflection at the right end away from the clip.
    padded = nn.functional.pad(wave, (0, max(0, min(frames, touched + 2) * HOP - wave.shape[-1])))
    if padded.shape[-1] <= FRAME // 2:  # the left reflection needs more than half a window
        padded = nn.functional.pad(padded, (0, FRAME))
    spectrum = torch.stft(padded, FRAME, HOP, window=window, return_complex=True)
    power = (spectrum[:, :touched].abs() ** 2).contiguous()
    mel = (filters @ power).clamp_min(1e-10).log10()
    mel = nn.functional.pad(mel, (0, frames - touched), value=-10.0)
    return (torch.maximum(mel, mel.max() - 8.0) + 4.0) / 4.0


def unit_variance(wave: Tensor) -> Tensor:
    """Give a [samples] waveform with zero mean and unit variance, as wav2vec2's extractor does.

    A constant clip becomes zero: 1e-7 is added to the variance.
    """
    return (wave - wave.mean()) / (wave.var(correction=0) + 1e-7).sqrt()
