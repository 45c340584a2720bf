"""Open a sound as a stream of blocks: files by soundfile, arrays and decoders as they are.

Invariant: a file that cannot be read to the end of what is asked of it is an AudioError that
names it and says how far it went; silence is never made up for missing samples. Formats that do
not tell their length beforehand (OGG, AIFF as libsndfile reads them) end where the file ends.
"""

from __future__ import annotations

import io
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

import numpy as np

from fungi_hf.encoders.audio.sources import ArraySource, DecoderSource, check_rate
from fungi_hf.errors import AudioError, OptionalDependencyError

if TYPE_CHECKING:
    from collections.abc import Iterator

    import numpy.typing as npt

    from fungi_hf.encoders.audio.sources import FileSource, Source

BLOCK = 1 << 16  # samples of a channel that are decoded at a time
FORMATS = "WAV, FLAC, OGG, MP3 and the other formats of libsndfile"


class Opened:
    """A source that gives mono blocks at its own rate and counts what it gave."""

    def __init__(
        self,
        blocks: Iterator[npt.NDArray[Any]],
        rate: int,
        seconds: float | None,
        file: BinaryIO | None = None,
    ) -> None:
        self.blocks, self.rate, self.seconds, self.file = blocks, rate, seconds, file
        self.taken = 0

    def __enter__(self) -> Opened:
        return self

    def __exit__(self, *_: object) -> None:
        if self.file is not None:
            self.file.close()


def open_source(source: Source) -> Opened:
    """Open a recognised source; use it in a with statement."""
    if isinstance(source, ArraySource):
        return _open_array(source)
    if isinstance(source, DecoderSource):
        return _open_decoder(source)
    return _open_file(source)


def _open_array(source: ArraySource) -> Opened:
    array = source.array

    def blocks() -> Iterator[npt.NDArray[Any]]:
        for start in range(0, len(array), BLOCK):
            yield _to_float(array[start : start + BLOCK])

    return Opened(blocks(), source.rate, len(array) / source.rate)


def _to_float(block: npt.NDArray[Any]) -> npt.NDArray[Any]:
    if block.dtype.kind == "f":
        return block.astype(np.float32, copy=False)
    half = float(np.iinfo(block.dtype).max // 2 + 1) if block.dtype.kind == "u" else None
    if half is not None:
        return ((block.astype(np.float64) - half) / half).astype(np.float32)
    return (block.astype(np.float64) / -float(np.iinfo(block.dtype).min)).astype(np.float32)


def _open_decoder(source: DecoderSource) -> Opened:
    decoder = source.decoder
    metadata = getattr(decoder, "metadata", None)
    seconds = getattr(metadata, "duration_seconds", None)
    ranged = getattr(decoder, "get_samples_played_in_range", None)

    def ask(start: float | None) -> Any:
        try:
            if start is None or ranged is None:
                return decoder.get_all_samples()
            return ranged(start, min(start + 10.0, float(seconds or 0.0)))
        except (RuntimeError, ValueError, OSError) as error:
            raise AudioError(f"{source.name} cannot be decoded: {error}") from None

    in_parts = ranged is not None and seconds is not None and seconds > 30.0
    first = ask(0.0 if in_parts else None)

    def blocks() -> Iterator[npt.NDArray[Any]]:
        yield _decoded(first)
        start = 10.0
        while in_parts and start < float(seconds or 0.0):
            yield _decoded(ask(start))
            start += 10.0

    return Opened(blocks(), check_rate(first.sample_rate), seconds if in_parts else None)


def _decoded(samples: Any) -> npt.NDArray[Any]:
    data = samples.data
    array = data.detach().cpu().float().numpy() if hasattr(data, "detach") else np.asarray(data)
    return array.T if array.ndim == 2 else array  # [channels, samples] -> [samples, channels]


def _soundfile() -> Any:
    try:
        import soundfile
    except (ImportError, OSError) as error:
        reason = "" if isinstance(error, ModuleNotFoundError) else f"soundfile is broken: {error}"
        raise OptionalDependencyError("soundfile", "audio", reason) from None
    return soundfile


def _open_file(source: FileSource) -> Opened:
    soundfile = _soundfile()
    handle = _handle(source)
    try:
        sound = soundfile.SoundFile(handle)
    except (soundfile.LibsndfileError, TypeError) as error:
        handle.close()
        raise AudioError(
            f"{source.name} is not a sound file that can be decoded "
            f"({_first_line(error)}); expected {FORMATS}"
        ) from None
    promised = sound.frames
    # An MP3's length may be an estimate from its bit rate; other headers are exact.
    wanted = promised * 0.9 if sound.format in ("MP3", "MPEG") else promised

    def blocks() -> Iterator[npt.NDArray[Any]]:
        got = 0
        while True:
            try:
                block = sound.read(BLOCK, dtype="float32", always_2d=True)
            except soundfile.LibsndfileError as error:
                raise AudioError(
                    f"{source.name} is damaged after {got / sound.samplerate:.2f} s "
                    f"of {promised / sound.samplerate:.2f} s ({_first_line(error)})"
                ) from None
            got += len(block)
            if not len(block):
                break
            yield block
        if 0 < promised < 1 << 62 and got < wanted:
            raise AudioError(
                f"{source.name} is truncated: its header promises {promised} samples, "
                f"{got} could be decoded"
            )

    return Opened(blocks(), check_rate(sound.samplerate), promised / sound.samplerate, handle)


def _handle(source: FileSource) -> BinaryIO:
    if isinstance(source.file, bytes):
        data_missing = _riff_shortfall(source.file[:4096], len(source.file))
        handle: BinaryIO = io.BytesIO(source.file)
    else:
        size = _file_size(source)
        try:
            handle = Path(source.file).open("rb")  # noqa: SIM115 - closed by Opened
        except OSError as error:
            raise AudioError(f"{source.name} cannot be opened: {error.strerror}") from None
        data_missing = _riff_shortfall(handle.read(4096), size)
        handle.seek(0)
    if data_missing:
        handle.close()
        raise AudioError(
            f"{source.name} is truncated: {data_missing} bytes of its sound data are missing"
        )
    return handle


def _file_size(source: FileSource) -> int:
    path = Path(source.file)  # type: ignore[arg-type]
    try:
        if path.is_dir():
            raise AudioError(f"{source.name} is a folder; expected a sound file")
        size = path.stat().st_size
    except FileNotFoundError:
        raise AudioError(f"{source.name} does not exist") from None
    except (OSError, ValueError) as error:
        raise AudioError(f"{source.name} cannot be opened: {error}") from None
    if size == 0:
        raise AudioError(f"{source.name} is an empty file (0 bytes)")
    return size


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
    text = getattr(error, "error_string", None) or str(error)
    return str(text).strip().splitlines()[0].rstrip(".") if str(text).strip() else "no reason given"
