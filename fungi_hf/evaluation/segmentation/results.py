"""What was counted, as records."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field, replace
from typing import TYPE_CHECKING, Any, Final, TypeAlias

import numpy as np

from fungi_hf.evaluation.records import EvaluationResult
from fungi_hf.evaluation.segmentation import scores

if TYPE_CHECKING:
    from collections.abc import Sequence

    from fungi_hf.evaluation.inputs import Combination
    from fungi_hf.evaluation.segmentation.bank import MemoryBank
    from fungi_hf.evaluation.segmentation.draws import Draw, Setting
    from fungi_hf.evaluation.segmentation.protocol import SegmentationProtocol
    from fungi_hf.types import Int64Array

Key: TypeAlias = "tuple[int | None, Combination]"  # place of the draw, None without any
_FRAMES: Final = "intervals and tests resample images; frames of one video are not independent"


@dataclass(frozen=True, slots=True)
class Table:
    """What was counted of all test images, by draw and by what judged.

    Attributes:
        counts: Hit, predicted and true pixels of each test image, [3, C] each.
        sums: Confusion of all test images, [C, C].
        masks: Digest of each test image's labels, in order.
        sources: Control -> training images that it knows and a note, where these are its own.
    """

    counts: dict[Key, list[Int64Array]] = field(default_factory=dict)
    sums: dict[Key, Int64Array] = field(default_factory=dict)
    masks: list[bytes] = field(default_factory=list)
    sources: dict[Combination, tuple[int, str]] = field(default_factory=dict)

    def add(self, key: Key, matrix: Int64Array) -> None:
        """Take in one image's confusion matrix."""
        self.counts.setdefault(key, []).append(scores.counts_of(matrix))
        self.sums[key] = self.sums[key] + matrix if key in self.sums else matrix


def records_of(
    rule: SegmentationProtocol,
    table: Table,
    draws: Sequence[Draw],
    banks: Sequence[MemoryBank],
    notes: tuple[str, ...],
) -> list[EvaluationResult]:
    """Give one record a setting and combination or control; a setting's first is its baseline.

    Banks are those of each draw, notes hold for all.
    """
    settings: dict[Setting, list[int]] = {}
    for place, draw in enumerate(draws):
        settings.setdefault(draw.setting, []).append(place)
    records = []
    for setting, places in settings.items():
        first = banks[places[0]]
        shared: dict[str, Any] = {
            "task": "segmentation",
            "protocol": rule.name + setting.title(first.n_images),
            "settings": {**asdict(rule), setting.unit: setting.amount, "rows": len(first)},
            "seeds": tuple(draws[place].rule.seed for place in places),
            "n_train": first.n_images,
            "n_test": len(table.masks),
            "fingerprint": first.fingerprint,
            "notes": (_FRAMES, *notes),
        }
        records += _setting(table, places, EvaluationResult(blocks=(), metrics={}, **shared))
    return records


def _setting(table: Table, places: list[int], shared: EvaluationResult) -> list[EvaluationResult]:
    by_name: dict[Combination, list[Key]] = {}
    for place, name in table.counts:
        if place is None or place in places:
            by_name.setdefault(name, []).append((place, name))
    counts = {name: np.stack([table.counts[key] for key in keys]) for name, keys in by_name.items()}
    baseline = next(iter(counts.values()))
    records = []
    for name, keys in by_name.items():
        n_train, *notes = table.sources.get(name, (shared.n_train,))
        # A control without a draw stands against each draw of the baseline.
        compared = np.broadcast_to(counts[name], baseline.shape)
        is_baseline = counts[name] is baseline
        records.append(
            replace(
                shared,
                blocks=name,
                n_train=n_train,
                notes=(*shared.notes, *notes),
                against_baseline={} if is_baseline else scores.difference(baseline, compared),
                **_numbers([table.sums[key] for key in keys], counts[name]),
            )
        )
    return records


def _numbers(sums: list[Int64Array], counts: Int64Array) -> dict[str, Any]:
    found = [scores.metrics_of(one) for one in sums]
    values = {name: np.array([one[name] for one in found]) for name in found[0]}
    each = np.mean([scores.iou(scores.counts_of(one)) for one in sums], axis=0)
    return {
        "metrics": {name: float(value.mean()) for name, value in values.items()},
        "spread": {name: float(v.std(ddof=1)) for name, v in values.items() if len(v) > 1},
        "intervals": {"miou": scores.interval(counts)},
        "per_class": {str(n): float(value) for n, value in enumerate(each) if not np.isnan(value)},
        "scores": scores.miou(counts),
    }
