"""Read sound files, on disk or in memory, block by block with soundfile.

Invariant: a file that cannot be read to the end of what is asked of it is an AudioError that
names it and says how far it went; silence is never made up for missing samples. What a header
says of the length is compared with what is there (`containers`); a file of unknown length, and one
of a format whose header has none (PAF, PVF, IRCAM, XI), ends where it ends.
"""

from __future__ import annotations

import contextlib
import importlib
import io
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, BinaryIO

from fungi_hf.encoders.audio.containers import (
    MP3_SLACK,
    Endless,
    contradiction,
    mp3_excess,
    ogg_fault,
    promised_samples,
    unmeasured,
)
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
    source: BinaryIO = io.BytesIO(file) if isinstance(file, bytes) else _opened(file, name)
    with source as handle:
        _check_whole(handle, name)
        head = handle.read(1024)
        shown, promised = unmeasured(handle)
        sound = _sound(shown, name)
        slack = 0
        if sound.format in ("MP3", "MPEG"):
            slack = MP3_SLACK
            if fault := mp3_excess(handle):
                raise AudioError(f"{name} {fault}")
            handle.seek(0)
            sound = _sound(Endless(handle), name)
        if promised is None:
            promised = promised_samples(sound, head)
        blocks = _blocks(sound, promised, slack, name)
        yield Stream(blocks, sound.samplerate, promised or None)


def _sound(handle: Any, name: str) -> Any:
    soundfile = sound_package("soundfile")
    try:
        sound = soundfile.SoundFile(handle)
    except (soundfile.LibsndfileError, TypeError) as error:
        raise AudioError(
            f"{name} is not a sound file that can be decoded "
            f"({_first_line(error)}); expected {FORMATS}"
        ) from None
    sound.seekable = lambda: False  # it is read once, in order; a stream of unknown length can be
    return sound


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


def _blocks(sound: Any, promised: int, slack: int, name: str) -> Iterator[npt.NDArray[Any]]:
    got = 0
    while True:
        try:
            block = sound.read(BLOCK, dtype="float32", always_2d=True)
        except sound_package("soundfile").LibsndfileError as error:
            whole = f" of {promised / sound.samplerate:.2f} s" if promised else ""
            raise AudioError(
                f"{name} is damaged after {got / sound.samplerate:.2f} s{whole} "
                f"({_first_line(error)})"
            ) from None
        if not len(block):
            break
        got += len(block)
        yield block
    if got < promised - slack:
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
    if handle.seek(0, io.SEEK_END) == 0:
        raise AudioError(f"{name} is an empty file (0 bytes)")
    handle.seek(0)
    fault = ogg_fault(handle) if handle.read(4) == b"OggS" else contradiction(handle)
    if fault:
        raise AudioError(f"{name} {fault}")
    handle.seek(0)


def _first_line(error: Exception) -> str:
    lines = str(getattr(error, "error_string", None) or error).strip().splitlines()
    return lines[0].rstrip(".") if lines else "no reason given"
