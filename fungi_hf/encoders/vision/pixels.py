"""What an image processor does, as data: read from its settings, done by pillow and torch here.

The processor object is never called. Of transformers' two backends one needs torchvision, neither
turns pictures upright, one takes channels of any mode for colours, and both scale floats twice. So
pixels depend on the settings alone: not on the backend, nor on the version of transformers.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TypeAlias

import numpy as np
import torch

from fungi_hf.devices import sent
from fungi_hf.encoders.vision.processors import DEFAULTS, REFUSED_STEPS
from fungi_hf.errors import ConfigError, EncoderError, OptionalDependencyError, choices
from fungi_hf.storage.files import find_file, replace_file

if TYPE_CHECKING:
    from torch import Tensor

    from fungi_hf.encoders.vision.sources import Pixels
    from fungi_hf.storage.files import HubOptions

Size: TypeAlias = tuple[int, int]
Colour: TypeAlias = tuple[float, float, float]

PREPROCESSOR: Final = "preprocessor_config.json"
_FILTERS: Final = ("nearest", "lanczos", "bilinear", "bicubic", "box", "hamming")  # pillow's order
_SUFFIXES: Final = ("Pil", "Fast", "ImageProcessor", "FeatureExtractor")


@dataclass(frozen=True, kw_only=True)
class PixelSettings:
    """How a picture becomes an image model's input.

    Attributes:
        resize: (height, width) whatever the aspect, or the shorter side; None leaves the size.
        crop: (height, width) of the centre that is kept; what is missing becomes black.
        resample: Pillow's name of the filter.
        rescale: Factor of 0..255, before mean and deviation.
        mean: Of each channel; and `std`, the deviation.
    """

    resize: Size | int | None
    crop: Size | None
    resample: str
    rescale: float
    mean: Colour
    std: Colour

    @classmethod
    def of(cls, processor: Any) -> PixelSettings:
        """Read the settings of a processor, of its dictionary, or what this class is already.

        Raises:
            EncoderError: If it is none, or does what this package does not.
        """
        if isinstance(processor, cls):
            return processor
        inner = getattr(processor, "image_processor", processor)
        if callable(to_dict := getattr(inner, "to_dict", None)):
            inner = to_dict()
        if not isinstance(inner, Mapping):
            raise EncoderError(
                f"an image model needs its image processor, or its settings; got "
                f"{processor!r:.80}: pass processor="
            )
        return cls.from_dict(inner)

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> PixelSettings:
        """Read settings as transformers or timm writes them, in old and new forms.

        Raises:
            EncoderError: If a field is missing whose usual value is not known, or asks for a step
                that this package does not take.
        """
        if "image_processor" in data:
            data = data["image_processor"]
        if "pretrained_cfg" in data or "input_size" in data:
            return _of_timm(cls, data.get("pretrained_cfg", data))
        kind = str(data.get("image_processor_type") or data.get("feature_extractor_type") or "")
        family = kind
        for suffix in _SUFFIXES:
            family = family.removesuffix(suffix)
        given = {**DEFAULTS.get(family, {}), **{k: v for k, v in data.items() if v is not None}}
        for field, reason in REFUSED_STEPS.items():
            if given.get(field):
                raise EncoderError(
                    f"the image processor {kind or 'of no type'} has {field}={given[field]!r}: "
                    f"{reason}; pass processor= with settings without it"
                )
        square = bool(given.get("default_to_square", True))
        resize = _resize(_needed(given, "size", kind), square) if _on(given, "do_resize") else None
        crops = given.get("do_center_crop", "crop_size" in data)
        crop = _crop(_needed(given, "crop_size", kind)) if crops else None
        resize, crop = _of_family(family, resize, crop, given)
        normalises = _on(given, "do_normalize")
        return cls(
            resize=resize,
            crop=crop,
            resample=_filter(given.get("resample", 2)),
            rescale=float(given.get("rescale_factor", 1 / 255))
            if _on(given, "do_rescale")
            else 1.0,
            mean=_colour(_needed(given, "image_mean", kind)) if normalises else (0.0, 0.0, 0.0),
            std=_colour(_needed(given, "image_std", kind)) if normalises else (1.0, 1.0, 1.0),
        )

    def to_dict(self) -> dict[str, Any]:
        """Give the settings as transformers writes them, every field said."""
        sides = self.resize if isinstance(self.resize, tuple) else None
        size = {"shortest_edge": self.resize} if sides is None else _sides(sides)
        return {
            "image_processor_type": "BitImageProcessor" if self.crop else "ViTImageProcessor",
            "do_resize": self.resize is not None,
            "size": size if self.resize is not None else _sides((224, 224)),
            "resample": _FILTERS.index(self.resample),
            "do_center_crop": self.crop is not None,
            "crop_size": None if self.crop is None else _sides(self.crop),
            "do_rescale": True,
            "rescale_factor": self.rescale,
            "do_normalize": True,
            "image_mean": list(self.mean),
            "image_std": list(self.std),
            "do_convert_rgb": True,
        }

    def save_pretrained(self, folder: str | Path) -> None:
        """Write what `load_pixel_settings` and transformers read."""
        text = json.dumps(self.to_dict(), indent=2, sort_keys=True) + "\n"
        replace_file(Path(folder) / PREPROCESSOR, text.encode())

    def sized(self, size: int | Size | None) -> PixelSettings:
        """Give the settings for another size of the output; None leaves it.

        What is cut off around the centre stays the same share.
        """
        if size is None:
            return self
        new = (size, size) if isinstance(size, int) else size
        if self.crop is None and not isinstance(self.resize, int):
            return dataclasses.replace(self, resize=new)
        crop = self.crop
        if crop is None:
            return dataclasses.replace(self, resize=min(new), crop=new)
        resize = self.resize
        if isinstance(resize, int):
            resize = max(min(new), round(resize * min(new) / min(crop)))
        elif resize is not None:
            resize = (round(resize[0] * new[0] / crop[0]), round(resize[1] * new[1] / crop[1]))
        return dataclasses.replace(self, resize=resize, crop=new)

    def whole(self) -> PixelSettings:
        """Give settings of the same output that show the whole picture: resized, not cropped."""
        return dataclasses.replace(self, resize=self.output, crop=None)

    def with_statistics(self, mean: Colour, std: Colour) -> PixelSettings:
        """Give the settings with another mean and deviation of 0..1."""
        return dataclasses.replace(self, rescale=1 / 255, mean=mean, std=std)

    @property
    def output(self) -> Size:
        """Height and width of what the model gets.

        Raises:
            ConfigError: If it would depend on the picture.
        """
        if self.crop is not None:
            return self.crop
        if isinstance(self.resize, tuple):
            return self.resize
        raise ConfigError(
            "the image processor's settings leave the size of images open "
            f"(resize={self.resize}, no crop); set image_size in the config"
        )

    def original(self, pixels: Pixels) -> Tensor:
        """Resize by pillow and crop: RGB uint8 [H, W, 3] to [3, h, w].

        Pixels equal those of transformers' pillow-backed processors.

        Raises:
            OptionalDependencyError: If pillow is not installed.
        """
        try:
            from PIL import Image
        except ImportError as error:
            raise OptionalDependencyError("PIL", "vision") from error
        height, width = self._resized(pixels.shape[0], pixels.shape[1])
        if (height, width) != pixels.shape[:2]:
            filters = Image.Resampling(_FILTERS.index(self.resample))
            pixels = np.array(Image.fromarray(pixels).resize((width, height), filters))
        if self.crop is not None:
            pixels = _centre(pixels, self.crop)
        return torch.from_numpy(np.ascontiguousarray(pixels.transpose(2, 0, 1)))

    def _resized(self, height: int, width: int) -> Size:
        if isinstance(self.resize, int):  # cut to whole pixels, as transformers does
            if width <= height:
                return int(self.resize * height / width), self.resize
            return self.resize, int(self.resize * width / height)
        return self.resize or (height, width)

    def normalise(self, images: Tensor) -> Tensor:
        """Give (rescale x - mean) / std of uint8 [N, 3, h, w] on any device, float32."""
        both = sent(torch.tensor([self.mean, self.std]), images.device)
        mean, std = both[:, :, None, None]
        return images.float().mul_(self.rescale).sub_(mean).div_(std)


def load_pixel_settings(name: str, hub: HubOptions) -> PixelSettings:
    """Read the settings of a folder or repository.

    Raises:
        EncoderError: If there are none, or they ask for what this package does not do.
    """
    for file in (PREPROCESSOR, "processor_config.json", "config.json"):
        path = find_file(name, file, hub)
        if path is None:
            continue
        try:
            data = json.loads(path.read_text(encoding="utf-8"))
        except ValueError as error:
            raise EncoderError(f"{path} is no JSON: {error}") from None
        wanted = {"processor_config.json": "image_processor", "config.json": "pretrained_cfg"}
        if file in wanted and not (isinstance(data, dict) and wanted[file] in data):
            continue
        return PixelSettings.from_dict(data)
    raise EncoderError(
        f"an image model needs the settings of its image processor, and {name!r} has no "
        f"{PREPROCESSOR}; pass processor="
    )


def _on(given: Mapping[str, Any], field: str) -> bool:
    return bool(given.get(field, True))


def _needed(given: Mapping[str, Any], field: str, kind: str) -> Any:
    if given.get(field) is None:
        near = f" of type {choices(kind, [f'{name}ImageProcessor' for name in DEFAULTS])}"
        raise EncoderError(
            f"the image processor's settings lack {field!r}, and its usual value is known for a "
            f"processor{near}"
        )
    return given[field]


def _resize(size: Any, square: bool) -> Size | int:
    if isinstance(size, int):
        return (size, size) if square else size
    if isinstance(size, (list, tuple)) and len(size) == 2:
        return int(size[0]), int(size[1])
    if isinstance(size, Mapping):
        kept = {name: value for name, value in size.items() if value}
        if set(kept) == {"height", "width"}:
            return int(kept["height"]), int(kept["width"])
        if set(kept) == {"shortest_edge"}:
            return int(kept["shortest_edge"])
    raise EncoderError(
        f"the image processor's size is {size!r}; this package resizes to 'height' and 'width', or "
        "to a 'shortest_edge': pass processor= with one of these"
    )


def _crop(size: Any) -> Size:
    found = _resize(size, True)
    return (found, found) if isinstance(found, int) else found


def _of_family(
    family: str, resize: Size | int | None, crop: Size | None, given: Mapping[str, Any]
) -> tuple[Size | int | None, Size | None]:
    """Apply what two families do with a shorter side."""
    if family == "Levit" and isinstance(resize, int):
        return int(256 / 224 * resize), crop
    if family in ("ConvNext", "ConvNeXT") and isinstance(resize, int):
        if resize >= 384:
            return (resize, resize), crop
        return int(resize / float(given.get("crop_pct", 224 / 256))), (resize, resize)
    return resize, crop


def _of_timm(cls: type[PixelSettings], data: Mapping[str, Any]) -> PixelSettings:
    try:
        _, height, width = data["input_size"]
        share = float(data.get("crop_pct") or 0.875)
        mean, std = _colour(data["mean"]), _colour(data["std"])
    except (KeyError, TypeError, ValueError):
        raise EncoderError(
            f"timm's settings lack input_size, mean or std: {dict(data)!r}"
        ) from None
    squash = data.get("crop_mode") == "squash"
    scaled = (int(height / share), int(width / share))
    return cls(
        resize=scaled if squash or height != width else scaled[0],
        crop=(height, width),
        resample=_filter(data.get("interpolation") or "bicubic"),
        rescale=1 / 255,
        mean=mean,
        std=std,
    )


def _filter(value: Any) -> str:
    if isinstance(value, str) and value.rpartition(".")[2].lower() in _FILTERS:
        return value.rpartition(".")[2].lower()
    if isinstance(value, int) and 0 <= value < len(_FILTERS):
        return _FILTERS[value]
    raise EncoderError(f"the image processor's resample is {choices(value, _FILTERS)}")


def _colour(value: Any) -> Colour:
    if isinstance(value, (int, float)):
        value = [value] * 3
    if not isinstance(value, (list, tuple)) or len(value) != 3:
        raise EncoderError(f"mean and deviation are one number or three; got {value!r}")
    red, green, blue = (float(one) for one in value)
    return red, green, blue


def _sides(size: Size) -> dict[str, int]:
    return {"height": size[0], "width": size[1]}


def _centre(pixels: Pixels, size: Size) -> Pixels:
    """Cut the centre out; a picture that is too small lies in a black one (transformers' rule)."""
    height, width = pixels.shape[:2]
    wide = np.zeros((max(height, size[0]), max(width, size[1]), 3), dtype=np.uint8)
    top, left = (-(-(wide.shape[i] - pixels.shape[i]) // 2) for i in (0, 1))
    wide[top : top + height, left : left + width] = pixels
    first = max(0, (height - size[0]) // 2 + top)
    second = max(0, (width - size[1]) // 2 + left)
    return wide[first : first + size[0], second : second + size[1]]
