"""Image views: boxes in whole pixels, drawn per picture; how they become pixels is in `image_ops`.

Invariant: a view is the untouched picture and a few drawn numbers. So drawing costs nothing, and
the encoder cuts all boxes of a batch at once, on its own device.
"""

from __future__ import annotations

import hashlib
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, TypeAlias

from fungi_hf.checks import check_choice, check_integer, check_number
from fungi_hf.errors import ConfigError
from fungi_hf.views.base import make_views

if TYPE_CHECKING:
    import random
    from collections.abc import Mapping

    from fungi_hf.views.base import ViewGenerator

Range: TypeAlias = tuple[float, float]
_Colour: TypeAlias = tuple[float, float, float]

STATISTICS: Final[dict[str, tuple[_Colour, _Colour]]] = {
    "imagenet": ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
    # The published DeepCluster views, red deviation included.
    "deepcluster": ((0.485, 0.456, 0.406), (0.228, 0.224, 0.225)),
}
"""Channel means and deviations by which views may be normalised in place of the processor's."""
_FILTERS: Final = ("bilinear", "bicubic")
_ASPECT: Final = (3 / 4, 4 / 3)
_TRIES: Final = 10


@dataclass(frozen=True, slots=True)
class BoxDraw:
    """A box of the picture in pixels, to be resized to the model's input.

    With a `frame` the picture is first resized to a square of that side, in which the box lies.
    `statistics` is "processor" or a name of `STATISTICS`.
    """

    top: int
    left: int
    height: int
    width: int
    resample: str = "bicubic"
    frame: int = 0
    statistics: str = "processor"


@dataclass(frozen=True, slots=True)
class ImageView:
    """A canonical picture, and the drawn numbers that say what to do to it."""

    picture: Any
    draw: BoxDraw

    @property
    def content(self) -> bytes:
        """Digest of picture and draw; equal views of one picture are encoded once."""
        return hashlib.sha256(self.picture.content + repr(self.draw).encode()).digest()


class Patchify:
    """The published SimCLR views of images: a grid of overlapping windows, nothing random.

    The picture is resized to a square `frame`, aspect ignored; V = k^2 windows of half its side
    stand row by row, int(side / (k - 1)) pixels apart, from the upper left.

    Reference: the published vision code; frame 224, 49 views, ImageNet's statistics.
    """

    def __init__(
        self,
        n_views: int = 49,
        frame: int = 224,
        resample: str = "bicubic",
        statistics: str = "processor",
    ) -> None:
        self.n_views = check_integer("n_views", n_views)
        per_side = math.isqrt(n_views)
        if per_side**2 != n_views or per_side < 2:
            raise ConfigError(
                f"patchify cuts a square grid: n_views must be 4, 9, 16, 25, 36, 49, ...; got "
                f"{n_views}"
            )
        side = check_integer("frame", frame, 2 * per_side) // 2
        places = [place * int(side / (per_side - 1)) for place in range(per_side)]
        resample = check_choice("resample", resample, _FILTERS)
        statistics = _statistics(statistics)
        self._draws = [
            BoxDraw(top, left, side, side, resample, frame, statistics)
            for top in places
            for left in places
        ]

    def __call__(self, raw: Any, generator: random.Random) -> list[ImageView]:
        """Give V windows of a picture."""
        del generator
        return [ImageView(raw, draw) for draw in self._draws]


class MultiCrop:
    """Random-resized crops: `n_global` large ones, the others small; no flips, no colours.

    A crop's share of the picture's area is uniform in its range, its aspect log-uniform from 3:4 to
    4:3, its place uniform among those where it fits; ten tries, then the largest centred box of an
    allowed aspect. Views are drawn in order, so that the first of V are those of fewer.

    Reference: the published vision code (all crops are resized to 224, the local ones, too).
    """

    def __init__(
        self,
        n_views: int = 12,
        n_global: int = 2,
        global_scale: Range = (0.25, 1.0),
        local_scale: Range = (0.05, 0.25),
        resample: str = "bicubic",
        statistics: str = "processor",
    ) -> None:
        self.n_views = check_integer("n_views", n_views)
        self.n_global = check_integer("n_global", n_global, 0)
        self._global = _scale("global_scale", global_scale)
        self._local = _scale("local_scale", local_scale)
        self._resample = check_choice("resample", resample, _FILTERS)
        self._statistics = _statistics(statistics)

    def __call__(self, raw: Any, generator: random.Random) -> list[ImageView]:
        """Give V crops of a picture."""
        scales = [self._global if v < self.n_global else self._local for v in range(self.n_views)]
        boxes = [random_box(raw.height, raw.width, scale, generator) for scale in scales]
        kind = self._resample, 0, self._statistics
        return [ImageView(raw, BoxDraw(*box, *kind)) for box in boxes]


class DeepClusterCrops(MultiCrop):
    """The published DeepCluster views: crops of .14 to 1 and of .05 to .14 of the area, bilinear.

    Reference: the published vision code.
    """

    def __init__(
        self,
        n_views: int = 8,
        n_global: int = 2,
        global_scale: Range = (0.14, 1.0),
        local_scale: Range = (0.05, 0.14),
        resample: str = "bilinear",
        statistics: str = "processor",
    ) -> None:
        super().__init__(n_views, n_global, global_scale, local_scale, resample, statistics)


IMAGE_VIEWS: Final[dict[str, Any]] = {
    "deepcluster": DeepClusterCrops,
    "multi_crop": MultiCrop,
    "patchify": Patchify,
}


def image_views(name: str, n_views: int, options: Mapping[str, Any]) -> ViewGenerator:
    """Give V views by a name of `IMAGE_VIEWS` or a registered one; "auto" is "multi_crop".

    Raises:
        ConfigError: If the name or an option is unknown.
    """
    return make_views("multi_crop" if name == "auto" else name, n_views, options, IMAGE_VIEWS)


def random_box(
    height: int, width: int, scale: Range, generator: random.Random
) -> tuple[int, int, int, int]:
    """Draw the (top, left, height, width) of a random-resized crop of a picture.

    Reference: torchvision's RandomResizedCrop.
    """
    low, high = _ASPECT
    for _ in range(_TRIES):
        area = height * width * generator.uniform(*scale)
        aspect = math.exp(generator.uniform(math.log(low), math.log(high)))
        w, h = round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))
        if 0 < w <= width and 0 < h <= height:
            return generator.randint(0, height - h), generator.randint(0, width - w), h, w
    w, h = width, height
    if width / height < low:
        h = round(width / low)
    elif width / height > high:
        w = round(height * high)
    return (height - h) // 2, (width - w) // 2, h, w


def _scale(name: str, value: object) -> Range:
    if not isinstance(value, (tuple, list)) or len(value) != 2:
        raise ConfigError(f"{name} must be a pair (lowest, highest) of areas; got {value!r}")
    low, high = (check_number(f"{name}[{i}]", item, 1e-4, 1) for i, item in enumerate(value))
    if low > high:
        raise ConfigError(f"{name} must be (lowest, highest); got {value!r}")
    return low, high


def _statistics(value: object) -> str:
    return check_choice("statistics", value, ("processor", *STATISTICS))
