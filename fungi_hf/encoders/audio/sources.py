"""Recognise what a user handed over as a clip, without decoding it.

Invariant: `recognise` decides by the kind of the object alone and either names one reader or
refuses with the list of what is taken; nothing is read from disk here, nothing is fetched.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

from fungi_hf.errors import AudioError, InputTypeError

if TYPE_CHECKING:
    from collections.abc import Mapping

    import numpy.typing as npt

ACCEPTED = (
    "a path, the bytes of a sound file, an array with its sampling rate, "
    "{'array' or 'raw': ..., 'sampling_rate': ...}, {'bytes': ..., 'path': ...}, "
    "or a torchcodec decoder"
)
MAX_CHANNELS = 32
LOWEST_RATE, HIGHEST_RATE = 100, 1_000_000  # Hz; outside, a rate is taken for a mistake


@dataclass(frozen=True, slots=True)
class FileSource:
    """A sound file on disk or in memory."""

    file: Path | bytes
    name: str


@dataclass(frozen=True, slots=True, eq=False)
class ArraySource:
    """Samples in memory, [samples] or [samples, channels], any real dtype."""

    array: npt.NDArray[Any]
    rate: int
    name: str


@dataclass(frozen=True, slots=True, eq=False)
class DecoderSource:
    """An object that decodes by itself, as torchcodec's AudioDecoder does."""

    decoder: Any
    name: str


Source: TypeAlias = FileSource | ArraySource | DecoderSource


def recognise(raw: object, sampling_rate: int | None = None) -> Source:
    """Give the reader's view of a clip.

    Args:
        raw: Anything of `ACCEPTED`.
        sampling_rate: Hz, of bare arrays only; files and dicts bring their own.

    Returns:
        A source with a name for messages. An object of no accepted kind is an InputTypeError,
        one without samples, path or rate an AudioError.
    """
    if isinstance(raw, (str, os.PathLike)):
        return _from_path(os.fspath(raw))
    if isinstance(raw, (bytes, bytearray, memoryview)):
        return _from_bytes(bytes(raw), "bytes")
    if isinstance(raw, np.ndarray) or _is_tensor(raw):
        return _from_array(raw, sampling_rate, "array")
    if isinstance(raw, tuple) and len(raw) == 2 and not isinstance(raw[0], (str, bytes)):
        return _from_array(raw[0], raw[1], "array")
    return _from_object(raw)


def _from_object(raw: Any) -> Source:
    if hasattr(raw, "get_all_samples"):  # before dict-like: datasets' decoder is both
        return DecoderSource(raw, f"{type(raw).__name__} object")
    if hasattr(raw, "data") and hasattr(raw, "sample_rate"):
        return _from_samples(raw)
    if hasattr(raw, "keys") and hasattr(raw, "__getitem__"):
        return _from_dict(raw)
    raise InputTypeError(f"a clip cannot be of type {type(raw).__name__}; give {ACCEPTED}")


def _is_tensor(raw: object) -> bool:
    import torch

    return isinstance(raw, torch.Tensor)


def _from_path(path: str | bytes) -> FileSource:
    text = os.fsdecode(path)
    if not text.strip():
        raise AudioError(f"the path of a clip is empty; give {ACCEPTED}")
    if "://" in text:
        raise AudioError(f"{text!r} is a URL and nothing is fetched; download it and pass the path")
    return FileSource(Path(text), repr(text))


def _from_bytes(data: bytes, name: str) -> FileSource:
    if not data:
        raise AudioError(f"the clip's {name} are empty (0 bytes); expected a whole sound file")
    return FileSource(data, f"<{len(data)} {name}>")


def _from_samples(raw: Any) -> ArraySource:
    data = raw.data.detach().cpu().numpy() if hasattr(raw.data, "detach") else np.asarray(raw.data)
    channels_last = data.T if data.ndim == 2 else data  # torchcodec gives [channels, samples]
    return ArraySource(channels_last, check_rate(raw.sample_rate), f"{type(raw).__name__} object")


def _from_dict(raw: Mapping[str, Any]) -> Source:
    keys = list(raw.keys())
    for key in ("array", "raw"):
        if key in keys and raw[key] is not None:
            if "sampling_rate" not in keys or raw["sampling_rate"] is None:
                raise AudioError(
                    f"a clip given as {{{key!r}: ...}} has no sampling rate; "
                    "add 'sampling_rate' in Hz"
                )
            return _from_array(raw[key], raw["sampling_rate"], f"{key!r} entry")
    if "audio" in keys and raw["audio"] is not None:  # a whole row of a data set
        return recognise(raw["audio"], raw["sampling_rate"] if "sampling_rate" in keys else None)
    if raw_bytes := (raw["bytes"] if "bytes" in keys else None):
        return _from_bytes(bytes(raw_bytes), "bytes")
    path = raw["path"] if "path" in keys else None
    if path is not None:
        return _from_path(os.fspath(path))
    if "bytes" in keys and raw["bytes"] is not None:
        return _from_bytes(b"", "bytes")
    raise AudioError(
        f"a clip given as a dict has the keys {keys[:10]}; "
        "expected 'array' or 'raw' with 'sampling_rate', or 'bytes' or 'path' or 'audio', not None"
    )


def _from_array(raw: Any, rate: object, name: str) -> ArraySource:
    array = raw.detach().cpu() if _is_tensor(raw) else raw
    if _is_tensor(array) and array.dtype.is_floating_point:
        array = array.float()  # numpy knows no bfloat16
    try:
        array = np.asarray(array)
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
    return ArraySource(array, check_rate(rate), f"{name} of shape {array.shape}")


def _channels_last(array: npt.NDArray[Any], name: str) -> npt.NDArray[Any]:
    # The shorter axis is the channels: both orders are in use, and sounds are long.
    if array.ndim == 1:
        return array
    if array.ndim == 2 and not array.size:
        return array.reshape(0)
    if array.ndim != 2:
        raise AudioError(
            f"the clip's {name} has shape {array.shape}; expected [samples], "
            "[channels, samples] or [samples, channels]"
        )
    if array.size and array.shape[0] == array.shape[1] and array.shape[0] > 1:
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


def check_rate(rate: object) -> int:
    """Give a sampling rate in whole Hz.

    Args:
        rate: A number, e.g. 16000, 44100.0 or a numpy scalar.

    Returns:
        The rate in Hz.

    Raises:
        AudioError: If it is not a whole number of Hz in the plausible range.
    """
    try:
        value = float(rate)  # type: ignore[arg-type]
    except (TypeError, ValueError):
        value = float("nan")
    if isinstance(rate, (str, bool)) or not LOWEST_RATE <= value <= HIGHEST_RATE or value % 1:
        raise AudioError(
            f"the sampling rate is {rate!r}; expected a whole number of Hz between "
            f"{LOWEST_RATE} and {HIGHEST_RATE}"
        )
    return int(value)
