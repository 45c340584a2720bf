"""Pictures and their masks in folders: which belong together, labels read and written."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from fungi_hf.errors import ImageError, InputError, StorageError

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from pathlib import Path

    import numpy.typing as npt

    from fungi_hf.types import Int64Array

    Colours = npt.NDArray[np.uint8]  # [C, 3]

IMAGES: Final = "images"
MASKS: Final = "masks"
VOID: Final = 255  # the label of no class in masks of 8 bits, where classes are fewer
_MODES: Final = ("P", "L", "1", "I", "I;16", "I;16L", "I;16B")


@dataclass(frozen=True, slots=True)
class Labelled:
    """A picture, and the mask of its labels where it has one."""

    picture: Path
    mask: Path | None


def labelled_pictures(pictures: Iterable[Path], folder: Path, masks: Path | None) -> list[Labelled]:
    """Give each picture of a folder with the mask of its name, `masks/a/b.png` of `a/b.jpg`.

    Raises:
        InputError: If there is no folder of masks.
    """
    if masks is not None and not masks.is_dir():
        raise InputError(f"there is no folder of masks {masks}")
    found = []
    for picture in pictures:
        name = picture.relative_to(folder).with_suffix(".png")
        mask = None if masks is None else masks / name
        found.append(Labelled(picture, mask if mask is not None and mask.is_file() else None))
    return found


def read_mask(path: Path) -> tuple[Int64Array, Colours | None]:
    """Read the labels [H, W] of a PNG of palette or grey, and the palette's colours.

    Raises:
        ImageError: If the file cannot be read, or its pixels are colours and no labels.
    """
    from PIL import Image

    try:
        with Image.open(path) as image:
            mode, table = image.mode, image.getpalette()
            labels = np.asarray(image)
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise ImageError(f"the mask {path} cannot be read: {error}") from None
    if mode not in _MODES or labels.ndim != 2:
        raise ImageError(
            f"the mask {path} holds colours ({mode}); give labels as a PNG of palette or grey, one "
            "number a pixel"
        )
    colours = None
    if mode == "P" and table:
        colours = np.array(table, np.uint8).reshape(-1, 3)
    return labels.astype(np.int64), colours


def check_size(mask: Path, labels: np.ndarray, picture: Path, size: tuple[int, int]) -> None:
    """Refuse a mask of another size than its picture's.

    Raises:
        ImageError: Naming both.
    """
    if labels.shape != size:
        got, wanted = (f"{width} x {height}" for height, width in (labels.shape, size))
        raise ImageError(
            f"the mask {mask} is {got} pixels wide and high, its picture {picture} is {wanted}; "
            "a mask has the size of its picture, upright"
        )


def read_class_names(path: Path) -> list[str]:
    """Read names of classes from JSON: a list, or an object from label to name.

    Raises:
        InputError: If it is neither, or labels are left out.
    """
    try:
        found: Any = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError(f"the class names {path} cannot be read: {error.strerror}") from None
    except (ValueError, RecursionError) as error:
        raise InputError(f"the class names {path} are not JSON: {error}") from None
    if isinstance(found, dict):
        wanted = [str(label) for label in range(len(found))]
        if sorted(found) != sorted(wanted):
            raise InputError(
                f"{path} names the labels {', '.join(sorted(found)[:10])}; name every one from 0 "
                f"to {len(found) - 1}"
            )
        found = [found[label] for label in wanted]
    if not isinstance(found, list) or not found or not all(isinstance(n, str) for n in found):
        raise InputError(f"{path} must hold a list of texts, or an object from label to text")
    if repeated := sorted({name for name in found if found.count(name) > 1}):
        raise InputError(f"{path} names several classes {repeated[0]!r}; names must differ")
    return found


def class_colours(n_classes: int, known: Colours | None = None) -> Colours:
    """Give a colour for each class: those of a palette, as far as it goes, then Pascal VOC's."""
    labels = np.arange(n_classes)
    colours = np.zeros((n_classes, 3), np.int64)
    for bit in range(8):  # the bits of a label in threes, from the highest of each channel on
        for channel in range(3):
            colours[:, channel] |= ((labels >> (3 * bit + channel)) & 1) << (7 - bit)
    if known is not None:
        n = min(n_classes, len(known))
        colours[:n] = known[:n]
    return colours.astype(np.uint8)


def save_map(path: Path, labels: np.ndarray, colours: Colours) -> None:
    """Write labels [H, W] as a PNG: with a palette up to 256 classes, else grey of 16 bits.

    Raises:
        StorageError: If it cannot be written.
    """
    from PIL import Image

    if len(colours) > 256:
        image = Image.fromarray(labels.astype(np.uint16))
    else:
        image = Image.fromarray(labels.astype(np.uint8), "P")
        image.putpalette(colours.tobytes())
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        image.save(path)
    except OSError as error:
        raise StorageError(f"the map cannot be written to {path}: {error}") from None


def count_classes(masks: Sequence[Path], names: Sequence[str] | None) -> int:
    """Give the number of classes: of the names, or one more than the highest label but `VOID`.

    Raises:
        InputError: If the masks hold fewer than two.
    """
    if names is not None:
        return len(names)
    highest = 0
    for path in masks:
        labels, _ = read_mask(path)
        highest = max(highest, int(labels[labels != VOID].max(initial=0)))
    if highest < 1:
        raise InputError("the masks hold one label; segmentation needs two classes at least")
    return highest + 1
