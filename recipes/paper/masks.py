"""Label maps of data sets: PNG files of palette, grey or, as VOC has them, colours."""

from __future__ import annotations

import io
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from fungi_hf.errors import InputError
from recipes.paper.registry import VOC_CLASSES

if TYPE_CHECKING:
    from collections.abc import Iterator

_VOID: Final = 255
_VOID_COLOUR: Final = 0xE0E0C0


@dataclass(frozen=True)
class Masks:
    """Label maps of a split, decoded when they are asked for; colours of VOC become classes."""

    table: Any
    column: str

    def __iter__(self) -> Iterator[np.ndarray]:
        for row in self.table.select_columns([self.column]):
            yield read_mask(row[self.column])


def read_mask(given: Any) -> np.ndarray:
    """Give the labels [H, W] of a PNG of palette, grey or, as VOC has them, colours.

    Raises:
        InputError: If colours are no classes of VOC.
    """
    from PIL import Image

    content = given if isinstance(given, bytes) else given.get("bytes")
    picture = Image.open(io.BytesIO(content) if content else given["path"])
    array = np.asarray(picture)
    if array.ndim == 2:
        return array.astype(np.int64)
    codes = array[..., :3].astype(np.int64) @ (65536, 256, 1)
    colours = {int(voc_colour(k) @ (65536, 256, 1)): k for k in range(VOC_CLASSES)}
    colours[_VOID_COLOUR] = _VOID
    if odd := set(np.unique(codes).tolist()) - set(colours):
        shown = ", ".join(f"#{code:06x}" for code in sorted(odd)[:5])
        raise InputError(
            f"a mask has colours that no class of VOC has: {shown}; give one label a pixel"
        )
    known, place = np.unique(codes, return_inverse=True)
    return np.array([colours[code] for code in known.tolist()])[place].reshape(codes.shape)


def voc_colour(label: int) -> np.ndarray:
    """Give the colour [3] of a class in VOC's palette."""
    # Bits 0, 3, 6 of the label are the high bits of red, 1, 4, 7 of green, ...
    return np.array(
        [
            sum((label >> (3 * bit + channel) & 1) << (7 - bit) for bit in range(3))
            for channel in range(3)
        ]
    )
