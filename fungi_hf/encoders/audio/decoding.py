"""Turn any clip that a user hands over into mono float32 samples at the encoder's rate.

Invariants: memory is bounded by the encoder's limit, not by the file, because decoding,
downmixing and resampling go block by block and stop at the limit; the samples are the same
whether the clip came as a path, as bytes or as an array; nothing is fetched.
"""

from __future__ import annotations

import hashlib
import math
import os
from contextlib import nullcontext
from dataclasses import dataclass, field
from functools import partial
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import torch

from fungi_hf.encoders.audio.files import BLOCK, Stream, opened_file, sound_package
from fungi_hf.errors import AudioError, InputTypeError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from contextlib import AbstractContextManager
    from typing import TypeAlias

    import numpy.typing as npt

    from fungi_hf.types import Float32Array

    Recognised: TypeAlias = tuple[str, Callable[[], AbstractContextManager[Stream]]]

ACCEPTED: Final = (
    "a path, the bytes of a sound file, an array with its sampling rate, "
    "{'array' or 'raw': ..., 'sampling_rate': ...}, {'bytes': ..., 'path': ...}, "
    "or a torchcodec decoder"
)
MAX_CHANNELS: Final = 32
LOWEST_RATE, HIGHEST_RATE = 100, 1_000_000  # Hz; outside, a rate is taken for a mistake
LOUDEST: Final = 1e12  # far above the widest integer samples; its power is finite in float32


@dataclass(frozen=True, slots=True)
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

    samples: Float32Array = field(compare=False)
    rate: int
    source: str = field(compare=False)
    seconds: float = field(compare=False)
    cut: bool = field(compare=False)
    content: bytes = field(init=False)

    def __post_init__(self) -> None:
        """Take the digest once; every objective and view asks for it."""
        digest = hashlib.sha256(self.rate.to_bytes(4, "little"))
        digest.update(np.ascontiguousarray(self.samples).data)
        object.__setattr__(self, "content", digest.digest())

    def plain(self) -> tuple[Float32Array, int]:
        """Give what can be written to a file, and decoded to an equal clip."""
        return self.samples, self.rate


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
    name, opened = _recognised(raw, sampling_rate)
    limit = None if limit_s is None else max(1, round(limit_s * rate))
    with opened() as stream:
        own_rate = _checked_rate(stream.rate)
        samples, n_read = _resampled(stream, own_rate, rate, limit, name)
        seconds = max(n_read, stream.length or 0) / own_rate
    if samples.size == 0:
        raise AudioError(f"{name} has no samples")
    cut = limit is not None and seconds * rate > limit + 1
    return Clip(samples, rate, name, seconds, cut)


def describe(raw: object) -> str:
    """Give a short name of a clip for messages, whatever it is."""
    if isinstance(raw, Clip):
        return raw.source
    try:
        return _recognised(raw, 1000)[0]
    except (AudioError, InputTypeError):
        shown = repr(raw)
        return f"{type(raw).__name__} {shown[:60]}{'...' if len(shown) > 60 else ''}"


def _resampled(
    stream: Stream, own_rate: int, rate: int, limit: int | None, name: str
) -> tuple[Float32Array, int]:
    # The samples up to the limit, and how many of the stream's own were read.
    resampler = None
    if own_rate != rate:
        soxr = sound_package("soxr")
        resampler = soxr.ResampleStream(own_rate, rate, 1, dtype="float32", quality="HQ")
    parts: list[npt.NDArray[Any]] = [np.zeros(0, np.float32)]
    got = n_read = 0
    for block in stream.blocks:
        mono = _mono(block, n_read, name)
        n_read += len(mono)
        parts.append(mono if resampler is None else resampler.resample_chunk(mono))
        got += len(parts[-1])
        if limit is not None and got >= limit:
            break
    else:
        if resampler is not None and n_read:
            parts.append(resampler.resample_chunk(np.zeros(0, np.float32), last=True))
    samples = np.concatenate(parts)[:limit]
    return np.ascontiguousarray(samples, dtype=np.float32), n_read


