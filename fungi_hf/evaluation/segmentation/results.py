"""What was counted, as records."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any, Final, TypeAlias

import numpy as np

from fungi_hf.evaluation.records import EvaluationResult
from fungi_hf.evaluation.segmentation import scores

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from fungi_hf.evaluation.inputs import Combination
    from fungi_hf.evaluation.segmentation.bank import MemoryBank
    from fungi_hf.evaluation.segmentation.controls import MapControls
    from fungi_hf.evaluation.segmentation.protocol import Amount, SegmentationProtocol
    from fungi_hf.types import Int64Array

Key: TypeAlias = "tuple[int | None, Combination]"  # place of the banks, None without any
CONTROL: Final = "control: "
_FRAMES: Final = "intervals and tests resample images; frames of one video are not independent"


@dataclass(frozen=True, slots=True)
class Setting:
    """One amount of training images, the number that it is, and the protocol of each seed."""

    amount: Amount
    n_images: int | None
    rules: tuple[SegmentationProtocol, ...]


@dataclass(frozen=True, slots=True)
class Banks:
    """The banks of one setting and seed: "" is of the features, others are of controls."""

    setting: Setting
    banks: Mapping[str, MemoryBank]


@dataclass(frozen=True, slots=True)
class Judges:
    """All banks, and the controls without any."""

    banks: list[Banks]
    maps: MapControls | None


@dataclass(frozen=True, slots=True)
class Table:
    """The counts of each test image [3, C] and the confusion of all [C, C], by what judged."""

    counts: dict[Key, list[Int64Array]] = field(default_factory=dict)
    sums: dict[Key, Int64Array] = field(default_factory=dict)
    images: list[str] = field(default_factory=list)

    def add(self, key: Key, matrix: Int64Array) -> None:
        """Take in one image's confusion matrix."""
        self.counts.setdefault(key, []).append(scores.counts_of(matrix))
        self.sums[key] = self.sums[key] + matrix if key in self.sums else matrix


def records_of(
    setting: Setting, rule: SegmentationProtocol, table: Table, judges: Judges
) -> list[EvaluationResult]:
    """Give one record a combination and control of a setting; the first is the baseline."""
    places = [place for place, one in enumerate(judges.banks) if one.setting is setting]
    own = [judges.banks[place].banks[""] for place in places]
    draws: dict[Combination, list[Key]] = {}
    for place, name in table.counts:
        if place is None or place in places:
            draws.setdefault(name, []).append((place, name))
    shared: dict[str, Any] = {
        "task": "segmentation",
        "protocol": rule.name,
        "settings": {**asdict(rule), "images": setting.amount, "rows": len(own[0])},
        "seeds": tuple(bank.protocol.seed for bank in own),
        "n_train": own[0].n_images,
        "n_test": len(table.images),
        "fingerprint": own[0].fingerprint,
        "notes": (_FRAMES,),
    }
    if setting.amount is not None:
        shared["protocol"] += f", {own[0].n_images} images"
    first, *_ = (np.stack([table.counts[key] for key in keys]) for keys in draws.values())
    return [
        EvaluationResult(blocks=name, **_numbers(table, keys, first, is_first=place == 0), **shared)
        for place, (name, keys) in enumerate(draws.items())
    ]


def _numbers(
    table: Table, keys: Sequence[Key], first: Int64Array, *, is_first: bool
) -> dict[str, Any]:
    counts = np.stack([table.counts[key] for key in keys])
    found = [scores.metrics_of(table.sums[key]) for key in keys]
    values = {name: np.array([one[name] for one in found]) for name in found[0]}
    each = np.mean([scores.iou(scores.counts_of(table.sums[key])) for key in keys], axis=0)
    # A control without a draw stands against each draw of the baseline.
    compared = np.broadcast_to(counts, first.shape)
    return {
        "metrics": {name: float(value.mean()) for name, value in values.items()},
        "spread": {name: float(v.std(ddof=1)) for name, v in values.items() if len(v) > 1},
        "intervals": {"miou": scores.interval(counts)},
        "against_baseline": {} if is_first else scores.difference(first, compared),
        "per_class": {str(n): float(value) for n, value in enumerate(each) if not np.isnan(value)},
        "scores": scores.miou(counts),
    }
