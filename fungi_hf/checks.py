"""Checks of single values and of dataclass fields, with one wording for every room.

A check takes the name that its message shows, and the value. It gives the value as plain Python
data (numpy's numbers become `int` or `float`), or raises an error that says what came and what is
allowed. Only the standard library is imported.
"""

from __future__ import annotations

import contextlib
import math
from numbers import Integral, Real
from typing import TYPE_CHECKING, Any, Literal, TypeAlias, get_args

from fungi_hf.errors import ConfigError, FungiError, choices

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

ErrorClass: TypeAlias = type[FungiError]
Inclusive: TypeAlias = Literal["both", "low", "high", "neither"]


def check_integer(
    name: str,
    value: object,
    low: int | None = 1,
    high: int | None = None,
    *,
    also: str = "",
    error: ErrorClass = ConfigError,
    type_error: ErrorClass | None = None,
) -> int:
    """Give a whole number from `low` to `high`, each None for no bound; True and 1.0 are none.

    `also` says in the message what else the caller takes, as "None". `type_error` is raised for a
    value that is no integer, `error` for an integer out of range; None stands for `error`.
    """
    whole = int(value) if isinstance(value, Integral) and not isinstance(value, bool) else None
    if whole is None or (low is not None and whole < low) or (high is not None and whole > high):
        raise (type_error or error if whole is None else error)(
            f"{name} must be {also and f'{also} or '}an integer{_bounds(low, high)}; got {value!r}"
        )
    return whole


def check_number(
    name: str,
    value: object,
    low: float | None = None,
    high: float | None = None,
    *,
    inclusive: Inclusive = "both",
    also: str = "",
    error: ErrorClass = ConfigError,
) -> float:
    """Give a finite number between two bounds as a float; True and False are none.

    `inclusive` says which of the bounds are themselves allowed, `also` what else the caller takes.
    """
    number = math.nan
    if isinstance(value, Real) and not isinstance(value, bool):
        with contextlib.suppress(OverflowError):
            number = float(value)
    with_low, with_high = inclusive in ("both", "low"), inclusive in ("both", "high")
    above = low is None or number > low or (with_low and number == low)
    below = high is None or number < high or (with_high and number == high)
    if not math.isfinite(number) or not (above and below):
        bounds = _bounds(low, high, with_low=with_low, with_high=with_high)
        raise error(f"{name} must be {also and f'{also} or '}a number{bounds}; got {value!r}")
    return number


def check_choice(
    name: str, value: object, allowed: Iterable[str], *, error: ErrorClass = ConfigError
) -> str:
    """Give one of some texts; the error lists them, the nearest first."""
    names = tuple(allowed)
    if not isinstance(value, str) or value not in names:
        raise error(f"{name} is {choices(value, names)}")
    return value


def check_flag(name: str, value: object, *, error: ErrorClass = ConfigError) -> bool:
    """Give True or False; 0 and 1 are neither."""
    if not isinstance(value, bool):
        raise error(f"{name} must be True or False; got {value!r}")
    return value


def check_known(
    owner: str,
    given: Iterable[str],
    known: Iterable[str],
    *,
    noun: str = "field",
    error: ErrorClass = ConfigError,
) -> None:
    """Refuse names that nobody reads: a misspelt one would be ignored."""
    names = tuple(known)
    for name in given:
        if name not in names:
            raise error(f"{owner} has no {noun} {choices(name, names)}")


def check_fields(
    owner: object,
    names: Iterable[str],
    check: Callable[..., Any],
    *bounds: Any,
    optional: bool = False,
    **options: Any,
) -> None:
    """Check fields of a dataclass alike, frozen or not, and keep what the check gives.

    The message names the owner's class and the field. The bounds and options are those of the
    check; `optional` allows None, too.
    """
    if optional:
        options["also"] = "None"
    for name in names:
        value = getattr(owner, name)
        if value is not None or not optional:
            checked = check(f"{type(owner).__name__}.{name}", value, *bounds, **options)
            object.__setattr__(owner, name, checked)


def check_choices(owner: object, kinds: Mapping[str, Any]) -> None:
    """Check fields of a dataclass that hold texts: field -> the `Literal` of what is allowed."""
    for name, kind in kinds.items():
        check_fields(owner, [name], check_choice, get_args(kind))


def _bounds(
    low: float | None, high: float | None, *, with_low: bool = True, with_high: bool = True
) -> str:
    """Say a range: " >= 1", " from 0 to 1", " > 0 and < 1"."""
    least, most = (f"{end:g}" if isinstance(end, float) else end for end in (low, high))
    if low is not None and high is not None and with_low and with_high:
        return f" from {least} to {most}"
    ends = [] if low is None else [f"{'>=' if with_low else '>'} {least}"]
    ends += [] if high is None else [f"{'<=' if with_high else '<'} {most}"]
    return f" {' and '.join(ends)}" if ends else ""
