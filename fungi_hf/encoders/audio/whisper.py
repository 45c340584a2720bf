"""Whisper's encoder: convolutions and blocks over the log-mel of a clip."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import torch
from torch import nn

from fungi_hf.checks import check_choice
from fungi_hf.encoders.audio import mel as front
from fungi_hf.encoders.audio.families import AudioBody, check_rate, frames_within
from fungi_hf.encoders.audio.mel import HOP
from fungi_hf.encoders.late.sound import run_blocks
from fungi_hf.views.audio_ops import apply_to_spectrograms

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

    from fungi_hf.config import FungiConfig
    from fungi_hf.encoders.audio.families import AudioInput
    from fungi_hf.encoders.base import Batch


class WhisperBody(AudioBody):
    """Whisper's encoder; only the frames that cover the clip are pooled.

    The architecture knows no padding mask and was trained on windows of 30 s, filled with
    silence. Context "clip" (the default) runs it on the clip and `SILENCE_FRAMES` of silence
    after it, which costs what the clip's length costs: attention and convolutions take any
    length, positions are absolute from the start. It is not the same function as the 30-s window:
    silence that is not there is not attended to. Context "full" is that window, at its price;
    no shortcut through it is exact, since silence frames take part in every layer.
    """

    SILENCE_FRAMES: Final = 100  # encoder frames of 20 ms

    def __init__(self, model: nn.Module, processor: Any, config: FungiConfig) -> None:
        check_rate(processor, "Whisper")
        self.model = model
        self._positions = int(model.config.max_source_positions)  # type: ignore[union-attr, arg-type]
        longest = 2 * self._positions
        self.max_frames = frames_within(config.max_length, longest, longest, 2)
        self.limit_s = self.max_frames * HOP / self.rate
        self.frame_s = 2 * HOP / self.rate
        self._context = check_choice("audio_context", config.audio_context, ("clip", "full"))

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
        return front.whisper_log_mel(wave, self.model.config.num_mel_bins, frames).T

    def collate(self, items: Sequence[AudioInput]) -> Batch:
        """Give `input_features` [N, n_mels, frames], `contexts` and `lengths` [N]."""
        mels = [item.mel for item in items if item.mel is not None]
        stacked = nn.utils.rnn.pad_sequence(mels, batch_first=True)
        draws = [item.draw for item in items]
        covering = [self._covering(len(item.wave)) for item in items]
        if any(draw is not None for draw in draws):
            frames = [min(2 * n, len(mel)) for n, mel in zip(covering, mels, strict=True)]
            stacked = apply_to_spectrograms(stacked, draws, frames, frames)
        for row, item in enumerate(items):
            for frame in item.masked:
                stacked[row, 2 * frame : 2 * frame + 2] = 0
        contexts = [self._context_of(n) for n in covering]
        return {
            "input_features": stacked.transpose(1, 2).to(self.model.dtype),
            "contexts": torch.tensor(contexts, device=stacked.device),
            "lengths": torch.tensor(covering, device=stacked.device),
        }

    def tokens(self, batch: Batch) -> Tensor:
        """Run convolutions and blocks over the longest context of the batch."""
        model, contexts = self.model, batch["contexts"]
        longest = int(contexts.max())
        x = nn.functional.gelu(model.conv1(batch["input_features"]))
        x = nn.functional.gelu(model.conv2(x)).transpose(1, 2)[:, :longest]  # [N, T, D]
        x = x + model.embed_positions.weight[:longest]
        return self.last_blocks(x, torch.arange(longest, device=x.device) < contexts[:, None])

    def region(self, data: AudioInput) -> tuple[int, int]:
        """Give the frames that cover the clip; the silence after it stays."""
        return 0, self._covering(len(data.wave))

    def last_blocks(self, hidden: Tensor, mask: Tensor) -> Tensor:
        """Run the blocks and the norm."""
        return self.model.layer_norm(run_blocks(self.model.layers, hidden, mask))
