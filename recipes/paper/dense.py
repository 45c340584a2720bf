"""Segmentation by the patches of labelled images: the paper's columns beside every control."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import numpy as np

from fungi_hf.encoders.vision.pictures import decode
from fungi_hf.errors import InputError
from fungi_hf.evaluation import evaluate_knn, evaluate_linear, evaluate_segmentation
from fungi_hf.evaluation.segmentation.examples import IGNORED, clean_labels, patch_histograms
from fungi_hf.features import FungiFeatures
from fungi_hf.seeding import numpy_generator
from recipes.paper import tables
from recipes.paper.judge import arms, judgement

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from fungi_hf.extractor import FungiExtractor
    from recipes.paper.loading import Loaded, Side
    from recipes.paper.registry import DataSet

FEW_IMAGES: Final = 83  # of VOC's 1,464 training images in the published few-shot runs
PATCHES: Final = 5_000  # of each side for the probe


class Examples:
    """(features, mask, pixels) of each image of a side, extracted anew at each reading."""

    def __init__(
        self, extractor: FungiExtractor, side: Side, rows: np.ndarray | None = None
    ) -> None:
        self._extractor, self._inputs, self._masks = extractor, side.inputs, side.masks
        self._n = len(side)
        if rows is not None:
            kept = set(rows.tolist())
            pairs = enumerate(zip(side.inputs, side.masks, strict=True))
            some = [pair for place, pair in pairs if place in kept]
            self._inputs, self._masks = ([pair[k] for pair in some] for k in (0, 1))
            self._n = len(some)

    def __len__(self) -> int:
        return self._n

    def __iter__(self) -> Iterator[Any]:
        features = self._extractor.dense(self._inputs, progress=True)
        for one, mask, given in zip(features, self._masks, self._inputs, strict=True):
            yield one, mask, decode(given).pixels()


def segment(
    extractor: FungiExtractor,
    loaded: Loaded,
    *,
    preset: str,
    seed: int,
    judges: Sequence[str] = tables.JUDGES,
) -> dict[str, Any]:
    """Give judge -> rows of the table; "patches" and "linear" judge single patches alike."""
    spec = loaded.spec
    train, test = (Examples(extractor, side) for side in (loaded.train, loaded.test))
    names = list(extractor.layout)
    wanted = arms(names, "tokens")
    found: dict[str, Any] = {"notes": []}
    if "full" in judges:
        rule = tables.segmentation(preset, seed, spec.ignore, few=False)
        records = evaluate_segmentation(
            train, test, n_classes=spec.n_classes, protocol=rule, combinations=wanted
        )
        found["full"] = judgement(records)
    if "few-shot" in judges:
        n = len(train)
        few = FEW_IMAGES if n > 2 * FEW_IMAGES else max(1, n // 10)
        drawn = numpy_generator(seed, "paper", "few images").permutation(n)[:few]
        rule = tables.segmentation(preset, seed, spec.ignore, few=True)
        bank = Examples(extractor, loaded.train, drawn)
        how: dict[str, Any] = {"combinations": wanted, "controls": False}
        try:
            records = evaluate_segmentation(
                bank, test, n_classes=spec.n_classes, protocol=rule, **how
            )
            found["few-shot"] = judgement(records)
            found["notes"].append(f"few-shot: {few} training images, drawn once")
        except InputError as error:  # the bank has fewer patches than vote
            found["notes"].append(f"few-shot was not judged: {error}")
    if "linear" in judges:
        pairs = [
            _patches(side, spec, numpy_generator(seed, "paper", "patches", name))
            for side, name in ((train, "train"), (test, "test"))
        ]
        sides = (*pairs[0], *pairs[1])
        found["patches"] = judgement(evaluate_knn(*sides, combinations=wanted))
        found["linear"] = judgement(evaluate_linear(*sides, combinations=wanted[:1]))
        found["notes"].append(
            f"linear and patches: accuracy of the commonest class of {len(sides[1])} and "
            f"{len(sides[3])} drawn patches; patches of one image are not independent"
        )
    return found


def _patches(
    examples: Examples, spec: DataSet, generator: np.random.Generator
) -> tuple[FungiFeatures, np.ndarray]:
    # As many patches of each image, with the class that most of their scored pixels have.
    share = max(1, PATCHES // len(examples))
    rows, labels, layout, fingerprint = [], [], {}, ""
    for features, mask, _ in examples:
        clean = clean_labels(mask, spec.n_classes, spec.ignore, features.source)
        grid = (features.grid[0], features.grid[1])
        shares = patch_histograms(clean, grid, spec.n_classes)
        known = np.flatnonzero(shares.any(axis=1)) if (clean != IGNORED).any() else np.zeros(0, int)
        drawn = generator.permutation(known)[:share]
        rows.append(features.array[drawn])
        labels.append(shares[drawn].argmax(axis=1))
        layout, fingerprint = features.layout, features.fingerprint
    return FungiFeatures(np.concatenate(rows), fingerprint, layout), np.concatenate(labels)
