"""Audio encoders: any clip in, one embedding out, for AST, Whisper and wav2vec2-like models.

Invariant: a clip is decoded once; its views are stored as parameters and applied when a batch is
put together, on the model's device.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any, ClassVar, Final

import torch

from fungi_hf.checks import check_choice
from fungi_hf.encoders.audio.decoding import decode, describe
from fungi_hf.encoders.audio.families import AudioInput
from fungi_hf.encoders.audio.mel import Statistics, estimate_statistics, statistics, sum_up
from fungi_hf.encoders.audio.patches import PatchBody
from fungi_hf.encoders.audio.waves import WaveBody
from fungi_hf.encoders.audio.whisper import WhisperBody
from fungi_hf.encoders.base import Prepared
from fungi_hf.encoders.blocks import BlockEncoder
from fungi_hf.encoders.late.sound import LateTokens
from fungi_hf.encoders.masking import MaskedTokens
from fungi_hf.encoders.regions import frame_regions
from fungi_hf.errors import AudioError, ConfigError, EncoderError, InputError, InputTypeError
from fungi_hf.gradients.layers import resolve_layer
from fungi_hf.views.audio import AudioView, GainShiftDraw, audio_views
from fungi_hf.views.audio_ops import apply_to_wave

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from torch import Tensor, nn

    from fungi_hf.config import FungiConfig
    from fungi_hf.encoders.audio.decoding import Clip
    from fungi_hf.encoders.audio.families import AudioBody
    from fungi_hf.encoders.base import Batch, LateBatch, PreparedViews
    from fungi_hf.encoders.regions import Regions
    from fungi_hf.views.base import ViewGenerator

BODIES: Final[tuple[Any, ...]] = (PatchBody, WhisperBody, WaveBody)


class AudioEncoder(BlockEncoder):
    """An audio model, its front-end and its pooling."""

    modality = "audio"
    chunk_size = 32
    NOTES: ClassVar[Mapping[str, str]] = {
        "cut": "{n} of the clips are longer than {limit} frames of 10 ms and were cut at the end",
        "silent": "{n} of the clips are digital silence; they share their features",
    }

    def __init__(
        self,
        model: nn.Module,
        processor: Any,
        config: FungiConfig,
        *,
        sampling_rate: int | None = None,
    ) -> None:
        """Resolve layer, pooling, length and statistics; nothing of the model is changed.

        The sampling rate, in Hz, is that of bare arrays that come without one.

        Raises:
            EncoderError: If the model is of no known family, or the feature extractor is
                missing or of another family.
        """
        family = next((body for body in BODIES if body.fits(model)), None)
        if family is None:
            raise EncoderError(
                f"{type(model).__name__} is no audio encoder of a known family; expected AST or "
                "SSAST, a Whisper encoder, or wav2vec2, HuBERT or WavLM"
            )
        if processor is None or not hasattr(processor, "sampling_rate"):
            raise EncoderError(
                f"{type(model).__name__} needs its feature extractor; got {processor!r}: "
                "pass processor="
            )
        self.model, self.processor, self.sampling_rate = model, processor, sampling_rate
        self.layer_path, self.layer = resolve_layer(model, config.target_layer)
        self._body: AudioBody = family(model, processor, config)
        asked = self._body.default_pooling if config.pooling == "auto" else config.pooling
        owner = f"pooling of {type(model).__name__}"
        self.pooling = check_choice(owner, asked, self._body.poolings)
        self.reads_first_token = self.pooling != "mean"
        if family.class_tokens and self.reads_first_token:
            self.shorten_last_block()
        self.max_length = self._body.max_frames
        self.width = int(self._body.model.config.hidden_size)
        self._fits_statistics = config.audio_statistics == "fit"
        self._resolve_statistics(config.audio_statistics)

    def rebuilt(self, config: FungiConfig) -> AudioEncoder:
        """Give an encoder over the same model and feature extractor that follows another config."""
        return type(self)(self.model, self.processor, config, sampling_rate=self.sampling_rate)

    def _resolve_statistics(self, source: str) -> None:
        if source == "processor":
            return
        if not self._body.takes_statistics:
            raise ConfigError(
                f"audio_statistics={source!r} is for AST and SSAST; {type(self.model).__name__} "
                "normalises each clip by itself: set 'processor'"
            )
        if source != "fit":
            self._body.statistics = statistics(source)

    def describe(self, raw: object) -> str:
        """Give a short name of a clip, whatever it is."""
        return describe(raw)

    def check(self, raw: object, index: int) -> Clip:
        """Decode a clip, or say which one cannot be used and why.

        An unusable value is an AudioError, an unusable type an InputTypeError.
        """
        try:
            return self._decode(raw)
        except (AudioError, InputTypeError) as error:
            raise type(error)(f"input {index} ({describe(raw)}): {error}") from None

    def _decode(self, raw: object) -> Clip:
        body = self._body
        clip = decode(raw, body.rate, limit_s=body.limit_s, sampling_rate=self.sampling_rate)
        if len(clip.samples) < body.min_samples:
            raise AudioError(
                f"{len(clip.samples)} samples at {body.rate} Hz are too few; "
                f"{type(self.model).__name__} needs at least {body.min_samples} "
                f"({1000 * body.min_samples / body.rate:g} ms)"
            )
        return clip

    def content(self, raw: Clip | AudioView) -> bytes:
        """Give the digest of a clip or view."""
        return raw.content

    def prepare(self, raws: Sequence[Clip | AudioView]) -> list[Prepared]:
        """Compute log-mels, once per clip; a view is its clip's, and a draw for `collate`."""
        inputs: dict[bytes, AudioInput] = {}
        return [self._prepared(raw, inputs) for raw in raws]

    def _prepared(self, raw: Clip | AudioView, inputs: dict[bytes, AudioInput]) -> Prepared:
        clip: Clip = raw.clip if isinstance(raw, AudioView) else raw
        if clip.content not in inputs:
            wave = self._wave(clip)
            inputs[clip.content] = AudioInput(wave, self._body.log_mel(wave))
        data = inputs[clip.content]
        cost = self._body.cost(len(data.wave))
        if isinstance(raw, AudioView):
            return Prepared(replace(data, draw=raw.draw), cost, raw.content)
        notes = {"cut": clip.cut, "silent": not clip.samples.any()}
        return Prepared(data, cost, raw.content, tuple(name for name in notes if notes[name]))

    def _with_wave_draw(self, data: AudioInput) -> AudioInput:
        # Here and not when views are made: every view would hold a waveform of its own.
        if not isinstance(data.draw, GainShiftDraw):
            return data
        wave = apply_to_wave(data.wave, data.draw, self._body.rate)
        return AudioInput(wave, self._body.log_mel(wave))

    def collate(self, items: Sequence[Prepared]) -> Batch:
        """Apply the views, normalise, pad and stack on the model's device."""
        return self._body.collate([self._with_wave_draw(item.data) for item in items])

    def embed(self, batch: Batch) -> Tensor:
        """Give pooled embeddings [N, D] in the model's dtype."""
        with self.short_block():
            tokens = self._body.tokens(batch)
        return self._body.pool(tokens, batch, self.pooling)

    def embed_tokens(self, batch: Batch) -> Tensor:
        """Give [N, 1 + T, D]: the embedding, and the final states of patches or frames."""
        tokens = self._body.tokens(batch)
        pooled = self._body.pool(tokens, batch, self.pooling)
        return torch.cat([pooled[:, None], tokens[:, self.first_token :]], dim=1)

    def masked_views(self, n_views: int, options: Mapping[str, Any]) -> PreparedViews:
        """Give clips some of whose patches or frames are 0 in the model's input."""

        def maskable(item: Prepared) -> range:
            start, stop = self._body.region(item.data)
            return range(start - self.first_token, stop - self.first_token)

        def masked(item: Prepared, places: list[int]) -> AudioInput:
            return replace(item.data, masked=tuple(places))

        return MaskedTokens(n_views, options, share=0.3, maskable=maskable, masked=masked)

    @property
    def first_token(self) -> int:
        """Class tokens come before."""
        return 2 if self._body.class_tokens else 0

    def regions(self, raws: Sequence[Clip], items: Sequence[Prepared]) -> list[Regions]:
        """Give the frames that cover the clips; of AST, the columns of patches at one time."""
        del raws
        return [frame_regions(*self._body.frames(item.data)) for item in items]

    def pool_activation(self, a: Tensor, batch: Batch) -> Tensor:
        """Give the layer's inputs [N, T, n] pooled like the embedding, [N, n]."""
        return self._body.pool(a, batch, self.pooling)

    def views(self, name: str, n_views: int, options: Mapping[str, Any]) -> ViewGenerator:
        """Build views of one of the audio families, or registered ones."""
        return audio_views(name, n_views, options, spectrogram=self._body.spectrogram)

    def late_views(
        self, name: str, n_views: int, options: Mapping[str, Any], blocks: int
    ) -> PreparedViews:
        """Give views that lose patches or frames in the last blocks.

        Raises:
            ConfigError: If the views drop no tokens, or the blocks do not allow them.
        """
        if name not in ("auto", "token_drop"):
            raise ConfigError(
                "late_views drops patches or frames from the hidden state: views must be "
                f"'token_drop' or 'auto'; got {name!r}"
            )
        self.blocks.check(blocks)
        span = 1 if self._body.class_tokens else 5
        return LateTokens(self._body.region, n_views, options, blocks, span=span)

    def embed_late(self, batch: LateBatch) -> Tensor:
        """Run the last blocks on the tokens that stay, and pool: [N, D] in the model's dtype."""
        hidden, places, mask = batch.gathered()
        with self.short_block(), self.blocks.entered(batch.blocks, hidden):
            tokens = self._body.last_blocks(hidden, mask)
        covering = batch.inputs.get("lengths")
        pooled = mask if covering is None else mask & (places < covering[batch.sources][:, None])
        return self._body.pool(tokens, {"lengths": pooled.sum(1)}, self.pooling)

    def fit(self, items: Iterable[Clip]) -> None:
        """Estimate the log-mel statistics from training clips, if the config asks for it."""
        self.fit_sums(self.sums(items))

    def sums(self, items: Iterable[Clip]) -> dict[str, Tensor]:
        """Give the sums over log-mels that `fit` estimates the statistics from, or nothing."""
        if not self._fits_statistics:
            return {}
        mels = (self._body.log_mel(self._wave(clip)) for clip in items)
        return {"log_mel": sum_up(mel for mel in mels if mel is not None)}

    def fit_sums(self, sums: Mapping[str, Tensor]) -> None:
        """Estimate the statistics from sums, of several parts together.

        Raises:
            AudioError: If they are of no values, or of equal ones.
        """
        if self._fits_statistics:
            self._body.statistics = estimate_statistics(sums["log_mel"])

    def _wave(self, clip: Clip) -> Tensor:
        return torch.from_numpy(clip.samples).to(next(self.model.parameters()).device)

    def state(self) -> dict[str, Tensor]:
        """Give what `fit` estimated: "statistics" [mean, std], or nothing."""
        stats = self._body.statistics
        if not self._fits_statistics or stats is None:
            return {}
        return {"statistics": torch.tensor([stats.mean, stats.std], dtype=torch.float64)}

    def load_state(self, state: Mapping[str, Tensor]) -> None:
        """Take back what `state` gave.

        Raises:
            InputError: If it holds anything else.
        """
        if set(state) != {"statistics"} or state["statistics"].shape != (2,):
            raise InputError(f"an audio encoder's state holds 'statistics' [2]; got {list(state)}")
        mean, std = state["statistics"].tolist()
        self._body.statistics = Statistics(mean=mean, std=std)
