"""What a call in the manner of transformers takes and gives."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import PurePath
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from fungi_hf.extraction.inputs import is_clip

if TYPE_CHECKING:
    from fungi_hf.types import Float64Array, Int64Array

Best = Literal["best"]


def is_one(inputs: Any) -> bool:
    """Whether this is one raw input, not many of them.

    Texts, bytes, paths, rows of data sets, clips, pictures and arrays of numbers are one; any other
    sequence or iterable, an array of texts and a batch of images (four axes) are many.
    """
    if isinstance(inputs, (str, bytes, bytearray, dict, PurePath)) or is_clip(inputs):
        return True
    if isinstance(inputs, Sequence):
        return False
    shape = getattr(inputs, "shape", None)
    if shape is not None and type(inputs).__name__ not in ("Series", "Index"):
        kind = getattr(getattr(inputs, "dtype", None), "kind", "")
        return len(shape) != 4 and not (len(shape) == 1 and kind in "UOT")
    return hasattr(inputs, "read") or not (
        isinstance(inputs, Iterable) or hasattr(inputs, "__getitem__")
    )


def best_of(
    names: list[Any], shares: Float64Array, chosen: Int64Array, top_k: int | Best | None
) -> list[Any]:
    """Give labels with scores of each row of shares [n, C], the chosen class of [n] first."""
    shares = np.asarray(shares, np.float64)
    if top_k == "best":
        rows = zip(chosen.tolist(), shares, strict=True)
        return [{"label": names[code], "score": float(row[code])} for code, row in rows]
    ranked = np.argsort(-shares, axis=1, kind="stable")[:, :top_k]
    return [
        [{"label": names[code], "score": float(row[code])} for code in order.tolist()]
        for order, row in zip(ranked, shares, strict=True)
    ]
