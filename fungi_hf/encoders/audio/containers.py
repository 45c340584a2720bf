"""What a sound file says of its own length, and whether that can be so.

libsndfile takes a container's word where it is shorter than the file, and cuts it down to the file
where it is longer, both in silence. Here the word is read and compared: a length is a hint. Chunks
are walked to the end of the file, wherever the sound stands among them; the layouts are those of
the formats' own specifications.
"""

from __future__ import annotations

import io
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, BinaryIO, Final

if TYPE_CHECKING:
    from collections.abc import Iterator

_UNKNOWN: Final = 0x7FFFF000  # 32-bit sizes from here on were never filled in
_SLACK: Final = 4096  # bytes behind the sound that may belong to nothing
MP3_SLACK: Final = 2304  # samples: two frames, an encoder's and a decoder's delay
_ENDLESS: Final = 1 << 40  # bytes
_GUESSED: Final = 1 << 36  # samples; more are a guess from so many bytes, or unknown


@dataclass(frozen=True, slots=True)
class _Layout:
    """How a family of containers lays out its chunks."""

    data: bytes  # how the id of the chunk with the sound begins
    order: Any = "little"
    start: int = 12  # of the first chunk
    id_size: int = 4
    size_size: int = 4
    pad: int = 2  # chunks begin at multiples of this many bytes
    counts_header: bool = False  # whether a chunk's size includes its id and size


_RIFF: Final = _Layout(b"data")
_LAYOUTS: Final = {
    (b"RIFF", b"WAVE"): _RIFF,
    (b"RF64", b"WAVE"): _RIFF,
    (b"BW64", b"WAVE"): _RIFF,
    (b"RIFX", b"WAVE"): _Layout(b"data", "big"),
    (b"FORM", b"AIFF"): _Layout(b"SSND", "big"),
    (b"FORM", b"AIFC"): _Layout(b"SSND", "big"),
    (b"FORM", b"8SVX"): _Layout(b"BODY", "big"),
    (b"FORM", b"16SV"): _Layout(b"BODY", "big"),
    (b"caff", b""): _Layout(b"data", "big", start=8, size_size=8, pad=1),
    (b"riff", b""): _Layout(b"data", start=40, id_size=16, size_size=8, pad=8, counts_header=True),
}


def contradiction(handle: BinaryIO) -> str:
    """Say how a container's length contradicts the file; empty where it does not.

    Only containers of chunks and AU say where their sound ends; the others are asked once they
    are open.
    """
    size = handle.seek(0, io.SEEK_END)
    handle.seek(0)
    head = handle.read(12)
    if head[:4] in (b".snd", b"dns."):
        return _of_au(head, size)
    if head[:2] == b"\xf0\x7e" and head[3:4] == b"\x01":
        return _of_dump(head + handle.read(1), size)
    layout = _layout(head)
    return "" if layout is None else _of_chunks(handle, layout, size)


def _of_au(head: bytes, size: int) -> str:
    order: Any = "big" if head[:4] == b".snd" else "little"
    start, length = (int.from_bytes(head[at : at + 4], order) for at in (4, 8))
    if length in (0, 0xFFFFFFFF):
        return ""
    return _shortfall(start + length, size) or _excess(size - start - length, length)


