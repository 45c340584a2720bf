"""What differs between the audio families, and what they share.

Invariant: a clip's tokens do not depend on the clips beside it: padding is masked out or never
made, and convolutions over a waveform see one clip at a time.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from fungi_hf.encoders.audio.mel import RATE
from fungi_hf.encoders.blocks import masked_mean
from fungi_hf.errors import ConfigError, EncoderError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor, nn

    from fungi_hf.encoders.audio.mel import Statistics
    from fungi_hf.encoders.base import Batch
    from fungi_hf.types import Float64Array, Int64Array
    from fungi_hf.views.audio import Draw


@dataclass(frozen=True, slots=True, eq=False)
class AudioInput:
    """What a batch is made of, on the model's device.

    The waveform is [samples] float32; the log-mel [frames, n_mels] before normalisation, None for
    waveform encoders. A draw is still to be applied.
    """

    wave: Tensor
    mel: Tensor | None
    draw: Draw | None = None
    masked: tuple[int, ...] = ()  # tokens of the region that become 0 in the model's input


class AudioBody(ABC):
    """One family of models; made by its class with (model, processor, config).

    Attributes:
        model: The model.
        spectrogram: Whether it reads a log-mel; else the waveform.
        class_tokens: Whether two class tokens stand before its patches.
        takes_statistics: Whether its log-mel is normalised by those of a training set.
        statistics: These; None where nothing is normalised by them.
        poolings: What is offered; "auto" is `default_pooling`.
        rate: Hz that it was trained at.
        frame_s: Seconds from one token to the next, where tokens are frames.
        max_frames: Frames of 10 ms after which clips are cut, and `limit_s`, that in seconds.
        min_samples: The shortest clip.
    """

    spectrogram = True
    class_tokens = False
    takes_statistics = False
    statistics: Statistics | None = None
    poolings: tuple[str, ...] = ("mean", "first", "last")
    default_pooling = "mean"
    rate = RATE
    frame_s: float
    max_frames: int
    limit_s: float
    min_samples = 1
    model: Any

    @classmethod
    @abstractmethod
    def fits(cls, model: nn.Module) -> bool:
        """Whether the model is of this family."""

    @abstractmethod
    def cost(self, samples: int) -> int:
        """Tokens that are computed for a clip."""

    def log_mel(self, wave: Tensor) -> Tensor | None:  # noqa: ARG002 - for waveform models
        """[samples] -> [frames, n_mels] before normalisation; None for waveform models."""
        return None

    @abstractmethod
    def collate(self, items: Sequence[AudioInput]) -> Batch:
        """Model inputs of a batch."""

    @abstractmethod
    def tokens(self, batch: Batch) -> Tensor:
        """Final hidden states [N, T, D]."""

    def region(self, data: AudioInput) -> tuple[int, int]:
        """First and end of the tokens of a clip that late views may drop; by default all."""
        return 0, self.cost(len(data.wave))

    def frames(self, data: AudioInput) -> tuple[Int64Array, Int64Array, Float64Array]:
        """Give tokens [R], the frame of each [R], and where frames begin and end [T, 2], in s."""
        start, stop = self.region(data)
        places = np.arange(stop - start)
        starts = places.astype(np.float64) * self.frame_s
        return places, places, self.spans_of(starts, self.frame_s, data)

    def spans_of(self, starts: Float64Array, width: float, data: AudioInput) -> Float64Array:
        """Give [T, 2] seconds of frames of one width; none ends after the clip."""
        ends = np.minimum(starts + width, len(data.wave) / self.rate)
        return np.stack([starts, np.maximum(starts, ends)], axis=1)

    @abstractmethod
    def last_blocks(self, hidden: Tensor, mask: Tensor) -> Tensor:
        """Final hidden states, the blocks below standing aside; mask [N, T'] of what is real."""

    def pool(self, tokens: Tensor, batch: Batch, pooling: str) -> Tensor:
        """[N, T, n] -> [N, n], over the `lengths` [N] of each clip in the batch."""
        lengths: Tensor = batch["lengths"]
        if pooling == "first":
            return tokens[:, 0]
        if pooling == "last":
            return tokens[torch.arange(len(tokens), device=tokens.device), lengths - 1]
        places = torch.arange(tokens.shape[1], device=tokens.device)
        return masked_mean(tokens, places < lengths[:, None])


def frames_within(asked: int | None, default: int, limit: int | None, lowest: int) -> int:
    """Give the length in frames of 10 ms that the config asks for, or the default.

    Raises:
        ConfigError: If the encoder does not take it.
    """
    frames = default if asked is None else asked
    if frames < lowest or frames > (limit or frames):
        upper = f" to {limit}" if limit else ""
        raise ConfigError(
            f"max_length={frames} frames of 10 ms; this encoder takes {lowest}{upper}"
        )
    return frames


def check_rate(processor: Any, name: str) -> None:
    """Refuse the feature extractor of a spectrogram model that works at another rate.

    Raises:
        EncoderError: Naming both rates.
    """
    if int(processor.sampling_rate) != RATE:
        raise EncoderError(
            f"the front-end of {name} works at {RATE} Hz; its feature extractor says "
            f"{processor.sampling_rate}"
        )