def _mono(block: npt.NDArray[Any], n_before: int, name: str) -> npt.NDArray[Any]:
    block = _scaled(block)
    flat = block.mean(axis=1, dtype=np.float32) if block.ndim == 2 else block
    loudest = np.abs(flat).max(initial=0)
    if loudest <= LOUDEST:  # False for NaN, too
        return flat
    finite = np.isfinite(flat)
    if not finite.all():
        bad = len(flat) - int(finite.sum())
        raise AudioError(
            f"{name} holds NaN or infinite samples ({bad} in one block, the first at sample "
            f"{n_before + int(np.argmin(finite))})"
        )
    raise AudioError(
        f"{name} holds samples up to {loudest:.3g}, which overflow in a spectrogram; "
        "expected -1..1, or the range of an integer type"
    )


def _scaled(block: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Give float32, integers scaled by their type's range."""
    if block.dtype.kind == "f":
        return block.astype(np.float32, copy=False)
    info = np.iinfo(block.dtype)
    middle = info.max // 2 + 1 if info.min == 0 else 0
    return ((block.astype(np.float64) - middle) / float(info.max - middle + 1)).astype(np.float32)


def _checked_rate(rate: Any) -> int:
    # In whole Hz, from e.g. 16000, 44100.0 or a numpy scalar.
    try:
        value = float(rate)
    except (TypeError, ValueError):
        value = float("nan")
    if isinstance(rate, (str, bool)) or not LOWEST_RATE <= value <= HIGHEST_RATE or value % 1:
        raise AudioError(
            f"the sampling rate is {rate!r}; expected a whole number of Hz between "
            f"{LOWEST_RATE} and {HIGHEST_RATE}"
        )
    return int(value)


def _recognised(raw: Any, sampling_rate: Any = None) -> Recognised:
    """Give a clip's name for messages and what opens it; nothing is read from disk.

    The rate is that of bare arrays. An object of no kind in `ACCEPTED` is an InputTypeError, one
    without samples, path or rate an AudioError.
    """
    if isinstance(raw, (str, os.PathLike)):
        return _path(raw)
    if isinstance(raw, (bytes, bytearray, memoryview)):
        return _bytes(raw)
    if isinstance(raw, (np.ndarray, torch.Tensor)):
        return _array(raw, sampling_rate, "array")
    if isinstance(raw, tuple) and len(raw) == 2 and not isinstance(raw[0], (str, bytes)):
        return _array(raw[0], raw[1], "array")
    return _object(raw)


def _object(raw: Any) -> Recognised:
    name = f"{type(raw).__name__} object"
    if hasattr(raw, "get_all_samples"):  # before dict-like: datasets' decoder is both
        return name, partial(_opened_decoder, raw, name)
    if hasattr(raw, "data") and hasattr(raw, "sample_rate"):
        return name, lambda: nullcontext(Stream(iter([_samples(raw)]), raw.sample_rate, None))
    if hasattr(raw, "keys") and hasattr(raw, "__getitem__"):
        return _entry(raw)
    raise InputTypeError(f"a clip cannot be of type {type(raw).__name__}; give {ACCEPTED}")


def _path(path: str | os.PathLike[str]) -> Recognised:
    text = os.fsdecode(path)
    if not text.strip():
        raise AudioError(f"the path of a clip is empty; give {ACCEPTED}")
    if "://" in text:
        raise AudioError(f"{text!r} is a URL and nothing is fetched; download it and pass the path")
    return repr(text), partial(opened_file, Path(text), repr(text))


def _bytes(data: bytes | bytearray | memoryview) -> Recognised:
    whole = bytes(data)
    if not whole:
        raise AudioError("the clip's bytes are empty (0 bytes); expected a whole sound file")
    name = f"<{len(whole)} bytes>"
    return name, partial(opened_file, whole, name)


def _entry(raw: Mapping[str, Any]) -> Recognised:
    # A dict or the like, also a whole row of a data set.
    keys = list(raw.keys())
    names = ("array", "raw", "sampling_rate", "audio", "bytes", "path")
    held = {key: value for key in names if key in keys and (value := raw[key]) is not None}
    for key in ("array", "raw"):
        if key in held:
            if "sampling_rate" not in held:
                raise AudioError(
                    f"a clip given as {{{key!r}: ...}} has no sampling rate; "
                    "add 'sampling_rate' in Hz"
                )
            return _array(held[key], held["sampling_rate"], f"{key!r} entry")
    if "audio" in held:
        return _recognised(held["audio"], held.get("sampling_rate"))
    if "path" in held and not held.get("bytes"):
        return _path(held["path"])
    if "bytes" in held:
        return _bytes(held["bytes"])
    raise AudioError(
        f"a clip given as a dict has the keys {keys[:10]}; "
        "expected 'array' or 'raw' with 'sampling_rate', or 'bytes' or 'path' or 'audio', not None"
    )


def _array(raw: Any, rate: Any, name: str) -> Recognised:
    try:
        array = _as_numpy(raw)
    except ValueError as error:
        raise InputTypeError(f"the clip's {name} is not a regular array: {error}") from None
    if array.dtype.kind not in "fiu":
        raise InputTypeError(
            f"the clip's {name} has dtype {array.dtype}; expected real numbers (float or integer)"
        )
    if rate is None:
        raise AudioError(
            f"an array of shape {array.shape} has no sampling rate; pass "
            "{'array': ..., 'sampling_rate': Hz} or the pair (array, Hz)"
        )
    array = _channels_last(array, name)
    blocks = (array[start : start + BLOCK] for start in range(0, len(array), BLOCK))
    return f"{name} of shape {array.shape}", lambda: nullcontext(Stream(blocks, rate, len(array)))


def _as_numpy(data: Any) -> npt.NDArray[Any]:
    if isinstance(data, torch.Tensor):
        data = data.detach().cpu()
        return (data.float() if data.dtype.is_floating_point else data).numpy()  # no bfloat16
    return np.asarray(data)


def _channels_last(array: npt.NDArray[Any], name: str) -> npt.NDArray[Any]:
    # The shorter axis is the channels: both orders are in use, and sounds are long.
    if array.ndim == 1:
        return array
    if array.ndim != 2:
        raise AudioError(
            f"the clip's {name} has shape {array.shape}; expected [samples], "
            "[channels, samples] or [samples, channels]"
        )
    if not array.size:
        return array.reshape(0)
    if array.shape[0] == array.shape[1] > 1:
        raise AudioError(
            f"the clip's {name} has shape {array.shape}: channels and samples cannot be told "
            "apart; pass one channel as [samples]"
        )
    oriented = array.T if array.shape[0] < array.shape[1] else array
    if oriented.shape[1] > MAX_CHANNELS:
        raise AudioError(
            f"the clip's {name} has shape {array.shape}, which would be {oriented.shape[1]} "
            f"channels (at most {MAX_CHANNELS}); spectrograms are not taken, pass the waveform"
        )
    return oriented


def _opened_decoder(decoder: Any, name: str) -> AbstractContextManager[Stream]:
    # An object decodes that does so by itself, as torchcodec's; a long sound in parts.
    seconds: Any = getattr(getattr(decoder, "metadata", None), "duration_seconds", None)
    ranged: Any = getattr(decoder, "get_samples_played_in_range", None)
    in_parts = ranged is not None and seconds is not None and seconds > 30.0

    def parts() -> Iterator[Any]:
        try:
            if not in_parts:
                yield decoder.get_all_samples()
                return
            for start in range(0, math.ceil(seconds), 10):
                yield ranged(float(start), min(start + 10.0, seconds))
        except (RuntimeError, ValueError, OSError) as error:
            raise AudioError(f"{name} cannot be decoded: {error}") from None

    rest = parts()
    first = next(rest)
    blocks = map(_samples, chain([first], rest))
    length = seconds * first.sample_rate if in_parts else None
    return nullcontext(Stream(blocks, first.sample_rate, length))


def _samples(found: Any) -> npt.NDArray[Any]:
    """Give torchcodec's [channels, samples] as [samples, channels]."""
    array = _as_numpy(found.data)
    return array.T if array.ndim == 2 else array