def _of_dump(head: bytes, size: int) -> str:
    """Judge a MIDI sample dump: packets of 127 bytes, 120 of them sound in words of 7 bits."""
    words = max(1, -(-head[6] // 7))
    n_samples = head[10] | head[11] << 7 | head[12] << 14
    return _shortfall(21 + 127 * -(-n_samples // (120 // words)), size)


def _layout(head: bytes) -> _Layout | None:
    return _LAYOUTS.get((head[:4], head[8:12])) or _LAYOUTS.get((head[:4], b""))


def _of_chunks(handle: BinaryIO, layout: _Layout, size: int) -> str:
    wide, end, length = 0, None, 0  # of a 64-bit size; end of the sound, and its bytes
    for name, start, n_bytes in _chunks(handle, layout, size):
        if name == b"ds64":
            handle.seek(start + 8)
            wide = int.from_bytes(handle.read(8), "little")
        elif name.startswith(layout.data):
            length = wide if wide and n_bytes == 0xFFFFFFFF else n_bytes
            if length == 0 or (layout.size_size == 4 and not wide and length >= _UNKNOWN):
                return ""  # streamed: whatever is there
            if layout.size_size == 8 and length >> 63:
                return ""
            end = start + length
            break
    if end is None:
        return ""  # libsndfile says what is wrong
    if short := _shortfall(end, size):
        return short
    return _excess(size - _last_end(handle, layout, size, end), length)


def _chunks(handle: BinaryIO, layout: _Layout, size: int) -> Iterator[tuple[bytes, int, int]]:
    """Give id, first byte and length of each chunk that begins within the file."""
    at, width = layout.start, layout.id_size + layout.size_size
    while at + width <= size:
        handle.seek(at)
        name = handle.read(layout.id_size)
        length = int.from_bytes(handle.read(layout.size_size), layout.order)
        if layout.counts_header:
            length = max(0, length - width)
        yield name, at + width, length
        at += width + length
        at += -at % layout.pad


def _last_end(handle: BinaryIO, layout: _Layout, size: int, end: int) -> int:
    """Give where the chunks behind the sound end, as far as they are chunks or tags."""
    at, width = end + -end % layout.pad, layout.id_size + layout.size_size
    while at + width <= size:
        handle.seek(at)
        name = handle.read(layout.id_size)
        length = int.from_bytes(handle.read(layout.size_size), layout.order)
        length -= width if layout.counts_header else 0
        if name[:3] in (b"ID3", b"TAG"):
            return size
        if not name[:4].isascii() or (not name[:4].isalnum() and not name[:4].strip().isalnum()):
            return at
        if length < 0 or at + width + length > size + layout.pad:
            return at
        at += width + length
        at += -at % layout.pad
    return at


def _shortfall(end: int, size: int) -> str:
    if end <= size:
        return ""
    return f"is truncated: {end - size} bytes of its sound data are missing"


def _excess(behind: int, length: int) -> str:
    if behind <= max(_SLACK, length // 100):
        return ""
    return (
        f"is damaged: its header names {length} bytes of sound, and {behind} more bytes follow "
        "that belong to nothing; the header is too short"
    )


class _Shown(io.RawIOBase):
    """A file as a decoder is shown it."""

    def __init__(self, file: BinaryIO) -> None:
        self._file, self._at_end = file, False

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        self._at_end = whence == io.SEEK_END
        self._file.seek(offset, whence)
        return self.tell()

    def tell(self) -> int:
        return self._file.tell()

    def readinto(self, buffer: Any) -> int:
        """Fill a buffer, and give how many bytes are in it."""
        at, view = self._file.tell(), memoryview(buffer).cast("B")
        data = self.changed(self._file.read(len(view)), at)
        view[: len(data)] = data
        return len(data)

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def changed(self, data: bytes, at: int) -> bytes:
        """Give the bytes that stand at a place."""
        del at
        return data


class Endless(_Shown):
    """An MP3 file whose end is far: mpg123 guesses a length from the file's, and stops there."""

    def tell(self) -> int:
        """Give the place, beyond it where the decoder asks for the file's length."""
        return super().tell() + (_ENDLESS if self._at_end else 0)


class Patched(_Shown):
    """A file in which a few bytes are others."""

    def __init__(self, file: BinaryIO, at: int, patch: bytes) -> None:
        super().__init__(file)
        self._first, self._patch = at, patch

    def changed(self, data: bytes, at: int) -> bytes:
        """Give the bytes with the others among them."""
        low = max(at, self._first)
        high = min(at + len(data), self._first + len(self._patch))
        if low >= high:
            return data
        part = self._patch[low - self._first : high - self._first]
        return data[: low - at] + part + data[high - at :]


def unmeasured(handle: BinaryIO) -> tuple[BinaryIO, int | None]:
    """Give a file as one of unknown length where that makes a decoder read all of it.

    That is FLAC, whose number of samples is given beside it (0 is unknown), and a WAV file whose
    size was never filled in. Other files are given as they are, with None.
    """
    made: Any = handle
    at, promised = _flac_start(handle), None
    if at is not None:  # 36 bits, from the middle of byte 21
        handle.seek(at + 21)
        field = int.from_bytes(handle.read(5), "big")
        promised = field & ((1 << 36) - 1)
        made = Patched(handle, at + 21, (field >> 36 << 36).to_bytes(5, "big"))
    elif (place := _empty_size(handle)) is not None:
        made = Patched(handle, place, b"\xff" * 4)
    handle.seek(0)
    return made, promised


def _empty_size(handle: BinaryIO) -> int | None:
    """Give where a size of 0 stands in front of a WAV file's sound; None where none does."""
    size = handle.seek(0, io.SEEK_END)
    handle.seek(0)
    layout = _layout(handle.read(12))
    if layout is None or layout.data != b"data" or layout.size_size != 4:
        return None
    for name, start, length in _chunks(handle, layout, size):
        if name == layout.data:
            return start - 4 if length == 0 and start < size else None
    return None


def _flac_start(handle: BinaryIO) -> int | None:
    """Give where a FLAC stream begins, behind ID3 tags; None where there is none."""
    handle.seek(0)
    at = 0
    while (head := handle.read(10))[:3] == b"ID3":
        sizes = [byte & 0x7F for byte in head[6:10]]
        at += 10 + (sizes[0] << 21 | sizes[1] << 14 | sizes[2] << 7 | sizes[3])
        handle.seek(at)
    handle.seek(0)
    return at if head[:4] == b"fLaC" else None


def ogg_fault(handle: BinaryIO) -> str:
    """Say whether the pages of an OGG file break off, or belong to several streams in a row."""
    size = handle.seek(0, io.SEEK_END)
    at, playing = 0, False
    while at + 27 <= size:
        handle.seek(at)
        head = handle.read(27)
        if head[:4] != b"OggS":
            return ""
        table = handle.read(head[26])
        begins = bool(head[5] & 2)
        if begins and playing:
            return (
                "holds several streams in a row (a chained OGG), of which one alone would be "
                "read; split it into one file a stream"
            )
        playing = playing or not begins
        at += 27 + len(table) + sum(table)
        if len(table) < head[26] or at > size:
            return f"is truncated: {max(at - size, 1)} bytes of its last page are missing"
    return "" if at == size or not playing else "is truncated: its last page has no header"


def mp3_excess(handle: BinaryIO) -> str:
    """Say whether far more MP3 data follows than the file's own Xing header counts."""
    size = handle.seek(0, io.SEEK_END)
    handle.seek(0)
    head = handle.read(1 << 16)
    at = max(head.find(b"Xing", 0, 8192), head.find(b"Info", 0, 8192))
    if at < 0 or not head[at + 7] & 2:  # no count of bytes
        return ""
    place = at + 8 + (4 if head[at + 7] & 1 else 0)
    n_bytes = int.from_bytes(head[place : place + 4], "big")
    return _excess(size - at - n_bytes, n_bytes) if n_bytes else ""


def promised_samples(sound: Any, head: bytes) -> int:
    """Give the samples of a channel that an open file's header names; 0 where it names none.

    A few formats tell libsndfile more than it repeats: its log has the number.
    """
    promised: int = sound.frames if sound.frames < _GUESSED else 0
    found = re.findall(r"(?m)(?:Frames|Sample Count|Cols)\s*:\s*(\d+)", sound.extra_info)
    found += re.findall(r"Data length (\d+) should be", sound.extra_info)
    found += [one.decode() for one in re.findall(rb"sample_count -i (\d+)", head)]
    if sound.format in _LOGGED:
        promised = max([promised, *map(int, found[-1:])])
        if "truncated" in sound.extra_info:
            promised = max(promised, sound.frames + 1)
    return promised


_LOGGED: Final = frozenset({"AVR", "MPC2K", "MAT4", "MAT5", "VOC", "WVE", "HTK", "NIST"})
