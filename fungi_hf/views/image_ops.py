"""Cut boxes out of a picture and resize them, on whatever device the picture is.

A box is cut first and then resized, so that the filter sees nothing outside of it. Resizing is two
products with the filter's weights, columns first, rounded to whole levels in between, in the fixed
point of pillow, of which float64 holds every digit: equal to `image.crop(box).resize(size)` level
by level, on every device by one way. (Pillow 13 takes the rows first where that is cheaper: within
2 levels for photographs. A device without float64 rounds: 1 level.)
"""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING, Final, NamedTuple

import torch

from fungi_hf.devices import sent
from fungi_hf.errors import ConfigError, ShapeError, choices

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

_REACH: Final = {"bilinear": 1.0, "bicubic": 2.0}
_CUBIC: Final = -0.5  # pillow's; torch's without antialias is -0.75
_ONE: Final = 2.0**22  # pillow's weights are whole numbers of this part
_BAND: Final = 32  # rows of a result that are made at once


def cut_boxes(
    image: Tensor,
    boxes: Sequence[tuple[int, int, int, int]],
    size: int | tuple[int, int],
    resample: str,
) -> Tensor:
    """Give every box of a picture, resized.

    Args:
        image: uint8 [C, H, W].
        boxes: (top, left, height, width) in whole pixels, inside of the picture.
        size: (height, width) of the results, or one number for both.
        resample: "bilinear" or "bicubic", with pillow's antialiasing.

    Returns:
        uint8 [V, C, height, width].

    Raises:
        ShapeError: If a box is empty or reaches beyond the picture.
        ConfigError: If the filter is unknown.
    """
    if resample not in _REACH:
        raise ConfigError(f"resample is {choices(resample, _REACH)}")
    height, width = (size, size) if isinstance(size, int) else size
    exact = torch.float32 if image.device.type == "mps" else torch.float64
    out = torch.empty(
        len(boxes), image.shape[0], height, width, dtype=torch.uint8, device=image.device
    )
    for row, (top, left, h, w) in enumerate(boxes):
        ends = top + h <= image.shape[1] and left + w <= image.shape[2]
        if min(top, left) < 0 or min(h, w) < 1 or not ends:
            raise ShapeError(
                f"box (top {top}, left {left}, {h} x {w}) is not inside of a picture of "
                f"{image.shape[1]} x {image.shape[2]}"
            )
        cut = image[:, top : top + h, left : left + w]
        if (h, w) != (height, width):
            cut = cut.transpose(0, 1).to(exact).contiguous()  # [h, C, w]: plain products, no copies
            cut = _columns(cut.flatten(0, 1), width, resample).view(h, -1)  # [h, C width]
            cut = _rows(cut, height, resample).view(height, -1, width).transpose(0, 1)
        out[row] = cut  # whole levels
    return out


def _columns(image: Tensor, n_out: int, resample: str) -> Tensor:
    """Resize the columns of [N, n_in], to whole levels."""
    if image.shape[1] == n_out:
        return image
    out = image.new_empty(len(image), n_out)
    for band in _bands(image.shape[1], n_out, resample):
        weights = sent(band.weights, image.device).to(image.dtype)
        torch.mm(image[:, band.first : band.last], weights.T, out=out[:, band.start : band.stop])
    return _levels(out)


def _rows(image: Tensor, n_out: int, resample: str) -> Tensor:
    """Resize the rows of [n_in, M], to whole levels."""
    if len(image) == n_out:
        return image
    out = image.new_empty(n_out, image.shape[1])
    for band in _bands(len(image), n_out, resample):
        weights = sent(band.weights, image.device).to(image.dtype)
        torch.mm(weights, image[band.first : band.last], out=out[band.start : band.stop])
    return _levels(out)


def _levels(values: Tensor) -> Tensor:
    return values.add_(_ONE / 2).div_(_ONE).floor_().clamp_(0, 255)


class _Band(NamedTuple):
    """Some rows of the result, the rows of the picture that they are made of, and the weights."""

    start: int
    stop: int
    first: int
    last: int
    weights: Tensor  # [stop - start, last - first]


@lru_cache(maxsize=512)
def _bands(n_in: int, n_out: int, resample: str) -> tuple[_Band, ...]:
    """Cut a filter into parts that leave out what is 0 for all of their rows."""
    whole, found = _weights(n_in, n_out, resample), []
    for start in range(0, n_out, _BAND):
        rows = whole[start : start + _BAND]
        used = rows.abs().amax(0).nonzero()[:, 0]
        first, last = int(used[0]), int(used[-1]) + 1
        found.append(_Band(start, start + len(rows), first, last, rows[:, first:last].clone()))
    return tuple(found)


def _weights(n_in: int, n_out: int, resample: str) -> Tensor:
    """Give the filter as a matrix [n_out, n_in] of whole numbers in float64.

    Formula: w_ij = f((j + 1/2 - (i + 1/2) s) / max(s, 1)), s = n_in / n_out, over the pixels within
    the filter's reach, normalised, times `_ONE` and rounded, halves away from 0.
    """
    scale = n_in / n_out
    stretch = max(scale, 1.0)
    reach = _REACH[resample] * stretch
    centre = (torch.arange(n_out, dtype=torch.float64)[:, None] + 0.5) * scale
    place = torch.arange(n_in, dtype=torch.float64)[None]
    first = (centre - reach + 0.5).floor().clamp(min=0)
    last = (centre + reach + 0.5).floor().clamp(max=n_in)
    x = ((place + 0.5 - centre) / stretch).abs()
    if resample == "bilinear":
        weights = (1 - x).clamp(min=0)
    else:
        a = _CUBIC
        near = ((a + 2) * x - (a + 3)) * x * x + 1
        far = (((x - 5) * x + 8) * x - 4) * a
        weights = torch.where(x < 1, near, torch.where(x < 2, far, 0.0))
    weights = torch.where((place >= first) & (place < last), weights, 0.0)
    weights = weights / weights.sum(1, keepdim=True) * _ONE
    return weights.abs().add(0.5).floor() * weights.sign()
