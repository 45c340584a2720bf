"""How many training images a bank sees, and which: whole images or groups of them, by seed."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, TypeAlias

from fungi_hf.checks import check_fields, check_integer, check_number
from fungi_hf.errors import InputError, InputTypeError
from fungi_hf.evaluation.protocols import AS_INPUT, MOST_SEED, check_each
from fungi_hf.seeding import derive

if TYPE_CHECKING:
    from fungi_hf.evaluation.segmentation.protocol import SegmentationProtocol

Amount: TypeAlias = int | float | None
Group: TypeAlias = int | str


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingDraws:
    """How many training images a bank is drawn from, and how often.

    Attributes:
        amounts: Each a number of images, a share as 0.125 (at least one image), or None for all.
        seeds: Of the draws of images and patches; None takes the protocol's.
        groups: One id a training image, e.g. its video. Amounts then count groups, and all images
            of a drawn group are taken: frames of one video say less than as many photographs.
    """

    amounts: tuple[Amount, ...] = (None,)
    seeds: tuple[int, ...] | None = None
    groups: tuple[Group, ...] | None = None

    def __post_init__(self) -> None:
        check_fields(self, ("amounts",), check_each, _check_amount)
        if self.seeds is not None:
            check_fields(self, ("seeds",), check_each, check_integer, 0, MOST_SEED, **AS_INPUT)
        check_fields(self, ("groups",), _check_groups, optional=True)
        if not self.amounts or self.seeds == () or self.groups == ():
            raise InputError("TrainingDraws needs at least one amount, seed and group; got none")


@dataclass(frozen=True, slots=True)
class Setting:
    """One amount, and the number that it is; None is all."""

    amount: Amount
    number: int | None
    unit: str

    @property
    def n_images(self) -> int | None:
        """Images that are drawn one by one."""
        return self.number if self.unit == "images" else None

    def title(self, n_images: int) -> str:
        """Say in a protocol's name how many there are, of so many images in the bank."""
        if self.number is None:
            return ""
        n = n_images if self.unit == "images" else self.number
        return f", {n} {self.unit if n > 1 else self.unit[:-1]}"


@dataclass(frozen=True, slots=True)
class Draw:
    """One seed's draw: its protocol, and the groups that it takes; None takes any image."""

    setting: Setting
    rule: SegmentationProtocol
    groups: frozenset[Group] | None

    def takes(self, group: Group | None) -> bool:
        """Tell whether an image of a group may be drawn."""
        return self.groups is None or group in self.groups


def plan_draws(train: Any, rule: SegmentationProtocol, given: TrainingDraws) -> list[Draw]:
    """Give the draws of each distinct number of images or groups, and of each seed.

    Raises:
        InputError: If a share is of an unknown number, or more groups are asked for than given.
    """
    settings: dict[int | None, Setting] = {}
    unit = "images" if given.groups is None else "groups"
    for amount in given.amounts:
        number = _number(amount, train, given.groups)
        settings.setdefault(number, Setting(amount, number, unit))
    draws = []
    for setting in settings.values():
        seeds = list(dict.fromkeys(given.seeds or (rule.seed,)))
        if setting.number is None and rule.bank_rows is None:
            del seeds[1:]  # whatever the seed, all patches of all images are all there are
        rules = [replace(rule, seed=seed) for seed in seeds]
        draws += [Draw(setting, own, _drawn(setting, given, own.seed)) for own in rules]
    return draws


def _number(amount: Amount, train: Any, groups: tuple[Group, ...] | None) -> int | None:
    if amount is None:
        return None
    there = None if groups is None else len(set(groups))
    if isinstance(amount, float):
        if there is None and not hasattr(train, "__len__"):
            raise InputError(f"the share {amount} is of an unknown number of images; give a list")
        return max(1, round(amount * (len(train) if there is None else there)))
    if there is not None and amount > there:
        raise InputError(f"{amount} groups of training images were asked for; there are {there}")
    return amount


def _drawn(setting: Setting, given: TrainingDraws, seed: int) -> frozenset[Group] | None:
    if given.groups is None or setting.number is None:
        return None
    keys = {one: (derive(seed, "segmentation", "groups", str(one)), one) for one in given.groups}
    return frozenset(sorted(keys, key=keys.__getitem__)[: setting.number])


def _check_amount(name: str, value: object) -> Amount:
    if value is None:
        return None
    if isinstance(value, float):
        return check_number(name, value, 0, 1, inclusive="high", error=InputError)
    return check_integer(name, value, also="a share or None", **AS_INPUT)


def _check_groups(name: str, values: Any, *, also: str) -> tuple[Group, ...]:
    # Texts or integers throughout, so that "1" and 1 are not one group.
    for kind in (str, int):
        if isinstance(values, tuple) and all(type(one) is kind for one in values):
            return values
    raise InputTypeError(f"{name} must be {also} or a tuple of texts or of integers")
