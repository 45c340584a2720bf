"""AST and SSAST: transformers over the patches of a log-mel."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import torch

from fungi_hf.encoders.audio import mel as front
from fungi_hf.encoders.audio.families import AudioBody, check_rate, frames_within, masked_mean
from fungi_hf.encoders.audio.mel import FRAME, Statistics
from fungi_hf.encoders.audio.positions import grid_of, positions_for
from fungi_hf.encoders.late.sound import run_blocks
from fungi_hf.views.audio_ops import apply_to_spectrograms

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor, nn

    from fungi_hf.config import FungiConfig
    from fungi_hf.encoders.audio.families import AudioInput
    from fungi_hf.encoders.base import Batch


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
        """Fix length and statistics."""
        check_rate(processor, "AST")
        self.model = model
        settings: Any = model.config
        self.max_frames = frames_within(
            config.max_length, settings.max_length, None, settings.patch_size
        )
        self.limit_s = front.sample_count(self.max_frames) / self.rate
        self._tokens = 2 + math.prod(grid_of(settings, self.max_frames))
        self._fbank = front.fbank(config.audio_frontend)
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
        mel = self._fbank(wave, self.model.config.num_mel_bins)
        return mel[: self.max_frames]

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
        return {"input_values": stacked.to(self.model.dtype)}

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

    def last_blocks(self, hidden: Tensor, mask: Tensor) -> Tensor:
        """Run the blocks and the norm."""
        return self.model.layernorm(run_blocks(self.model.layers, hidden, mask))

    def pool(self, tokens: Tensor, batch: Batch, pooling: str) -> Tensor:
        """Pool class tokens or patches; `lengths` are there when patches were dropped."""
        if pooling == "first":
            return tokens[:, 0]
        if pooling == "mean" and "lengths" in batch:
            return masked_mean(tokens[:, 2:], batch["lengths"] - 2)
        if pooling == "mean":
            return tokens[:, 2:].mean(1)
        return (tokens[:, 0] + tokens[:, 1]) / 2
