"""Read sound files, on disk or in memory, block by block with soundfile.

Invariant: a file that cannot be read to the end of what is asked of it is an AudioError that
names it and says how far it went; silence is never made up for missing samples. Formats that do
not tell their length beforehand (OGG, AIFF as libsndfile reads them) end where the file ends.
"""

from __future__ import annotations

import contextlib
import importlib
import io
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, BinaryIO

from fungi_hf.errors import AudioError, OptionalDependencyError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    import numpy.typing as npt

BLOCK = 1 << 16  # samples of a channel that are decoded at a time
FORMATS = "WAV, FLAC, OGG, MP3 and the other formats of libsndfile"


@dataclass(frozen=True, slots=True, eq=False)
class Stream:
    """A sound at its own rate in Hz, not yet read.

    The blocks are [samples] or [samples, channels] of any real dtype; the length, in samples of a
    channel, is None where that is not known beforehand.
    """

    blocks: Iterator[npt.NDArray[Any]]
    rate: Any
    length: float | None


@contextlib.contextmanager
def opened_file(file: Path | bytes, name: str) -> Iterator[Stream]:
    """Open a sound file, or what one holds, as float32, and close it afterwards.

    Raises:
        AudioError: If it is missing, empty, truncated or no sound.
    """
    soundfile = sound_package("soundfile")
    source: BinaryIO = io.BytesIO(file) if isinstance(file, bytes) else _opened(file, name)
    with source as handle:
        _check_whole(handle, name)
        try:
            sound = soundfile.SoundFile(handle)
        except (soundfile.LibsndfileError, TypeError) as error:
            raise AudioError(
                f"{name} is not a sound file that can be decoded "
                f"({_first_line(error)}); expected {FORMATS}"
            ) from None
        yield Stream(_blocks(sound, name), sound.samplerate, sound.frames)


def sound_package(name: str) -> Any:
    """Import soundfile or soxr, which the extra `audio` brings.

    Raises:
        OptionalDependencyError: If it is missing or broken.
    """
    try:
        return importlib.import_module(name)
    except (ImportError, OSError) as error:
        reason = "" if isinstance(error, ModuleNotFoundError) else f"{name} is broken: {error}"
        raise OptionalDependencyError(name, "audio", reason) from None


def _blocks(sound: Any, name: str) -> Iterator[npt.NDArray[Any]]:
    got, promised = 0, sound.frames
    while True:
        try:
            block = sound.read(BLOCK, dtype="float32", always_2d=True)
        except sound_package("soundfile").LibsndfileError as error:
            raise AudioError(
                f"{name} is damaged after {got / sound.samplerate:.2f} s "
                f"of {promised / sound.samplerate:.2f} s ({_first_line(error)})"
            ) from None
        if not len(block):
            break
        got += len(block)
        yield block
    # An MP3's length may be an estimate from its bit rate; other headers are exact.
    wanted = promised * 0.9 if sound.format in ("MP3", "MPEG") else promised
    if 0 < promised < 1 << 62 and got < wanted:
        raise AudioError(
            f"{name} is truncated: its header promises {promised} samples, {got} could be decoded"
        )


def _opened(file: Path, name: str) -> BinaryIO:
    try:
        return file.open("rb")
    except FileNotFoundError:
        raise AudioError(f"{name} does not exist") from None
    except IsADirectoryError:
        raise AudioError(f"{name} is a folder; expected a sound file") from None
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise AudioError(f"{name} cannot be opened: {reason}") from None


def _check_whole(handle: BinaryIO, name: str) -> None:
    size = handle.seek(0, io.SEEK_END)
    if size == 0:
        raise AudioError(f"{name} is an empty file (0 bytes)")
    handle.seek(0)
    if missing := _riff_shortfall(handle.read(4096), size):
        raise AudioError(f"{name} is truncated: {missing} bytes of its sound data are missing")
    handle.seek(0)


def _riff_shortfall(head: bytes, size: int) -> int:
    # How many bytes of a WAV file's data chunk are missing: libsndfile does not say. Streamed
    # files, whose sizes were never filled in, count as whole.
    if head[:4] != b"RIFF" or head[8:12] != b"WAVE":
        return 0
    at = 12
    while at + 8 <= len(head):
        length = int.from_bytes(head[at + 4 : at + 8], "little")
        if head[at : at + 4] == b"data":
            streamed = length == 0 or length >= 0x7FFFF000
            return 0 if streamed else max(0, at + 8 + length - size)
        at += 8 + length + length % 2
    return 0


def _first_line(error: Exception) -> str:
    lines = str(getattr(error, "error_string", None) or error).strip().splitlines()
    return lines[0].rstrip(".") if lines else "no reason given"
