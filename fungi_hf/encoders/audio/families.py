"""What differs between the audio families: length, front-end, forward pass, pooled tokens.

Invariant: a clip's tokens do not depend on the clips beside it: padding is masked out or never
made, and convolutions over a waveform see one clip at a time.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Protocol

import torch
from torch import nn

from fungi_hf.encoders.audio import mel as front
from fungi_hf.encoders.audio.mel import FRAME, HOP, Statistics
from fungi_hf.encoders.audio.positions import patch_grid, positions_for
from fungi_hf.encoders.audio.wavlm import calling_output_projections
from fungi_hf.encoders.last_block import shadowed
from fungi_hf.encoders.late.sound import run_blocks
from fungi_hf.errors import ConfigError, EncoderError, choices
from fungi_hf.views.audio_ops import apply_to_spectrograms

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

    from fungi_hf.config import FungiConfig
    from fungi_hf.encoders.base import Batch
    from fungi_hf.views.audio import Draw

CONTEXTS: Final = ("clip", "full")


@dataclass(frozen=True, slots=True, eq=False)
class AudioInput:
    """What a batch is made of: a waveform, its log-mel if there is one, what to do to it.

    Attributes:
        wave: [samples] float32, on the model's device.
        mel: [frames, n_mels] before normalisation, or None for waveform encoders.
        draw: A draw still to be applied, or None.
    """

    wave: Tensor
    mel: Tensor | None
    draw: Draw | None


class Body(Protocol):
    """One family; made by its class with (model, processor, config)."""

    spectrogram: bool
    class_tokens: bool
    takes_statistics: bool
    poolings: tuple[str, ...]
    default_pooling: str
    rate: int
    max_frames: int
    limit_s: float
    min_samples: int
    statistics: Statistics | None

    def cost(self, samples: int) -> int:
        """Tokens of a clip."""

    def log_mel(self, wave: Tensor) -> Tensor | None:
        """[samples] -> [frames, n_mels] before normalisation; None for waveform models."""

    def collate(
        self, items: Sequence[AudioInput], device: torch.device, dtype: torch.dtype
    ) -> Batch:
        """Model inputs of a batch."""

    def tokens(self, batch: Batch) -> Tensor:
        """Final hidden states [N, T, D]."""

    def region(self, samples: int) -> tuple[int, int]:
        """First and end of the tokens of a clip that late views may drop."""

    def last_blocks(self, hidden: Tensor, mask: Tensor) -> Tensor:
        """Final hidden states, the blocks below standing aside; mask [N, T'] of what is real."""

    def pool(self, tokens: Tensor, batch: Batch, pooling: str) -> Tensor:
        """[N, T, n] -> [N, n]."""


def _frames(asked: int | None, default: int, limit: int | None, lowest: int) -> int:
    frames = default if asked is None else asked
    if frames < lowest or (limit is not None and frames > limit):
        upper = "" if limit is None else f" to {limit}"
        raise ConfigError(
            f"max_length={frames} frames of 10 ms; this encoder takes {lowest}{upper}"
        )
    return frames


def _check_rate(processor: Any, rate: int, name: str) -> None:
    if int(processor.sampling_rate) != rate:
        raise EncoderError(
            f"the front-end of {name} works at {rate} Hz; its feature extractor says "
            f"{processor.sampling_rate}"
        )


def _masked_mean(tokens: Tensor, lengths: Tensor) -> Tensor:
    real = torch.arange(tokens.shape[1], device=tokens.device) < lengths[:, None]
    weights = real[:, :, None].to(tokens.dtype)
    return (tokens * weights).sum(1) / weights.sum(1)


def _pool_frames(tokens: Tensor, batch: Batch, pooling: str) -> Tensor:
    lengths: Tensor = batch["lengths"]
    if pooling == "first":
        return tokens[:, 0]
    if pooling == "last":
        return tokens[torch.arange(len(tokens), device=tokens.device), lengths - 1]
    return _masked_mean(tokens, lengths)


class PatchBody:
    """AST and SSAST: patches of a log-mel of fixed length, two class tokens in front.

    Every clip is cut or padded to `max_length` frames (the model's own if the config gives none)
    before normalisation, as in training, so padding is part of the input. For another length than
    the model's, the position table is cut from the centre in time or interpolated. Poolings:
    "cls" (mean of the two class tokens), "first" (the first of them), "mean" (over patches);
    "auto" is "cls" for a fine-tuned AST, "mean" for SSAST, whose class tokens were never trained.
    """

    spectrogram = True
    class_tokens = True
    takes_statistics = True
    poolings = ("cls", "first", "mean", "model")
    rate = front.RATE
    min_samples = FRAME

    def __init__(self, model: nn.Module, processor: Any, config: FungiConfig) -> None:
        """Fix length and statistics."""
        _check_rate(processor, self.rate, "AST")
        self._model: Any = model
        settings: Any = model.config
        patch = settings.patch_size
        self.max_frames = _frames(config.max_length, settings.max_length, None, patch)
        self.limit_s = front.sample_count(self.max_frames) / self.rate
        stride = (settings.frequency_stride, settings.time_stride)
        grid = patch_grid(settings.num_mel_bins, self.max_frames, stride, patch)
        self._tokens = 2 + grid[0] * grid[1]
        self._fbank = front.fbank(getattr(config, "audio_frontend", "torch"))
        self.statistics: Statistics | None = None
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
        mel = self._fbank(wave, self._model.config.num_mel_bins)
        return mel[: self.max_frames]

    def collate(
        self, items: Sequence[AudioInput], device: torch.device, dtype: torch.dtype
    ) -> Batch:
        """Give `input_values` [N, frames, n_mels]."""
        mels = [item.mel.to(device) for item in items if item.mel is not None]
        stacked = torch.stack([front.fit_length(mel, self.max_frames) for mel in mels])
        draws = [item.draw for item in items]
        if any(draw is not None for draw in draws):
            lengths = [len(mel) for mel in mels]
            stacked = apply_to_spectrograms(stacked, draws, lengths, [self.max_frames] * len(mels))
        if self.statistics is not None:
            stacked = front.normalise(stacked, self.statistics)
        return {"input_values": stacked.to(dtype)}

    def tokens(self, batch: Batch) -> Tensor:
        """Run the model, with fitted positions where the length is not its own."""
        values = batch["input_values"]
        if self.max_frames == self._model.config.max_length:
            return self._model(values).last_hidden_state
        table = {"embeddings.position_embeddings": positions_for(self._model, self.max_frames)}
        output: Any = torch.func.functional_call(self._model, table, (values,))
        return output.last_hidden_state

    def region(self, samples: int) -> tuple[int, int]:  # noqa: ARG002 - one length for all
        """Give the patches, padding included; class tokens stay."""
        return 2, self._tokens

    def last_blocks(self, hidden: Tensor, mask: Tensor) -> Tensor:
        """Run the blocks and the norm."""
        return self._model.layernorm(run_blocks(self._model.layers, hidden, mask))

    def pool(self, tokens: Tensor, batch: Batch, pooling: str) -> Tensor:
        """Pool class tokens or patches; `lengths` are there when patches were dropped."""
        if pooling == "first":
            return tokens[:, 0]
        if pooling == "mean" and "lengths" in batch:
            return _masked_mean(tokens[:, 2:], batch["lengths"] - 2)
        if pooling == "mean":
            return tokens[:, 2:].mean(1)
        return (tokens[:, 0] + tokens[:, 1]) / 2


class WhisperBody:
    """Whisper's encoder; only the frames that cover the clip are pooled.

    The architecture knows no padding mask and was trained on windows of 30 s, filled with
    silence. Context "clip" (the default) runs it on the clip and `SILENCE_FRAMES` of silence
    after it, which costs what the clip's length costs: attention and convolutions take any
    length, positions are absolute from the start. It is not the same function as the 30-s window:
    silence that is not there is not attended to. Context "full" is that window, at its price;
    no shortcut through it is exact, since silence frames take part in every layer.
    """

    spectrogram = True
    class_tokens = False
    takes_statistics = False
    poolings = ("mean", "first", "last")
    default_pooling = "mean"
    rate = front.RATE
    min_samples = 1
    statistics: Statistics | None = None
    SILENCE_FRAMES: Final = 100  # encoder frames of 20 ms

    def __init__(self, model: nn.Module, processor: Any, config: FungiConfig) -> None:
        """Fix length and context.

        Raises:
            ConfigError: If the context is unknown.
        """
        _check_rate(processor, self.rate, "Whisper")
        self._model: Any = model
        self._positions = int(model.config.max_source_positions)  # type: ignore[union-attr, arg-type]
        self.max_frames = _frames(config.max_length, 2 * self._positions, 2 * self._positions, 2)
        self.limit_s = self.max_frames * HOP / self.rate
        self._context = getattr(config, "audio_context", "clip")
        if self._context not in CONTEXTS:
            raise ConfigError(f"audio_context is {choices(self._context, CONTEXTS)}")

    @classmethod
    def fits(cls, model: nn.Module) -> bool:
        """Whether the model is a Whisper encoder."""
        return type(model).__name__ == "WhisperEncoder"

    def _covering(self, samples: int) -> int:
        return min(self._positions, -(-samples // (2 * HOP)))

    def _context_of(self, covering: int) -> int:
        if self._context == "full":
            return self._positions
        return min(self._positions, covering + self.SILENCE_FRAMES)

    def cost(self, samples: int) -> int:
        """Tokens that are computed for a clip."""
        return self._context_of(self._covering(samples))

    def log_mel(self, wave: Tensor) -> Tensor:
        """Give [frames, n_mels] over the context and the two frames that its convolutions see."""
        frames = min(2 * self._positions, 2 * self.cost(len(wave)) + 2)
        mel = front.whisper_log_mel(wave, self._model.config.num_mel_bins, frames)
        return mel.T

    def collate(
        self, items: Sequence[AudioInput], device: torch.device, dtype: torch.dtype
    ) -> Batch:
        """Give `input_features` [N, n_mels, frames], `contexts` and `lengths` [N]."""
        mels = [item.mel.to(device) for item in items if item.mel is not None]
        stacked = nn.utils.rnn.pad_sequence(mels, batch_first=True)
        draws = [item.draw for item in items]
        covering = [self._covering(len(item.wave)) for item in items]
        if any(draw is not None for draw in draws):
            frames = [min(2 * n, len(mel)) for n, mel in zip(covering, mels, strict=True)]
            stacked = apply_to_spectrograms(stacked, draws, frames, frames)
        return {
            "input_features": stacked.transpose(1, 2).to(dtype),
            "contexts": torch.tensor([self._context_of(n) for n in covering], device=device),
            "lengths": torch.tensor(covering, device=device),
        }

    def tokens(self, batch: Batch) -> Tensor:
        """Run convolutions and blocks over the longest context of the batch."""
        model, contexts = self._model, batch["contexts"]
        longest = int(contexts.max())
        x = nn.functional.gelu(model.conv1(batch["input_features"]))
        x = nn.functional.gelu(model.conv2(x)).transpose(1, 2)[:, :longest]  # [N, T, D]
        x = x + model.embed_positions.weight[:longest]
        mask = None
        if int(contexts.min()) < longest:
            real = torch.arange(longest, device=x.device) < contexts[:, None]
            mask = torch.zeros(real.shape, dtype=x.dtype, device=x.device)
            mask = mask.masked_fill(~real, torch.finfo(x.dtype).min)[:, None, None]
            mask = mask.expand(-1, 1, longest, -1)
        for layer in model.layers:
            x = layer(x, mask)
            x = x[0] if isinstance(x, tuple) else x
        hidden: Tensor = model.layer_norm(x)
        return hidden

    def region(self, samples: int) -> tuple[int, int]:
        """Give the frames that cover the clip; the silence after it stays."""
        return 0, self._covering(samples)

    def last_blocks(self, hidden: Tensor, mask: Tensor) -> Tensor:
        """Run the blocks and the norm."""
        return self._model.layer_norm(run_blocks(self._model.layers, hidden, mask))

    def pool(self, tokens: Tensor, batch: Batch, pooling: str) -> Tensor:
        """Pool over the frames that cover each clip."""
        return _pool_frames(tokens, batch, pooling)


class WaveBody:
    """wav2vec2, HuBERT, WavLM and their like: the waveform in.

    The convolutions run clip by clip, because those with a group norm mix all of their input;
    what they give is padded, projected and masked together.
    """

    spectrogram = False
    class_tokens = False
    takes_statistics = False
    poolings = ("mean", "first", "last")
    default_pooling = "mean"
    statistics: Statistics | None = None

    def __init__(self, model: nn.Module, processor: Any, config: FungiConfig) -> None:
        """Fix length.

        Raises:
            EncoderError: If the model ends in an adapter, which shortens its frames again.
        """
        self._model: Any = model
        if getattr(model, "adapter", None) is not None:
            raise EncoderError(f"{type(model).__name__} with an adapter is not offered")
        self.rate = int(processor.sampling_rate)
        self.max_frames = _frames(config.max_length, 3000, None, 1)
        self.limit_s = self.max_frames / 100
        self._normalise = bool(getattr(processor, "do_normalize", True))
        kernels, strides = model.config.conv_kernel, model.config.conv_stride  # type: ignore[union-attr]
        self._convolutions = tuple(zip(kernels, strides, strict=True))  # type: ignore[arg-type]
        self.min_samples = 1
        for kernel, stride in reversed(self._convolutions):
            self.min_samples = (self.min_samples - 1) * stride + kernel

    @classmethod
    def fits(cls, model: nn.Module) -> bool:
        """Whether the model has wav2vec2's parts."""
        parts = ("feature_extractor", "feature_projection", "encoder")
        return all(isinstance(getattr(model, part, None), nn.Module) for part in parts)

    def cost(self, samples: int) -> int:
        """Frames after the convolutions."""
        for kernel, stride in self._convolutions:
            samples = (samples - kernel) // stride + 1
        return samples

    def log_mel(self, wave: Tensor) -> None:
        """Give nothing: the model reads the waveform."""

    def collate(
        self, items: Sequence[AudioInput], device: torch.device, dtype: torch.dtype
    ) -> Batch:
        """Give the normalised `waves`, a list, and their `lengths` in frames [N]."""
        waves = [item.wave.to(device) for item in items]
        if self._normalise:
            waves = [front.unit_variance(wave) for wave in waves]
        lengths = torch.tensor([self.cost(len(wave)) for wave in waves], device=device)
        return {"waves": [wave.to(dtype) for wave in waves], "lengths": lengths}

    def tokens(self, batch: Batch) -> Tensor:
        """Run the convolutions per clip and the transformer on all."""
        model, lengths = self._model, batch["lengths"]
        parts = [model.feature_extractor(wave[None])[0].T for wave in batch["waves"]]
        features = nn.utils.rnn.pad_sequence(parts, batch_first=True)  # [N, T, C]
        projected = model.feature_projection(features)
        hidden = projected[0] if isinstance(projected, tuple) else projected
        mask = torch.arange(hidden.shape[1], device=hidden.device) < lengths[:, None]
        return self._encode(hidden, mask)

    def _encode(self, hidden: Tensor, mask: Tensor) -> Tensor:
        # Earlier transformers draw a number here that these encoders use in training only.
        with calling_output_projections(self._model), torch.random.fork_rng(devices=()):
            output: Tensor = self._model.encoder(
                hidden, attention_mask=None if bool(mask.all()) else mask
            ).last_hidden_state
        return output

    def region(self, samples: int) -> tuple[int, int]:
        """Give all frames."""
        return 0, self.cost(samples)

    def last_blocks(self, hidden: Tensor, mask: Tensor) -> Tensor:
        """Run the encoder without its positional convolution, whose result is not wanted."""
        with shadowed(self._model.encoder.pos_conv_embed, torch.zeros_like):
            return self._encode(hidden.clone(), mask)  # padding is overwritten there

    def pool(self, tokens: Tensor, batch: Batch, pooling: str) -> Tensor:
        """Pool over each clip's frames."""
        return _pool_frames(tokens, batch, pooling)


BODIES: Final[tuple[Any, ...]] = (PatchBody, WhisperBody, WaveBody)
