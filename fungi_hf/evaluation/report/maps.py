"""One self-contained page of pictures beside their label maps, as in the paper's figure."""

from __future__ import annotations

import base64
import io
from dataclasses import dataclass
from importlib import resources
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from fungi_hf.evaluation.records import write_text
from fungi_hf.evaluation.report.neighbours import environment

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from pathlib import Path

_SIDE: Final = 320  # of what is shown, in pixels
UNSCORED: Final = (224, 224, 192)  # of pixels of no class, as Pascal VOC draws them


@dataclass(frozen=True, slots=True, kw_only=True)
class Segmented:
    """One picture and its maps, made small, for the page.

    Attributes:
        name: Of the picture.
        figures: Title -> (image as bytes, its format, words beside the title).
    """

    name: str
    figures: Mapping[str, tuple[bytes, str, str]]


def shown_picture(pixels: np.ndarray) -> tuple[bytes, str, str]:
    """Give a picture [H, W, 3] as a small JPEG, for `Segmented`."""
    from PIL import Image

    image = Image.fromarray(pixels)
    image.thumbnail((_SIDE, _SIDE))
    return _encoded(image, "jpeg"), "jpeg", ""


def shown_map(labels: np.ndarray, colours: np.ndarray, words: str = "") -> tuple[bytes, str, str]:
    """Give labels [H, W] as a small PNG in the colours of the classes [C, 3], or of `UNSCORED`."""
    from PIL import Image

    step = max(1, -(-max(labels.shape) // _SIDE))
    small = labels[::step, ::step]
    known = (small >= 0) & (small < len(colours))
    image = np.full((*small.shape, 3), UNSCORED, np.uint8)
    image[known] = colours[small[known]]
    return _encoded(Image.fromarray(image), "png"), "png", words


def write_maps(
    path: str | Path,
    rows: Iterable[Segmented],
    legend: Mapping[str, Sequence[int]],
    *,
    lead: str,
    title: str = "Segmentation",
) -> None:
    """Write the page; the legend gives names of classes their colours.

    Raises:
        StorageError: If it cannot be written.
    """
    entries = [
        {"name": name, "colour": "#{:02x}{:02x}{:02x}".format(*map(int, colour))}
        for name, colour in legend.items()
    ]
    page = resources.files(__package__).joinpath("maps.html").read_text(encoding="utf-8")
    shown = [{"name": row.name, "figures": _figures(row)} for row in rows]
    rendered = environment().from_string(page)
    write_text(path, rendered.render(title=title, lead=lead, legend=entries, rows=shown), "page")


def _figures(row: Segmented) -> list[dict[str, Any]]:
    return [
        {
            "title": title,
            "kind": "map" if kind == "png" else "picture",
            "format": kind,
            "data": base64.b64encode(data).decode(),
            "words": words,
        }
        for title, (data, kind, words) in row.figures.items()
    ]


def _encoded(image: Any, kind: str) -> bytes:
    file = io.BytesIO()
    image.save(file, kind)
    return file.getvalue()
