"""Turn any picture that a user hands over into RGB bytes, upright, once.

Invariants: equal pixels give equal pictures, whatever the file, array or object they came in; a
picture holds its source and no pixels, so that many may be kept; nothing is fetched.
"""

from __future__ import annotations

import hashlib
import io
import struct
import threading
import warnings
from collections import OrderedDict
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import torch

from fungi_hf.encoders.vision.sources import (
    ACCEPTED,
    is_pillow,
    name_of,
    pixels_of_array,
    source_of,
)
from fungi_hf.errors import ImageError, OptionalDependencyError

if TYPE_CHECKING:
    from fungi_hf.encoders.vision.sources import Pixels

__all__ = ["ACCEPTED", "Picture", "decode", "describe"]

MAX_ASPECT: Final = 50  # a line of 1 x 400 would be resized to 224 x 89,600
MAX_PIXELS: Final = 178_956_970  # pillow's own limit against bombs
_CACHE_BYTES: Final = 768 * 2**20
_TINY: Final = 8
# What pillow's decoders raise at damaged files, beside what they should.
_DAMAGE: Final = (
    *(OSError, SyntaxError, ValueError, TypeError, KeyError, IndexError, EOFError),
    *(OverflowError, ZeroDivisionError, AttributeError, MemoryError, RuntimeError),
    *(struct.error, NotImplementedError),
)


class _Cache:
    """Pixels of the latest pictures, at most so many bytes, but always the last one."""

    def __init__(self, limit: int) -> None:
        self._limit, self._used = limit, 0
        self._kept: OrderedDict[bytes, Pixels] = OrderedDict()
        self._lock = threading.Lock()

    def put(self, key: bytes, pixels: Pixels) -> None:
        with self._lock:
            if key in self._kept:
                self._kept.move_to_end(key)
                return
            self._kept[key] = pixels
            self._used += pixels.nbytes
            while self._used > self._limit and len(self._kept) > 1:
                self._used -= self._kept.popitem(last=False)[1].nbytes

    def get(self, key: bytes) -> Pixels | None:
        with self._lock:
            if key in self._kept:
                self._kept.move_to_end(key)
            return self._kept.get(key)


_FILTERS: Final = threading.Lock()  # the warning filters are the process's
_PIXELS: Final = _Cache(_CACHE_BYTES)


@dataclass(frozen=True, slots=True)
class Picture:
    """A picture that was decoded once; equal to another when their pixels are equal.

    Attributes:
        height: In pixels, after the orientation that the file asks for.
        width: Likewise.
        content: Digest of size and RGB bytes: what views are keyed by.
        source: Where it came from, for messages.
        notes: Of "animated", "transparent", "sixteen_bit", "tiny".
        raw: What it is decoded from again.
    """

    height: int
    width: int
    content: bytes
    source: str = field(compare=False)
    notes: tuple[str, ...] = field(compare=False)
    raw: Any = field(compare=False, repr=False)

    def plain(self) -> Any:
        """Give what can be written to a file, and decoded to an equal picture."""
        return self.raw

    def pixels(self) -> Pixels:
        """Give RGB [H, W, 3] uint8, not to be written to; decoded again if it is long ago.

        Raises:
            ImageError: If the source gives other pixels than before.
        """
        found = _PIXELS.get(self.content)
        if found is None:
            found, _ = _read(self.raw)
            if _digest(found) != self.content:
                raise ImageError(f"{self.source} has changed since it was first read")
            _PIXELS.put(self.content, found)
        return found


def decode(raw: object) -> Picture:
    """Decode a picture to RGB: orientation applied, transparency on white, 16 bits to 8.

    Args:
        raw: A path, bytes, an open file, a PIL image (its current frame), {"bytes", "path"}, a row
            of a data set, an array [H, W], [H, W, C] or [C, H, W] (of a tensor [C, H, W] goes
            first) with uint8, uint16, integers 0..255 or floats 0..1.

    Returns:
        The picture; animated files give their first frame.

    Raises:
        ImageError: If the picture is missing, unreadable, truncated, empty, too large, of no
            known mode, or longer than 50 times its width.
        InputTypeError: If the value is nothing that holds a picture.
        OptionalDependencyError: If pillow is not installed, and a file is to be read.
    """
    if isinstance(raw, Picture):
        return raw
    source = source_of(raw)
    pixels, notes = _read(source)
    height, width = pixels.shape[:2]
    if min(height, width) < _TINY:
        notes = (*notes, "tiny")
    content = _digest(pixels)
    _PIXELS.put(content, pixels)
    return Picture(height, width, content, name_of(raw), notes, source)


def describe(raw: object) -> str:
    """Give a short name of a picture for messages, whatever it is."""
    return raw.source if isinstance(raw, Picture) else name_of(raw)


def _digest(pixels: Pixels) -> bytes:
    digest = hashlib.sha256(f"{pixels.shape[0]}x{pixels.shape[1]}".encode())
    digest.update(pixels.data)
    return digest.digest()


def _read(source: Any) -> tuple[Pixels, tuple[str, ...]]:
    """Give upright RGB pixels, and what was special."""
    if isinstance(source, (np.ndarray, torch.Tensor)):
        _check_size(*_sides(source.shape))
        pixels, deep = pixels_of_array(source)
        notes: tuple[str, ...] = ("sixteen_bit",) if deep else ()
        if pixels.shape[2] == 4:
            pixels, clear = _on_white(pixels)
            notes += ("transparent",) if clear else ()
    else:
        pixels, notes = _read_file(source)
    pixels.flags.writeable = False
    return pixels, notes


