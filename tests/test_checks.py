"""Field checks: what passes comes back as plain data; the rest is named with what is allowed."""

from __future__ import annotations

import dataclasses
import re
from fractions import Fraction

import numpy as np
import pytest

from fungi_hf.checks import check_choice, check_fields, check_flag, check_integer, check_number
from fungi_hf.errors import ConfigError, DemoConfigError, InputError, InputTypeError


@pytest.mark.parametrize(
    ("value", "plain"), [(3, 3), (np.int64(3), 3), (np.uint8(3), 3), (10**400, 10**400)]
)
def test_integers_come_back_plain(value: object, plain: int) -> None:
    got = check_integer("k", value)
    assert type(got) is int
    assert got == plain


@pytest.mark.parametrize(
    ("value", "plain"), [(3, 3.0), (0.5, 0.5), (np.float32(0.5), 0.5), (Fraction(1, 2), 0.5)]
)
def test_numbers_come_back_as_floats(value: object, plain: float) -> None:
    got = check_number("x", value, 0)
    assert type(got) is float
    assert got == plain


@pytest.mark.parametrize(
    ("check", "message"),
    [
        (lambda: check_integer("k", True), "k must be an integer >= 1; got True"),
        (lambda: check_integer("k", np.True_), "k must be an integer >= 1; got"),
        (lambda: check_integer("k", 1.0), "k must be an integer >= 1; got 1.0"),
        (lambda: check_integer("k", "1"), "k must be an integer >= 1; got '1'"),
        (lambda: check_integer("k", None), "k must be an integer >= 1; got None"),
        (lambda: check_integer("k", 0), "k must be an integer >= 1; got 0"),
        (lambda: check_integer("k", -1, 0), "k must be an integer >= 0; got -1"),
        (lambda: check_integer("k", 21, 0, 20), "k must be an integer from 0 to 20; got 21"),
        (lambda: check_integer("k", 3, None, 2), "k must be an integer <= 2; got 3"),
        (lambda: check_integer("k", [], None), "k must be an integer; got []"),
        (lambda: check_integer("k", 0, also="None"), "k must be None or an integer >= 1; got 0"),
        (lambda: check_number("x", True), "x must be a number; got True"),
        (lambda: check_number("x", "1"), "x must be a number; got '1'"),
        (lambda: check_number("x", float("nan"), 0), "x must be a number >= 0; got nan"),
        (lambda: check_number("x", float("inf"), 0), "x must be a number >= 0; got inf"),
        (lambda: check_number("x", 10**400, 0), "x must be a number >= 0; got 1000"),
        (lambda: check_number("x", 1j), "x must be a number; got 1j"),
        (lambda: check_number("x", 1.5, 0, 1), "x must be a number from 0 to 1; got 1.5"),
        (lambda: check_number("x", 0, 0, inclusive="high"), "x must be a number > 0; got 0"),
        (lambda: check_number("x", 0, 0, 1, inclusive="high"), "a number > 0 and <= 1; got 0"),
        (lambda: check_number("x", 1, 0, 1, inclusive="low"), "a number >= 0 and < 1; got 1"),
        (lambda: check_number("x", 2e9, 0, 1e9, inclusive="neither", also="'auto'"),
         "x must be 'auto' or a number > 0 and < 1e+09; got 2000000000.0"),
        (lambda: check_choice("mode", "slwo", ("fast", "slow")),
         "mode is 'slwo'; choose one of 'slow', 'fast'"),
        (lambda: check_choice("mode", ["slow"], {"slow": 2}), "mode is ['slow']; choose"),
        (lambda: check_flag("center", 1), "center must be True or False; got 1"),
    ],
)  # fmt: skip
def test_what_is_not_allowed_is_named(check, message: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(message)):
        check()


@pytest.mark.parametrize(
    ("inclusive", "allowed"),
    [("both", (0, 0.5, 1)), ("low", (0, 0.5)), ("high", (0.5, 1)), ("neither", (0.5,))],
)
def test_bounds_belong_to_the_range_as_said(inclusive, allowed) -> None:
    for value in (-0.1, 0, 0.5, 1, 1.1):
        if value in allowed:
            assert check_number("x", value, 0, 1, inclusive=inclusive) == value
        else:
            with pytest.raises(ConfigError):
                check_number("x", value, 0, 1, inclusive=inclusive)


def test_a_caller_chooses_the_errors() -> None:
    with pytest.raises(DemoConfigError):
        check_number("x", -1, 0, error=DemoConfigError)
    with pytest.raises(DemoConfigError):
        check_choice("x", "a", ("b",), error=DemoConfigError)
    with pytest.raises(DemoConfigError):
        check_flag("x", 0, error=DemoConfigError)
    with pytest.raises(InputTypeError):
        check_integer("x", 1.5, error=InputError, type_error=InputTypeError)
    with pytest.raises(InputError):
        check_integer("x", 0, error=InputError, type_error=InputTypeError)
    with pytest.raises(InputError):
        check_integer("x", "a", error=InputError)


def test_fields_of_a_frozen_dataclass() -> None:
    @dataclasses.dataclass(frozen=True, slots=True)
    class Setting:
        k: object = 2
        share: object = 1
        limit: object = None

        def __post_init__(self) -> None:
            check_fields(self, ["k"], check_integer)
            check_fields(self, ["share"], check_number, 0, 1)
            check_fields(self, ["limit"], check_integer, 0, 9, optional=True)

    kept = Setting(k=np.int64(5))
    assert (type(kept.k), type(kept.share), kept.limit) == (int, float, None)
    for changes, message in (
        ({"k": None}, "Setting.k must be an integer >= 1; got None"),
        ({"share": 2}, "Setting.share must be a number from 0 to 1; got 2"),
        ({"limit": 10}, "Setting.limit must be None or an integer from 0 to 9; got 10"),
    ):
        with pytest.raises(ConfigError, match=re.escape(message)):
            Setting(**changes)
