"""Audio clips as the content of a demonstration or a query.

A clip is checked when it is made, so everything downstream can rely on it.
"""

from __future__ import annotations

import base64
import hashlib
import io
import wave
from dataclasses import dataclass
from numbers import Real
from typing import TYPE_CHECKING

import numpy as np

from fungi_hf.errors import AudioError

if TYPE_CHECKING:
    import numpy.typing as npt


@dataclass(frozen=True, slots=True, eq=False)
class AudioClip:
    """One mono clip.

    Attributes:
        samples: [S] floats, full scale is [-1, 1]; kept as a private float32 copy.
        sampling_rate: Samples per second, in Hz.
    """

    samples: npt.NDArray[np.float32]
    sampling_rate: int

    def __post_init__(self) -> None:
        rate = self.sampling_rate
        is_number = isinstance(rate, Real) and not isinstance(rate, bool)
        if not (is_number and rate > 0 and float(rate).is_integer()):
            raise AudioError(f"sampling_rate is {rate!r}; it is a positive whole number in Hz")
        object.__setattr__(self, "samples", _checked_samples(self.samples))
        object.__setattr__(self, "sampling_rate", int(rate))

    def __eq__(self, other: object) -> bool:
        return isinstance(other, AudioClip) and self.digest == other.digest

    def __hash__(self) -> int:
        return hash(self.digest)

    @property
    def seconds(self) -> float:
        """Length in seconds."""
        return len(self.samples) / self.sampling_rate

    @property
    def digest(self) -> str:
        """Identity of the samples and the rate: a sha256 in hexadecimal."""
        head = f"{self.sampling_rate}:{len(self.samples)}:".encode()
        return hashlib.sha256(head + self.samples.astype("<f4").tobytes()).hexdigest()

    def wav(self) -> bytes:
        """Return the clip as a 16-bit mono PCM file, clipped to [-1, 1]."""
        pcm = np.rint(np.clip(self.samples, -1.0, 1.0).astype(np.float64) * 32767).astype("<i2")
        buffer = io.BytesIO()
        with wave.open(buffer, "wb") as file:
            file.setnchannels(1)
            file.setsampwidth(2)
            file.setframerate(self.sampling_rate)
            file.writeframes(pcm.tobytes())
        return buffer.getvalue()

    def part(self) -> dict[str, object]:
        """Return the message part that carries the clip to an OpenAI-compatible server."""
        data = base64.b64encode(self.wav()).decode("ascii")
        return {"type": "input_audio", "input_audio": {"data": data, "format": "wav"}}

    def __str__(self) -> str:
        return f"<audio {self.seconds:.2f} s at {self.sampling_rate} Hz>"


def _checked_samples(samples: object) -> npt.NDArray[np.float32]:
    # A read-only float32 copy of one channel of finite floats.
    if hasattr(samples, "detach"):
        samples = samples.detach().cpu().float().numpy()
    array = np.asarray(samples)
    if array.dtype.kind != "f":
        raise AudioError(
            f"samples are {array.dtype}; give floats in [-1, 1], e.g. int16 samples / 32768"
        )
    if array.ndim != 1:
        raise AudioError(f"samples have shape {array.shape}; one channel [S] is needed")
    if not len(array):
        raise AudioError("samples are empty; a clip has at least one sample")
    bad = int(np.count_nonzero(~np.isfinite(array)))
    if bad:
        raise AudioError(f"samples have {bad} of {len(array)} values NaN or Inf")
    copy = np.array(array, dtype=np.float32)
    copy.flags.writeable = False
    return copy