def _sides(shape: tuple[int, ...]) -> tuple[int, int]:
    """Give the two longer axes of an array that may be a picture."""
    if len(shape) not in (2, 3):
        return 1, 1  # refused by its shape afterwards
    first, second = sorted(shape)[-2:]
    return int(first), int(second)


def _check_size(height: int, width: int) -> None:
    if height * width > MAX_PIXELS:
        raise ImageError(
            f"{height} x {width} pixels are more than {MAX_PIXELS:,} (pillow's limit); make the "
            "picture smaller first"
        )
    if max(height, width) > MAX_ASPECT * min(height, width) > 0:
        raise ImageError(
            f"{height} x {width} pixels are a line: longer than {MAX_ASPECT} times as wide; cut it "
            "into pieces"
        )


def _read_file(source: Any) -> tuple[Pixels, tuple[str, ...]]:
    try:
        from PIL import Image, ImageOps, UnidentifiedImageError
    except ImportError as error:
        raise OptionalDependencyError("PIL", "vision") from error
    try:
        try:
            return _of_file(Image, ImageOps, source)
        except Warning:  # an error by the caller's filters: of large pictures, odd metadata
            with _FILTERS, warnings.catch_warnings():
                warnings.simplefilter("ignore")
                return _of_file(Image, ImageOps, source)
    except ImageError:
        raise
    except Image.DecompressionBombError as error:
        raise ImageError(f"{_reason(error)}; make the picture smaller first") from None
    except FileNotFoundError:
        raise ImageError(f"{source} does not exist") from None
    except IsADirectoryError:
        raise ImageError(f"{source} is a folder; expected a picture file") from None
    except UnidentifiedImageError:
        what = f"{len(source)} bytes" if isinstance(source, bytes) else source
        raise ImageError(f"{what} is no picture of a known format") from None
    except _DAMAGE as error:
        raise ImageError(f"cannot be decoded: {_reason(error)}") from None


def _of_file(image_module: Any, ops: Any, source: Any) -> tuple[Pixels, tuple[str, ...]]:
    image = source if is_pillow(source) else _opened(image_module, source)
    if not image.width or not image.height:
        raise ImageError(f"{image.height} x {image.width} pixels: there are none")
    _check_size(image.height, image.width)
    notes = ("animated",) if getattr(image, "n_frames", 1) > 1 else ()
    image.load()
    pixels, more = _rgb(ops.exif_transpose(image) or image)
    return pixels, (*notes, *more)


def _opened(image_module: Any, source: Any) -> Any:
    # Raises ImageError where there is nothing.
    if isinstance(source, bytes):
        if not source:
            raise ImageError("is empty (0 bytes)")
        return image_module.open(io.BytesIO(source))
    if isinstance(source, str) and source.lower().startswith("file://"):
        source = source[len("file://") :]
    with open(source, "rb") as file:  # noqa: PTH123 - may be bytes, as os.fspath gives
        return _opened(image_module, file.read())


def _reason(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return (lines[0].rstrip(".") if lines else type(error).__name__)[:200]


def _rgb(image: Any) -> tuple[Pixels, tuple[str, ...]]:
    """Give RGB pixels of any mode.

    Raises:
        ImageError: If it is one of floats.
    """
    mode = image.mode
    if mode == "F":
        raise ImageError("pixels are 32-bit floats; pass uint8, or an array of floats from 0 to 1")
    if mode.startswith("I"):
        return _of_integers(image, mode)
    has_clear = "transparency" in image.info or mode in ("RGBA", "LA", "PA", "RGBa", "La")
    if has_clear:
        image = image.convert("LA") if mode == "La" else image
        pixels, clear = _on_white(np.array(image.convert("RGBA")))
        return pixels, ("transparent",) if clear else ()
    return np.array(image.convert("RGB")), ()


def _of_integers(image: Any, mode: str) -> tuple[Pixels, tuple[str, ...]]:
    """Give grey pixels of 16 bits or 32; a 32-bit picture within 0..255 is taken as it is.

    Raises:
        ImageError: If they are beyond 16 bits.
    """
    values = np.array(image).astype(np.int64)
    low, high = int(values.min()), int(values.max())
    if low < 0 or high > 65535:
        raise ImageError(f"pixels are integers from {low} to {high}; expected 0 to 65,535")
    deep = mode.startswith("I;16") or high > 255
    grey = (values >> 8 if deep else values).astype(np.uint8)
    return grey[:, :, None].repeat(3, axis=2), ("sixteen_bit",) if deep else ()


def _on_white(pixels: Pixels) -> tuple[Pixels, bool]:
    """Lay RGBA pixels on white; also say whether any of them was not opaque."""
    alpha = pixels[:, :, 3:]
    if int(alpha.min()) == 255:
        return np.ascontiguousarray(pixels[:, :, :3]), False
    # Rounded as pillow composites: (x a + 255 (255 - a)) / 255, to the nearest.
    wide = pixels[:, :, :3].astype(np.uint32) * alpha + 255 * (255 - alpha.astype(np.uint32))
    return ((wide + 127) // 255).astype(np.uint8), True
