"""Audio views: what is drawn, per sample and on the CPU; how it is applied is in `audio_ops`.

Invariant: a view is the untouched clip and a few drawn numbers, in units that do not depend on
the clip (fractions, decibels, seconds). So drawing costs nothing, and the encoder applies all
views of a batch at once, on its own device.
"""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Final, TypeAlias

from fungi_hf.checks import check_integer, check_number
from fungi_hf.errors import ConfigError
from fungi_hf.views.base import make_views

if TYPE_CHECKING:
    import random
    from collections.abc import Mapping

    from fungi_hf.views.base import ViewGenerator

Range: TypeAlias = tuple[float, float]


@dataclass(frozen=True, slots=True)
class NoiseRollDraw:
    """Noise of `amplitude` log-mel units from the stream `seed`, then a roll of `shift` frames."""

    seed: int
    amplitude: float
    shift: int


@dataclass(frozen=True, slots=True)
class CropDraw:
    """A box in fractions of the clip: extents, and offsets as fractions of the room left."""

    time: float
    time_offset: float
    frequency: float
    frequency_offset: float


@dataclass(frozen=True, slots=True)
class MaskDraw:
    """Masks as (width, offset) pairs in 0..1; fractions are of the widest mask and of the rest."""

    time: tuple[Range, ...]
    frequency: tuple[Range, ...]
    time_fraction: float
    frequency_fraction: float


@dataclass(frozen=True, slots=True)
class GainShiftDraw:
    """A gain in decibels and a circular shift in seconds, both of the waveform."""

    gain_db: float
    shift_s: float


Draw: TypeAlias = NoiseRollDraw | CropDraw | MaskDraw | GainShiftDraw


@dataclass(frozen=True, slots=True)
class AudioView:
    """A canonical clip, and the drawn numbers that say what to do to it."""

    clip: Any
    draw: Draw

    @property
    def content(self) -> bytes:
        """Digest of clip and draw; equal views of one clip are encoded once."""
        return hashlib.sha256(self.clip.content + repr(self.draw).encode()).digest()


class _Family(ABC):
    """V independent draws of one kind."""

    on_waveform: ClassVar[bool] = False
    n_views: int

    def __call__(self, raw: Any, generator: random.Random) -> list[AudioView]:
        """Give V views of a clip."""
        return [AudioView(raw, self.draw(generator)) for _ in range(self.n_views)]

    @abstractmethod
    def draw(self, generator: random.Random) -> Draw:
        """Draw one view's numbers."""


class NoiseRoll(_Family):
    """The published audio views: additive noise, then a roll along time.

    Formula: x + noise * c * U, U uniform in [0, 1) per entry, c one uniform draw in [0, 1) per
    view; then a circular shift by an integer number of 10 ms frames, uniform from -roll to
    roll - 1. Both before normalisation and over the padded input, its padding included; with an
    encoder that reads only the frames of the clip, over these.

    Reference: the published audio code; noise = 0.1 log-mel units, roll = 10 frames (0: none),
    16 views.
    """

    def __init__(self, n_views: int = 16, noise: float = 0.1, roll: int = 10) -> None:
        self.n_views = check_integer("n_views", n_views)
        self.noise = check_number("noise", noise, 0, 100)
        self.roll = check_integer("roll", roll, 0)

    def draw(self, generator: random.Random) -> NoiseRollDraw:
        """Draw seed, amplitude and shift."""
        seed, amplitude = generator.getrandbits(63), self.noise * generator.random()
        shift = generator.randrange(-self.roll, self.roll) if self.roll else 0
        return NoiseRollDraw(seed, amplitude, shift)


class SpectrogramCrop(_Family):
    """Random-resized crops: a box of the spectrogram, stretched back to its full size.

    The box's extents along time and frequency are independent and uniform in their ranges, as
    fractions of the clip's frames and of the mel bins, in (0, 1]; its place is uniform. Stretching
    is bilinear. (1, 1) leaves an axis alone: crops in time only, or in frequency only.
    """

    def __init__(
        self, n_views: int = 12, time: Range = (0.5, 1.0), frequency: Range = (0.8, 1.0)
    ) -> None:
        self.n_views = check_integer("n_views", n_views)
        self.time = _range("time", time, 0.01, 1)
        self.frequency = _range("frequency", frequency, 0.01, 1)

    def draw(self, generator: random.Random) -> CropDraw:
        """Draw the box."""
        uniform, random = generator.uniform, generator.random
        return CropDraw(uniform(*self.time), random(), uniform(*self.frequency), random())


