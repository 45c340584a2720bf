"""In-context segmentation judged: banks of all or few training images, blocks, controls."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from fungi_hf.errors import InputError, InputTypeError
from fungi_hf.evaluation.inputs import choose_combinations
from fungi_hf.evaluation.protocols import expect
from fungi_hf.evaluation.records import CONTROL
from fungi_hf.evaluation.segmentation import scores
from fungi_hf.evaluation.segmentation.bank import MemoryBank, images, named
from fungi_hf.evaluation.segmentation.builder import BankBuilder
from fungi_hf.evaluation.segmentation.controls import (
    FEATURE_CONTROLS,
    MapControls,
    control_names,
)
from fungi_hf.evaluation.segmentation.draws import TrainingDraws, plan_draws
from fungi_hf.evaluation.segmentation.examples import check_classes, read_example
from fungi_hf.evaluation.segmentation.results import Table, records_of
from fungi_hf.evaluation.segmentation.upsampling import label_map

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from fungi_hf.evaluation.inputs import Combination
    from fungi_hf.evaluation.records import EvaluationResult
    from fungi_hf.evaluation.segmentation.draws import Draw, Group
    from fungi_hf.evaluation.segmentation.examples import Example
    from fungi_hf.evaluation.segmentation.protocol import SegmentationProtocol

_OWN = ""  # the lane of the features that are judged; others are controls


def evaluate_segmentation(  # noqa: PLR0913  (each is a setting of its own)
    train: Iterable[Any],
    test: Iterable[Any],
    *,
    n_classes: int,
    protocol: SegmentationProtocol | str = "fungi",
    combinations: Sequence[Sequence[str]] | None = None,
    draws: TrainingDraws | None = None,
    controls: bool = True,
    others: Mapping[str, tuple[Iterable[Any], Iterable[Any]]] | None = None,
) -> list[EvaluationResult]:
    """Label the patches of test images by their neighbours among those of training images.

    Both sides are read once, image by image; in memory are the banks, and counts of test images.

    Args:
        train: (DenseFeatures, mask [H, W]) of each image, as for `MemoryBank.build`; a third
            member, pixels [H, W, 3] uint8, is for the controls of colour.
        test: The same; maps are compared with masks of their own size.
        n_classes: Labels are 0 to n_classes - 1, or ignored by the protocol.
        protocol: A `SegmentationProtocol`, or the name of one of `SEGMENTATION_PROTOCOLS`.
        combinations: Sequences of block names; None takes every combination.
        draws: Banks of some of the images; None takes all. Shares need a `train` with a length.
        controls: Also judge what needs no encoder; see `controls`.
        others: Further controls: name -> train and test with features of another encoder, e.g. of
            one with random weights, of the same images in the same order. All blocks are used.

    Returns:
        One record for each amount and combination, then for each control, with `miou`,
        `miou_matched`, `pixel_accuracy` and the IoU of each class. The baseline is the first
        combination. The only block of a control is called "control: " and its name.

    Raises:
        InputError: If labels are no classes, none of a side has any, or others have other masks.
    """
    rule = named(protocol)
    n_classes = check_classes(n_classes, rule)
    expect(draws := draws or TrainingDraws(), TrainingDraws, "draws")
    further = _check_others(others or {})
    plan = _Plan(n_classes, rule, plan_draws(train, rule, draws), draws.groups)
    learned = _learn(train, plan, controls=controls)
    own = [banks[_OWN] for banks in learned.banks]
    wanted = choose_combinations(own[0].layout, combinations)
    table = _judge(test, plan, learned, wanted)
    for name, pair in further.items():
        _add_other(name, pair, plan, learned, table)
    return records_of(rule, table, plan.draws, own, learned.notes)


@dataclass(frozen=True, slots=True)
class _Plan:
    n_classes: int
    rule: SegmentationProtocol
    draws: list[Draw]
    groups: tuple[Group, ...] | None

    def group(self, place: int) -> Group | None:
        # Of a training image.
        if self.groups is None:
            return None
        if place >= len(self.groups):
            raise InputError(f"there are {len(self.groups)} groups, but more training images")
        return self.groups[place]

    def check(self, n_images: int, n_labelled: list[int]) -> None:
        # Refuse a training set that is too small for what is asked of it.
        if self.groups is not None and n_images < len(self.groups):
            raise InputError(f"there are {len(self.groups)} groups for {n_images} training images")
        for draw, there in zip(self.draws, n_labelled, strict=True):
            wanted = draw.setting.amount
            if draw.setting.n_images and isinstance(wanted, int) and wanted > there:
                raise InputError(f"{wanted} training images were asked for; {there} have labels")


@dataclass(frozen=True, slots=True)
class _Learned:
    banks: list[dict[str, MemoryBank]]  # of each draw, by lane
    maps: MapControls | None
    masks: list[bytes]  # digests, of each training image
    contents: list[bytes]

    @property
    def notes(self) -> tuple[str, ...]:
        alike = len(self.contents) - len(set(self.contents))
        if not alike:
            return ()
        return (
            f"{alike} of {len(self.contents)} training images have the mask of another and no "
            "pixels that tell them apart: they are drawn together, and their patches by one draw",
        )


def _learn(train: Any, plan: _Plan, *, controls: bool, drawn_as: Sequence[bytes] = ()) -> _Learned:
    maps, masks, contents = None, list[bytes](), list[bytes]()
    builders: list[dict[str, BankBuilder]] = [{} for _ in plan.draws]
    _extend(builders, plan, [_OWN])
    for given in images(train, "train"):
        example = read_example(given, plan.n_classes, plan.rule)
        if len(masks) < len(drawn_as):
            example = example.drawn_as(drawn_as[len(masks)])
        if controls and maps is None:
            maps = MapControls(example.grid, plan.n_classes, plan.rule)
            _extend(builders, plan, control_names(example))
        group = plan.group(len(masks))
        for lane, one in _lanes(example, list(builders[0])):
            for draw, held in zip(plan.draws, builders, strict=True):
                if draw.takes(group):
                    held[lane].add(one)
        if maps is not None:
            maps.add(example)
        masks.append(example.mask)
        contents.append(example.content)
    plan.check(len(masks), [held[_OWN].n_labelled for held in builders])
    banks = [{lane: MemoryBank.of(one) for lane, one in held.items()} for held in builders]
    return _Learned(banks, maps, masks, contents)


def _extend(builders: list[dict[str, BankBuilder]], plan: _Plan, lanes: Iterable[str]) -> None:
    for draw, held in zip(plan.draws, builders, strict=True):
        for lane in lanes:
            held[lane] = BankBuilder(draw.rule, n_images=draw.setting.n_images)


def _lanes(example: Example, lanes: list[str]) -> Iterator[tuple[str, Example]]:
    # The image by its own features, then by those of each control.
    yield _OWN, example
    if lanes[1:] and lanes[1:] != control_names(example):
        raise InputError(
            f"{example.features.source}: colours are compared by the pixels of every training and "
            "test image; give (features, mask, pixels) of all or of none"
        )
    for lane in lanes[1:]:
        yield lane, example.with_features(FEATURE_CONTROLS[lane](example), lane)


def _judge(test: Any, plan: _Plan, learned: _Learned, wanted: list[Combination]) -> Table:
    table, n_images = Table(), 0
    for given in images(test, "test"):
        n_images += 1
        example = read_example(given, plan.n_classes, plan.rule)
        if not (example.labels >= 0).any():
            continue
        for lane, one in _lanes(example, list(learned.banks[0])):
            blocks, names = ([(lane,)], [(CONTROL + lane,)]) if lane else (wanted, wanted)
            for place, held in enumerate(learned.banks):
                for name, votes in zip(names, held[lane].votes(one.features, blocks), strict=True):
                    drawn = label_map(votes, example.size, plan.rule.upsampling)
                    table.add(
                        (place, name), scores.confusion(example.labels, drawn, plan.n_classes)
                    )
        if learned.maps is not None:
            for title, drawn in zip(MapControls.names, learned.maps.maps(example), strict=True):
                matrix = scores.confusion(example.labels, drawn, plan.n_classes)
                table.add((None, (CONTROL + title,)), matrix)
        table.masks.append(example.mask)
    if not table.masks:
        raise InputError(
            f"no pixel of {n_images} test images is scored; give test images with labels that are "
            "not ignored"
        )
    if learned.maps is not None:
        sources = learned.maps.sources.items()
        table.sources.update({(CONTROL + title,): source for title, source in sources})
    return table


def _check_others(others: Any) -> Mapping[str, tuple[Any, Any]]:
    if not isinstance(others, Mapping):
        raise InputTypeError(f"others is a {type(others).__name__}; give name -> (train, test)")
    for name, pair in others.items():
        if not isinstance(name, str) or not isinstance(pair, tuple) or len(pair) != 2:
            raise InputTypeError(f"others[{name!r}] must be a pair (train, test) under a text")
        if name in FEATURE_CONTROLS or name in MapControls.names:
            raise InputError(f"others[{name!r}] has the name of a control that is always there")
    return others


def _add_other(name: str, pair: Any, plan: _Plan, learned: _Learned, table: Table) -> None:
    # Judge a further control by the same draws and the same masks.
    its = _learn(pair[0], plan, controls=False, drawn_as=learned.contents)
    first = its.banks[0][_OWN]
    found = _judge(pair[1], plan, its, [tuple(first.layout)])
    for side, masks, known in (
        ("train", its.masks, learned.masks),
        ("test", found.masks, table.masks),
    ):
        if masks != known:
            raise InputError(
                f"others[{name!r}]: its {side} has other masks than {side}; give the same "
                "images in the same order"
            )
    title = (CONTROL + name,)
    for (place, _), counts in found.counts.items():
        table.counts[place, title] = counts
    table.sums.update({(place, title): matrix for (place, _), matrix in found.sums.items()})
    table.sources[title] = (first.n_images, f"features of {first.fingerprint}")
