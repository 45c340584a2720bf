"""What a picture may come as, told by its kind: a file, bytes, an object of pillow, an array.

Nothing is decoded here but arrays, and nothing is fetched.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Final, TypeAlias

import numpy as np
import torch

from fungi_hf.errors import ImageError, InputTypeError

if TYPE_CHECKING:
    import numpy.typing as npt

    Pixels: TypeAlias = npt.NDArray[np.uint8]

ACCEPTED: Final = (
    "a path, the bytes of a picture file, a PIL image, an array or tensor (height x width x "
    "channels, or channels first), or {'bytes': ..., 'path': ...}"
)
COLUMNS: Final = ("image", "img", "picture", "pixel_values", "image_bytes")
"""Names by which a whole row of a data set is known to hold a picture."""
_URL: Final = re.compile(r"[a-z][a-z0-9+.-]+://|data:", re.IGNORECASE)
_CHANNELS: Final = (1, 3, 4)


def source_of(raw: Any) -> Any:
    """Give what is to be opened: a path (text), bytes, a PIL image, or an array.

    Raises:
        ImageError: If it is an address, or a row without a picture.
        InputTypeError: If it is nothing that holds a picture.
    """
    if isinstance(raw, Mapping):
        return source_of(_of_row(raw))
    if isinstance(raw, (str, os.PathLike)):
        path = os.fspath(raw)
        if isinstance(path, str) and _URL.match(path) and not path.lower().startswith("file:"):
            raise ImageError(f"{path[:60]!r} is an address; nothing is fetched: pass the file")
        return path
    if isinstance(raw, (bytearray, memoryview)):
        return bytes(raw)
    if isinstance(raw, (bytes, np.ndarray, torch.Tensor)) or is_pillow(raw):
        return raw
    if callable(read := getattr(raw, "read", None)):
        found = read()
        if isinstance(found, bytes):
            return found
    raise InputTypeError(f"{type(raw).__name__} is no picture; expected {ACCEPTED}")


def is_pillow(raw: object) -> bool:
    """Whether this is an object of pillow, without importing it."""
    return any(kind.__module__ == "PIL.Image" for kind in type(raw).__mro__)


def _of_row(row: Mapping[Any, Any]) -> Any:
    if row.get("bytes") is not None:
        return row["bytes"]
    if row.get("path"):
        return row["path"]
    named = [name for name in COLUMNS if row.get(name) is not None]
    if len(named) == 1:
        return row[named[0]]
    found = "none of them" if not named else " and ".join(named)
    raise ImageError(
        f"a row with {list(row)[:8]} must have 'bytes' or 'path', or one of {', '.join(COLUMNS)}; "
        f"it has {found}"
    )


def name_of(raw: Any) -> str:
    """Give a short name of any raw input, usable or not."""
    if callable(getattr(raw, "read", None)) and not is_pillow(raw):
        return str(getattr(raw, "name", "") or "an open file")
    try:
        source = source_of(raw)
    except (ImageError, InputTypeError):
        shown = repr(raw)
        return f"{type(raw).__name__} {shown[:60]}{'...' if len(shown) > 60 else ''}"
    if isinstance(source, str):
        return source
    if isinstance(source, bytes):
        path = raw.get("path") if isinstance(raw, Mapping) else None
        return str(path) if path else f"{len(source)} bytes"
    if is_pillow(source):
        name = getattr(source, "filename", "") or f"a PIL image {source.mode}"
        return f"{name} {source.size[1]} x {source.size[0]}"
    kind = "a tensor" if isinstance(source, torch.Tensor) else "an array"
    return f"{kind} of shape {tuple(source.shape)}, {str(source.dtype).removeprefix('torch.')}"


def pixels_of_array(raw: Any) -> tuple[Pixels, bool]:
    """Give RGB [H, W, 3] or RGBA [H, W, 4] uint8 of an array, and whether it had 16 bits.

    A last axis of 1, 3 or 4 is channels, else the first; of a tensor the first comes first. Floats
    are 0..1, integers 0..255, but uint16, of which the upper 8 bits are taken.

    Raises:
        ImageError: If shape, type or values are no picture's.
    """
    first = isinstance(raw, torch.Tensor)
    if isinstance(raw, torch.Tensor):
        raw = raw.detach().cpu()
        raw = raw.float() if raw.dtype in (torch.bfloat16, torch.float16) else raw
        raw = raw.numpy()
    array = np.asarray(raw)
    if array.size == 0:
        raise ImageError(f"an array of shape {array.shape} has no pixels")
    array = _channels_last(array, first=first)
    array, deep = _to_bytes(array)
    if array.shape[2] == 1:
        array = array.repeat(3, axis=2)
    return np.array(array, order="C"), deep  # the caller's may change


def _channels_last(array: np.ndarray[Any, Any], *, first: bool) -> np.ndarray[Any, Any]:
    if array.ndim == 2:
        return array[:, :, None]
    if array.ndim == 4:
        raise ImageError(f"an array of shape {array.shape} is several pictures; pass list(batch)")
    if array.ndim != 3:
        raise ImageError(f"an array of shape {array.shape} is no picture; expected 2 or 3 axes")
    ends = (0, 2) if first else (2, 0)
    axis = next((axis for axis in ends if array.shape[axis] in _CHANNELS), None)
    if axis is None:
        raise ImageError(
            f"an array of shape {array.shape} has no axis of 1, 3 or 4 channels, first or last"
        )
    return np.moveaxis(array, axis, 2)


def _to_bytes(array: np.ndarray[Any, Any]) -> tuple[np.ndarray[Any, Any], bool]:
    kind = array.dtype.kind
    if array.dtype == np.uint8:
        return array, False
    if kind == "u" and array.dtype.itemsize == 2:
        return (array >> 8).astype(np.uint8), True
    if kind in "iu":
        low, high = int(array.min()), int(array.max())
        if low < 0 or high > 255:
            raise ImageError(f"integers of a picture are 0 to 255 (or uint16); got {low} to {high}")
        return array.astype(np.uint8), False
    if kind == "f":
        least, most = float(array.min()), float(array.max())
        if not (least >= 0 and most <= 1):  # a NaN is in no range
            raise ImageError(
                f"floats of a picture are 0 to 1; got {least:g} to {most:g}: divide by 255, or "
                "pass uint8"
            )
        return np.floor(array.astype(np.float64) * 255 + 0.5).astype(np.uint8), False
    raise ImageError(f"an array of {array.dtype} is no picture; pass uint8, or floats from 0 to 1")