class SpecAugment(_Family):
    """Time and frequency masks, without warping.

    Each mask's width is a uniform integer from 0 to the stated fraction, in (0, 1], of the clip's
    frames (or of the mel bins), rounded down; its place is uniform among those where it fits.
    Masked values become the clip's mean log-mel, so a mask adds no energy of its own.

    Reference: Park et al. 2019; widths are fractions here, since clips differ in length.
    """

    def __init__(
        self,
        n_views: int = 12,
        time_masks: int = 2,
        frequency_masks: int = 2,
        time_fraction: float = 0.2,
        frequency_fraction: float = 0.2,
    ) -> None:
        self.n_views = check_integer("n_views", n_views)
        self.time_masks = check_integer("time_masks", time_masks, 0)
        self.frequency_masks = check_integer("frequency_masks", frequency_masks, 0)
        self.time_fraction = check_number("time_fraction", time_fraction, 1e-9, 1)
        self.frequency_fraction = check_number("frequency_fraction", frequency_fraction, 1e-9, 1)
        if time_masks + frequency_masks == 0:
            raise ConfigError("time_masks and frequency_masks are both 0: every view is the clip")

    def draw(self, generator: random.Random) -> MaskDraw:
        """Draw the masks."""
        time, frequency = (
            tuple((generator.random(), generator.random()) for _ in range(count))
            for count in (self.time_masks, self.frequency_masks)
        )
        return MaskDraw(time, frequency, self.time_fraction, self.frequency_fraction)


class GainShift(_Family):
    """Louder or softer, earlier or later: the waveform scaled and shifted circularly.

    The gain is uniform in decibels, between -60 and 60, the shift uniform in seconds; positive is
    later. An encoder that normalises each clip's loudness (wav2vec2) does not hear the gain.
    """

    on_waveform = True

    def __init__(
        self, n_views: int = 12, gain_db: Range = (-6.0, 6.0), shift_s: Range = (-0.1, 0.1)
    ) -> None:
        self.n_views = check_integer("n_views", n_views)
        self.gain_db = _range("gain_db", gain_db, -60, 60)
        self.shift_s = _range("shift_s", shift_s, -3600, 3600)

    def draw(self, generator: random.Random) -> GainShiftDraw:
        """Draw gain and shift."""
        return GainShiftDraw(generator.uniform(*self.gain_db), generator.uniform(*self.shift_s))


AUDIO_VIEWS: Final[dict[str, type[_Family]]] = {
    "crop": SpectrogramCrop,
    "gain_shift": GainShift,
    "noise_roll": NoiseRoll,
    "spec_augment": SpecAugment,
}


def audio_views(
    name: str, n_views: int, options: Mapping[str, Any], *, spectrogram: bool = True
) -> ViewGenerator:
    """Give V views by a name of `AUDIO_VIEWS` or a registered one; lists stand for ranges.

    "auto" is "crop" for an encoder that reads spectrograms, "gain_shift" for one of waveforms.

    Raises:
        ConfigError: If the name or an option is unknown, or the family does not fit the encoder.
    """
    if name == "auto":
        name = "crop" if spectrogram else "gain_shift"
    if not spectrogram and name in AUDIO_VIEWS and not AUDIO_VIEWS[name].on_waveform:
        raise ConfigError(
            f"views {name!r} work on a spectrogram and this encoder reads the waveform; "
            "choose 'gain_shift'"
        )
    return make_views(name, n_views, options, AUDIO_VIEWS)


def _range(name: str, value: object, low: float, high: float) -> Range:
    if not isinstance(value, (tuple, list)) or len(value) != 2:
        raise ConfigError(f"{name} must be a pair (lowest, highest); got {value!r}")
    first, last = (check_number(f"{name}[{i}]", item, low, high) for i, item in enumerate(value))
    if first > last:
        raise ConfigError(f"{name} must be (lowest, highest); got {value!r}")
    return first, last
