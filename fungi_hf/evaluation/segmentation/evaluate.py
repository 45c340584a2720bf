"""In-context segmentation judged: banks of all or few training images, blocks, controls."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from fungi_hf.errors import InputError
from fungi_hf.evaluation.inputs import choose_combinations
from fungi_hf.evaluation.protocols import expect
from fungi_hf.evaluation.segmentation import scores
from fungi_hf.evaluation.segmentation.bank import MemoryBank, images, named
from fungi_hf.evaluation.segmentation.builder import BankBuilder
from fungi_hf.evaluation.segmentation.controls import FEATURE_CONTROLS, MapControls
from fungi_hf.evaluation.segmentation.examples import check_classes, read_example
from fungi_hf.evaluation.segmentation.protocol import TrainingDraws
from fungi_hf.evaluation.segmentation.results import (
    CONTROL,
    Banks,
    Judges,
    Setting,
    Table,
    records_of,
)
from fungi_hf.evaluation.segmentation.upsampling import label_map

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from fungi_hf.evaluation.inputs import Combination
    from fungi_hf.evaluation.records import EvaluationResult
    from fungi_hf.evaluation.segmentation.examples import Example
    from fungi_hf.evaluation.segmentation.protocol import Amount, SegmentationProtocol


def evaluate_segmentation(
    train: Iterable[Any],
    test: Iterable[Any],
    *,
    n_classes: int,
    protocol: SegmentationProtocol | str = "fungi",
    combinations: Sequence[Sequence[str]] | None = None,
    draws: TrainingDraws | None = None,
    controls: bool = False,
) -> list[EvaluationResult]:
    """Label the patches of test images by their neighbours among those of training images.

    Both sides are read once, image by image; in memory are the banks, and counts of test images.

    Args:
        train: (DenseFeatures, mask [H, W]) of each image, as for `MemoryBank.build`; a third
            member, pixels [H, W, 3], is for the controls of colour.
        test: The same; maps are compared with masks of their own size.
        n_classes: Labels are 0 to n_classes - 1, or ignored by the protocol.
        protocol: A `SegmentationProtocol`, or the name of one of `SEGMENTATION_PROTOCOLS`.
        combinations: Sequences of block names; None takes every combination.
        draws: Banks of some of the images; None takes all. Shares need a `train` with a length.
        controls: Also judge what needs no encoder; see `controls`.

    Returns:
        One record for each amount and combination, then for each control, with `miou`,
        `miou_matched`, `pixel_accuracy` and the IoU of each class. The baseline is the first
        combination.

    Raises:
        InputError: If labels are no classes, or none of a side has any.
    """
    rule = named(protocol)
    n_classes = check_classes(n_classes, rule)
    expect(draws := draws or TrainingDraws(), TrainingDraws, "draws")
    settings = _settings(train, rule, draws)
    judges = _learn(train, n_classes, rule, settings, controls=controls)
    wanted = choose_combinations(judges.banks[0].banks[""].layout, combinations)
    table = _judge(test, n_classes, rule, judges, wanted)
    return [record for setting in settings for record in records_of(setting, rule, table, judges)]


def _settings(train: Any, rule: SegmentationProtocol, draws: TrainingDraws) -> list[Setting]:
    found = []
    for amount in draws.amounts:
        n_images = _number(amount, train)
        seeds = list(dict.fromkeys(draws.seeds or (rule.seed,)))
        if n_images is None and rule.bank_rows is None:
            del seeds[1:]  # whatever the seed, all patches of all images are all there are
        found.append(Setting(amount, n_images, tuple(replace(rule, seed=one) for one in seeds)))
    return found


def _number(amount: Amount, train: Any) -> int | None:
    if not isinstance(amount, float):
        return amount
    if not hasattr(train, "__len__"):
        raise InputError(f"the share {amount} is of an unknown number of images; give a list")
    return max(1, round(amount * len(train)))


def _learn(
    train: Any,
    n_classes: int,
    rule: SegmentationProtocol,
    settings: list[Setting],
    *,
    controls: bool,
) -> Judges:
    lanes: list[str] = [""]
    maps = MapControls(n_classes, rule) if controls else None
    keys = [(setting, one) for setting in settings for one in setting.rules]
    builders: list[dict[str, BankBuilder]] = [{} for _ in keys]
    for position, given in enumerate(images(train, "train")):
        example = read_example(given, n_classes, rule)
        if position == 0 and controls:
            coloured = example.pixels is not None
            lanes += [name for name in FEATURE_CONTROLS if coloured or "colour" not in name]
        for lane, one in _lanes(example, lanes):
            for (setting, own), held in zip(keys, builders, strict=True):
                if lane not in held:
                    held[lane] = BankBuilder(own, n_images=setting.n_images)
                held[lane].add(one)
        if maps is not None:
            maps.add(example)
    if not builders[0]:
        raise InputError("train has 0 images; a memory bank needs at least 1")
    banks = [
        Banks(setting, {lane: MemoryBank.of(builder) for lane, builder in held.items()})
        for (setting, _), held in zip(keys, builders, strict=True)
    ]
    for made in banks:
        wanted, there = made.setting.n_images or 0, made.banks[""].n_images
        if wanted > there:
            raise InputError(f"{wanted} training images were asked for; {there} have labels")
    return Judges(banks, maps)


def _lanes(example: Example, lanes: Iterable[str]) -> Iterable[tuple[str, Example]]:
    """Give the image by its own features, then by those of each control."""
    for lane in lanes:
        yield (
            lane,
            example.with_features(FEATURE_CONTROLS[lane](example), lane) if lane else example,
        )


def _judge(
    test: Any,
    n_classes: int,
    rule: SegmentationProtocol,
    judges: Judges,
    wanted: list[Combination],
) -> Table:
    table = Table()
    lanes = list(judges.banks[0].banks)
    for given in images(test, "test"):
        example = read_example(given, n_classes, rule)
        if not (example.labels >= 0).any():
            continue
        table.images.append(example.features.source)
        size = (example.labels.shape[0], example.labels.shape[1])
        for lane, one in _lanes(example, lanes):
            blocks, known = ([(lane,)], [(CONTROL + lane,)]) if lane else (wanted, wanted)
            for place, held in enumerate(judges.banks):
                found = held.banks[lane].votes(one.features, blocks)
                for name, votes in zip(known, found, strict=True):
                    drawn = label_map(votes, size, rule.upsampling)
                    table.add((place, name), scores.confusion(one.labels, drawn, n_classes))
        if judges.maps is not None:
            for title, drawn in zip(MapControls.names, judges.maps.maps(example), strict=True):
                matrix = scores.confusion(example.labels, drawn, n_classes)
                table.add((None, (CONTROL + title,)), matrix)
    if not table.images:
        raise InputError("no test image has a pixel that is scored; masks are all ignored")
    return table
