"""wav2vec2, HuBERT, WavLM and their like: convolutions and blocks over the waveform."""

from __future__ import annotations

import contextlib
import math
from typing import TYPE_CHECKING, Any, Final

import torch
from torch import nn

from fungi_hf.encoders.audio import mel as front
from fungi_hf.encoders.audio.families import AudioBody, frames_within
from fungi_hf.encoders.last_block import shadowed
from fungi_hf.errors import EncoderError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from torch import Tensor

    from fungi_hf.config import FungiConfig
    from fungi_hf.encoders.audio.families import AudioInput
    from fungi_hf.encoders.base import Batch


_FUNCTIONAL: Final = "torch_multi_head_self_attention"


class WaveBody(AudioBody):
    """wav2vec2, HuBERT, WavLM and their like: the waveform in.

    The convolutions run clip by clip, because those with a group norm mix all of their input;
    what they give is padded, projected and masked together.
    """

    spectrogram = False

    def __init__(self, model: nn.Module, processor: Any, config: FungiConfig) -> None:
        self.model = model
        if getattr(model, "adapter", None) is not None:  # it shortens the frames again
            raise EncoderError(f"{type(model).__name__} with an adapter is not offered")
        self.rate = int(processor.sampling_rate)
        self.max_frames = frames_within(config.max_length, 3000, None, 1)
        self.limit_s = self.max_frames / 100
        self._normalise = bool(getattr(processor, "do_normalize", True))
        kernels, strides = model.config.conv_kernel, model.config.conv_stride  # type: ignore[union-attr]
        self._convolutions = tuple(zip(kernels, strides, strict=True))  # type: ignore[arg-type]
        self.min_samples = 1
        for kernel, stride in reversed(self._convolutions):
            self.min_samples = (self.min_samples - 1) * stride + kernel
        self._hop = math.prod(stride for _, stride in self._convolutions)
        self.frame_s = self._hop / self.rate

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

    def collate(self, items: Sequence[AudioInput]) -> Batch:
        """Give the normalised `waves`, a list, and their `lengths` in frames [N]."""
        waves = [item.wave for item in items]
        if self._normalise:
            waves = [front.unit_variance(wave) for wave in waves]
        waves = [self._masked(w, item.masked) for w, item in zip(waves, items, strict=True)]
        lengths = torch.tensor([self.cost(len(wave)) for wave in waves], device=waves[0].device)
        return {"waves": [wave.to(self.model.dtype) for wave in waves], "lengths": lengths}

    def _masked(self, wave: Tensor, frames: tuple[int, ...]) -> Tensor:
        if not frames:
            return wave
        wave, hop = wave.clone(), self._hop
        for frame in frames:
            wave[frame * hop : (frame + 1) * hop] = 0
        return wave

    def tokens(self, batch: Batch) -> Tensor:
        """Run the convolutions per clip and the transformer on all."""
        model, lengths = self.model, batch["lengths"]
        parts = [model.feature_extractor(wave[None])[0].T for wave in batch["waves"]]
        features = nn.utils.rnn.pad_sequence(parts, batch_first=True)  # [N, T, C]
        projected = model.feature_projection(features)
        hidden = projected[0] if isinstance(projected, tuple) else projected
        mask = torch.arange(hidden.shape[1], device=hidden.device) < lengths[:, None]
        return self._encode(hidden, mask)

    def _encode(self, hidden: Tensor, mask: Tensor) -> Tensor:
        # Earlier transformers draw a number here that these encoders use in training only.
        with _calling_output_projections(self.model), torch.random.fork_rng(devices=()):
            shown = None if bool(mask.all()) else mask
            return self.model.encoder(hidden, attention_mask=shown).last_hidden_state

    def last_blocks(self, hidden: Tensor, mask: Tensor) -> Tensor:
        """Run the encoder without its positional convolution, whose result is not wanted."""
        with shadowed(self.model.encoder.pos_conv_embed, torch.zeros_like):
            return self._encode(hidden.clone(), mask)  # padding is overwritten there


@contextlib.contextmanager
def _calling_output_projections(model: nn.Module) -> Iterator[None]:
    """Make WavLM's attention call its output projection, so that a hook on it fires.

    WavLM hands that layer's weight to a functional attention and never calls the module. A model
    without such attention is left alone.
    """
    with contextlib.ExitStack() as stack:
        for owner in model.modules():
            if hasattr(owner, _FUNCTIONAL):
                stack.enter_context(shadowed(owner, _attention(owner), _FUNCTIONAL))
        yield


def _attention(owner: Any) -> Any:
    # Earlier transformers pass output_attentions as well.
    def attend(hidden: Tensor, mask: Tensor | None, bias: Tensor, *_: bool) -> tuple[Tensor, None]:
        n, t = hidden.shape[:2]
        shape = (n, t, owner.num_heads, owner.head_dim)
        q, k, v = (
            projection(hidden).view(shape).transpose(1, 2)
            for projection in (owner.q_proj, owner.k_proj, owner.v_proj)
        )
        scores = bias.view(n, owner.num_heads, t, t)
        if mask is not None:
            scores = scores.masked_fill(mask.ne(1)[:, None, None, :], float("-inf"))
        context = nn.functional.scaled_dot_product_attention(q, k, v, attn_mask=scores)
        return owner.out_proj(context.transpose(1, 2).reshape(n, t, -1)), None

    return attend
