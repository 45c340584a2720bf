"""Statistics of right and wrong rows: intervals, paired tests, and what a sample could show."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

from fungi_hf.errors import InputError, InputTypeError
from fungi_hf.seeding import numpy_generator

if TYPE_CHECKING:
    from collections.abc import Sequence

Z_95 = 1.959964  # two-sided 95 %
_POWER_80 = 2.80  # 1.96 for 5 % two-sided, 0.84 for 80 % power
_DRAWS = 10_000


def wilson(n_right: int, n: int, z: float = Z_95) -> tuple[float, float]:
    """Give the Wilson interval of a share.

    Formula: centre (p + z^2/2n) / (1 + z^2/n), half width
    z / (1 + z^2/n) * sqrt(p (1 - p) / n + z^2 / 4n^2), with p = n_right / n.

    Args:
        n_right: Rows that are right, 0 to n.
        n: All rows, at least 1.
        z: Normal quantile of the level.

    Returns:
        Lower and upper bound, within [0, 1].

    Raises:
        InputError: If n is below 1 or n_right outside 0..n.
    """
    if n < 1 or not 0 <= n_right <= n:
        raise InputError(f"{n_right} right of {n}; at least 1 row and 0..n right are needed")
    share = n_right / n
    spread = 1 + z * z / n
    centre = (share + z * z / (2 * n)) / spread
    half = z / spread * math.sqrt(share * (1 - share) / n + z * z / (4 * n * n))
    return max(0.0, centre - half), min(1.0, centre + half)


def mcnemar(n_gained: int, n_lost: int) -> float:
    """Give the exact two-sided McNemar p-value.

    Formula: min(1, 2 sum_{i=0}^{min(b, c)} C(b + c, i) / 2^(b + c)), in whole numbers, so that
    it holds for any count; 1 if b + c = 0.

    Args:
        n_gained: Rows that only the first has right (b).
        n_lost: Rows that only the second has right (c).

    Returns:
        p in (0, 1].

    Raises:
        InputError: If a count is negative.
    """
    if n_gained < 0 or n_lost < 0:
        raise InputError(f"counts are {n_gained} and {n_lost}; both are >= 0")
    n = n_gained + n_lost
    term = total = 1
    for i in range(min(n_gained, n_lost)):
        term = term * (n - i) // (i + 1)  # C(n, i + 1)
        total += term
    return min(1.0, 2 * total / 2**n)


def bootstrap_difference(
    n_gained: int, n_lost: int, n: int, *, seed: int = 0, draws: int = _DRAWS
) -> tuple[float, float]:
    """Give the 95 % percentile interval of (b - c) / n over resampled rows.

    A row's difference is 1, -1 or 0, so resampling rows is a multinomial draw of the counts.

    Args:
        n_gained: Rows that only the first has right (b).
        n_lost: Rows that only the second has right (c).
        n: All rows.
        seed: The root seed.
        draws: Number of resamples.

    Returns:
        The 2.5 and 97.5 percentiles.

    Raises:
        InputError: If the counts are negative or exceed n.
    """
    if n < 1 or n_gained < 0 or n_lost < 0 or n_gained + n_lost > n:
        raise InputError(f"{n_gained} gained and {n_lost} lost of {n} rows is impossible")
    shares = [n_gained / n, n_lost / n, (n - n_gained - n_lost) / n]
    counts = numpy_generator(seed, "paired bootstrap").multinomial(n, shares, size=draws)
    low, high = np.percentile((counts[:, 0] - counts[:, 1]) / n, [2.5, 97.5])
    return float(low), float(high)


def smallest_difference(n_gained: int, n_lost: int, n: int) -> float:
    """Return 2.80 sqrt(d / n), d = (b + c) / n: what n rows would show with 80 % power.

    Raises:
        InputError: If there are no rows.
    """
    if n < 1:
        raise InputError(f"n is {n}; at least 1 row is needed")
    return _POWER_80 * math.sqrt((n_gained + n_lost) / n / n)


def holm(p_values: Sequence[float]) -> list[float]:
    """Adjust the p-values of several comparisons by Holm's step-down rule.

    Formula: the i-th smallest of m becomes max over j <= i of min(1, (m - j + 1) p_(j)).

    Args:
        p_values: Raw p-values, in any order.

    Returns:
        Adjusted p-values, in the same order.

    Raises:
        InputTypeError: If a value is not a number.
        InputError: If a value is outside [0, 1].
    """
    for position, p in enumerate(p_values):
        if isinstance(p, bool) or not isinstance(p, (int, float, np.floating)):
            raise InputTypeError(f"p_values[{position}] is {type(p).__name__}; a number is needed")
        if not 0 <= p <= 1:
            raise InputError(f"p_values[{position}] is {p}; it is a number from 0 to 1")
    adjusted = [0.0] * len(p_values)
    largest = 0.0
    for step, position in enumerate(sorted(range(len(p_values)), key=lambda i: p_values[i])):
        largest = max(largest, min(1.0, (len(p_values) - step) * float(p_values[position])))
        adjusted[position] = largest
    return adjusted
