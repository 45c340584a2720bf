"""Turn any clip a user hands over into mono float32 samples at the encoder's rate.

Invariants: memory is bounded by the encoder's limit, not by the file, because decoding,
downmixing and resampling go block by block and stop at the limit; the samples are the same
whether the clip came as a path, as bytes or as an array.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from fungi_hf.encoders.audio.files import open_source
from fungi_hf.encoders.audio.sources import recognise
from fungi_hf.errors import AudioError, InputTypeError, OptionalDependencyError

if TYPE_CHECKING:
    import numpy.typing as npt

    from fungi_hf.encoders.audio.files import Opened
    from fungi_hf.types import Float32Array


LOUDEST: Final = 1e12  # far above the widest integer samples; its power is finite in float32


@dataclass(frozen=True, slots=True, eq=False)
class Clip:
    """A decoded clip; equal to another clip when their samples are equal.

    Attributes:
        samples: [samples] float32, mono, -1..1 for files, at `rate`.
        rate: Sampling rate of `samples` in Hz.
        source: Where it came from, for messages.
        seconds: Length of the whole source, before any cut.
        cut: Whether the source is longer than the limit, so that its end is missing here.
        content: Digest of rate and samples: what views are keyed by.
    """

    samples: Float32Array
    rate: int
    source: str
    seconds: float
    cut: bool
    content: bytes = field(init=False)

    def __post_init__(self) -> None:
        """Take the digest once; every objective and view asks for it."""
        digest = hashlib.sha256(self.rate.to_bytes(4, "little"))
        digest.update(np.ascontiguousarray(self.samples).data)
        object.__setattr__(self, "content", digest.digest())

    def __eq__(self, other: object) -> bool:
        """Compare by content."""
        return isinstance(other, Clip) and self.content == other.content

    def __hash__(self) -> int:
        """Hash by content."""
        return hash(self.content)


def decode(
    raw: object, rate: int, *, limit_s: float | None = None, sampling_rate: int | None = None
) -> Clip:
    """Decode, downmix (mean over channels) and resample (soxr, HQ) one clip.

    Integers are scaled to -1..1 by their type's range. Digital silence, constants and clipped
    samples are sound like any other.

    Args:
        raw: A path, the bytes of a sound file, an array with `sampling_rate`, an (array, rate)
            pair, {"array" or "raw", "sampling_rate"}, {"bytes", "path"}, or a torchcodec object.
            An array's shorter axis is its channels.
        rate: Wanted sampling rate in Hz.
        limit_s: Longest part in seconds that is kept, from the start; None keeps all.
        sampling_rate: Hz, of a bare array.

    Returns:
        The clip; `cut` says whether the limit applied.

    Raises:
        AudioError: If the clip is missing, unreadable, not sound, truncated, empty, or holds
            NaN or Inf.
    """
    if isinstance(raw, Clip) and raw.rate == rate:
        return raw
    source = recognise(raw, sampling_rate)
    limit = None if limit_s is None else max(1, round(limit_s * rate))
    with open_source(source) as opened:
        samples = _resample(opened, rate, limit, source.name)
        seconds = opened.seconds if opened.seconds is not None else opened.taken / opened.rate
    if samples.size == 0:
        raise AudioError(f"{source.name} has no samples")
    cut = limit is not None and seconds * rate > limit + 1
    return Clip(samples, rate, source.name, seconds, cut)


def describe(raw: object) -> str:
    """Give a short name of a clip for messages, whatever it is."""
    if isinstance(raw, Clip):
        return raw.source
    try:
        return recognise(raw, 1000).name
    except (AudioError, InputTypeError):
        shown = repr(raw)
        return f"{type(raw).__name__} {shown[:60]}{'...' if len(shown) > 60 else ''}"


def _resample(opened: Opened, rate: int, limit: int | None, name: str) -> Float32Array:
    stream = None
    if opened.rate != rate:
        stream = _soxr().ResampleStream(opened.rate, rate, 1, dtype="float32", quality="HQ")
    parts: list[npt.NDArray[Any]] = []
    got = 0
    for block in opened.blocks:
        mono = _mono(block, opened.taken, name)
        opened.taken += len(mono)
        part = mono if stream is None else stream.resample_chunk(mono)
        parts.append(part)
        got += len(part)
        if limit is not None and got >= limit:
            break
    else:
        if stream is not None and opened.taken:
            parts.append(stream.resample_chunk(np.zeros(0, np.float32), last=True))
    joined = np.concatenate(parts) if parts else np.zeros(0, np.float32)
    return np.ascontiguousarray(joined[:limit], dtype=np.float32)


def _soxr() -> Any:
    try:
        import soxr
    except (ImportError, OSError) as error:
        reason = "" if isinstance(error, ModuleNotFoundError) else f"soxr is broken: {error}"
        raise OptionalDependencyError("soxr", "audio", reason) from None
    return soxr


def _mono(block: npt.NDArray[Any], taken: int, name: str) -> npt.NDArray[Any]:
    flat = block.mean(axis=1, dtype=np.float32) if block.ndim == 2 else block
    flat = flat.astype(np.float32, copy=False)
    if np.abs(flat).max(initial=0) <= LOUDEST:  # False for NaN, too
        return flat
    finite = np.isfinite(flat)
    if not finite.all():
        bad = len(flat) - int(finite.sum())
        raise AudioError(
            f"{name} holds NaN or infinite samples ({bad} in one block, the first at sample "
            f"{taken + int(np.argmin(finite))})"
        )
    raise AudioError(
        f"{name} holds samples up to {np.abs(flat).max():.3g}, which overflow in a spectrogram; "
        "expected -1..1, or the range of an integer type"
    )
