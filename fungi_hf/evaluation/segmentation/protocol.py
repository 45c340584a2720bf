"""What in-context segmentation depends on, under a name."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal

from fungi_hf.checks import check_choices, check_fields, check_integer, check_number
from fungi_hf.evaluation.protocols import MOST_SEED, check_each

if TYPE_CHECKING:
    from collections.abc import Mapping

Upsampling = Literal["bilinear", "nearest"]
KeyType = Literal["float32", "float16"]


@dataclass(frozen=True, slots=True, kw_only=True)
class SegmentationProtocol:
    """How patches vote.

    Attributes:
        n_neighbors: Bank rows that vote for each patch.
        temperature: Weights are softmax(cosine / temperature) over the neighbours.
        bank_rows: Most rows of the bank; None keeps every patch with a label.
        ignore: Labels that are never scored and never taught, e.g. (255,).
        void_class: Class that ignored labels count as in the bank, as published; they are still
            not scored. None leaves them out.
        upsampling: From patches to pixels, of the votes.
        key_dtype: Of the bank's keys; float16 halves it.
        seed: Of the bank's draw.
    """

    name: str = "fungi"
    n_neighbors: int = 30
    temperature: float = 0.02
    bank_rows: int | None = 102_400
    ignore: tuple[int, ...] = ()
    void_class: int | None = None
    upsampling: Upsampling = "bilinear"
    key_dtype: KeyType = "float32"
    seed: int = 42

    def __post_init__(self) -> None:
        check_choices(self, {"upsampling": Upsampling, "key_dtype": KeyType})
        check_fields(self, ("n_neighbors",), check_integer)
        check_fields(self, ("bank_rows",), check_integer, optional=True)
        check_fields(self, ("void_class",), check_integer, 0, optional=True)
        check_fields(self, ("seed",), check_integer, 0, MOST_SEED)
        check_fields(self, ("temperature",), check_number, 0, inclusive="neither")
        check_fields(self, ("ignore",), check_each, check_integer, None)


_FUNGI = SegmentationProtocol()
_PAPER = SegmentationProtocol(name="paper", ignore=(255,), void_class=0)
_FEW: Any = {"n_neighbors": 90, "temperature": 0.1, "bank_rows": None}
SEGMENTATION_PROTOCOLS: Mapping[str, SegmentationProtocol] = {
    one.name: one
    for one in (
        _FUNGI,
        _PAPER,
        replace(_FUNGI, name="fungi-few-shot", **_FEW),
        replace(_PAPER, name="paper-few-shot", **_FEW),
    )
}
"""By name: of all training images and of few, ours and as published without augmentation."""
