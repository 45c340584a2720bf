"""Intervals and paired tests, so that a difference is told from its noise."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, NamedTuple, TypeAlias

import numpy as np

from fungi_hf.errors import ComparisonError, FeatureError, InputError, InputTypeError
from fungi_hf.seeding import numpy_generator

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy.typing as npt

    from fungi_hf.types import Float64Array, Int64Array

Stream: TypeAlias = tuple[str, ...]
_Z = 1.959963984540054  # two-sided 95 %
_BOOTSTRAP: Stream = ("evaluation", "bootstrap")


class PairedTest(NamedTuple):
    """Accuracy of the second classifier minus that of the first, and McNemar's two-sided p."""

    difference: float
    p: float


def wilson_interval(n_right: int, n: int) -> tuple[float, float]:
    """Give the 95 % interval of a share, low and high, within [0, 1].

    Formula: (p + z^2/2n +- z sqrt(p(1-p)/n + z^2/4n^2)) / (1 + z^2/n), p = n_right / n and
    z = 1.959964.

    Raises:
        InputError: If n is below 1, or n_right is not within 0 to n.
    """
    if n < 1 or not 0 <= n_right <= n:
        raise InputError(f"{n_right} right of {n}; at least 1 row and 0 to n right are needed")
    share = n_right / n
    spread = 1 + _Z**2 / n
    centre = (share + _Z**2 / (2 * n)) / spread
    half = _Z / spread * math.sqrt(share * (1 - share) / n + _Z**2 / (4 * n**2))
    return max(0.0, centre - half), min(1.0, centre + half)


def mcnemar_p(n_gained: int, n_lost: int) -> float:
    """Give the exact two-sided p of McNemar's test, in (0, 1].

    Formula: min(1, 2 sum_{i <= min(b, c)} C(b + c, i) / 2^(b + c)), b = n_gained and c = n_lost
    the rows that only one of the two has right; in whole numbers, so that any count will do.

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


def mcnemar(first: npt.ArrayLike, second: npt.ArrayLike) -> PairedTest:
    """Test whether two classifiers, [N] booleans of the same rows, are right equally often.

    Raises:
        ComparisonError: If the two differ in length, or hold anything but right and wrong.
    """
    one, other = np.asarray(first), np.asarray(second)
    if one.shape != other.shape or one.ndim != 1 or not one.size:
        raise ComparisonError(
            f"the two have shapes {one.shape} and {other.shape}; a paired test needs the same rows"
        )
    if not _is_binary(one, other):
        raise ComparisonError("outcomes must be right or wrong (True or False) for McNemar's test")
    one, other = one.astype(bool), other.astype(bool)
    gained, lost = int((~one & other).sum()), int((one & ~other).sum())
    return PairedTest(difference=(gained - lost) / len(one), p=mcnemar_p(gained, lost))


def against_first(right: npt.NDArray[np.bool_]) -> list[tuple[PairedTest, tuple[float, float]]]:
    """Give each classifier's test against the first, and its 95 % interval; outcomes are [C, N]."""
    return [(mcnemar(right[0], one), wilson_interval(int(one.sum()), len(one))) for one in right]


def bootstrap_interval(
    values: npt.ArrayLike, *, n_samples: int = 2000, seed: int = 42, stream: Stream = _BOOTSTRAP
) -> tuple[float, float]:
    """Give the 95 % percentile interval of a mean over resampled rows, low and high.

    `values` are [N], one number a row, or [draws, N]: a row's draws are resampled together.

    Raises:
        InputError: If there are no rows or no samples.
        FeatureError: If values are NaN.
    """
    table = np.atleast_2d(np.asarray(values, np.float64))
    if n_samples < 1:
        raise InputError(f"n_samples is {n_samples}; allowed: at least 1")
    if table.ndim != 2 or not table.size:
        raise InputError(f"values have shape {table.shape}; a bootstrap needs at least one row")
    if np.isnan(table).any():
        raise FeatureError(f"values have {int(np.isnan(table).sum())} NaN; all must be finite")
    rows, generator = table.mean(axis=0), numpy_generator(seed, *stream)
    distinct, counts = np.unique(rows, return_counts=True)
    if len(distinct) <= 64:
        return _counted_interval(distinct, counts, n_samples, generator)
    sizes = _batches(n_samples, len(rows))
    drawn = (generator.integers(0, len(rows), (size, len(rows))) for size in sizes)
    return _interval(np.concatenate([rows[some].mean(axis=1) for some in drawn]))


def bootstrap_difference(
    n_gained: int, n_lost: int, n: int, *, seed: int = 0, draws: int = 10_000
) -> tuple[float, float]:
    """Give the 95 % percentile interval of (n_gained - n_lost) / n over resampled rows.

    n_gained and n_lost count the rows that only one of two classifiers has right, n all rows.

    Raises:
        InputError: If the counts are negative or exceed n.
    """
    if n < 1 or n_gained < 0 or n_lost < 0 or n_gained + n_lost > n:
        raise InputError(f"{n_gained} gained and {n_lost} lost of {n} rows is impossible")
    counts = np.array([n_gained, n_lost, n - n_gained - n_lost])
    generator = numpy_generator(seed, "paired bootstrap")
    return _counted_interval(np.array([1.0, -1.0, 0.0]), counts, draws, generator)


def paired_difference(
    baseline: npt.ArrayLike, other: npt.ArrayLike, *, n_samples: int = 10_000
) -> dict[str, float]:
    """Compare per-row outcomes of the same rows, [N] or [draws, N] (averaged over draws).

    Gives `difference` of the means (other minus baseline), `low` and `high` of its 95 % bootstrap
    interval, and `p`: exact McNemar for right-or-wrong outcomes, else the share of random sign
    flips whose mean difference is at least as large (one is added to both counts).

    Raises:
        ComparisonError: If the shapes differ.
    """
    one, two = np.atleast_2d(np.asarray(baseline, float)), np.atleast_2d(np.asarray(other, float))
    if one.shape != two.shape or not one.size:
        raise ComparisonError(f"outcomes have shapes {one.shape} and {two.shape}; same rows needed")
    rows = (two - one).mean(axis=0)
    low, high = bootstrap_interval(rows, n_samples=n_samples)
    binary = len(one) == 1 and _is_binary(one, two)
    p = mcnemar(one[0], two[0]).p if binary else _flip_test(rows, n_samples)
    return {"difference": float(rows.mean()), "low": low, "high": high, "p": p}


def smallest_difference(n_gained: int, n_lost: int, n: int) -> float:
    """Return 2.80 sqrt(d / n), d = (b + c) / n: what n rows would show with 80 % power.

    Raises:
        InputError: If there are no rows.
    """
    if n < 1:
        raise InputError(f"n is {n}; at least 1 row is needed")
    return 2.80 * math.sqrt((n_gained + n_lost) / n / n)  # 1.96 for 5 % two-sided, 0.84 for 80 %


def holm(p_values: Sequence[float]) -> list[float]:
    """Adjust the p-values of several comparisons by Holm's step-down rule, in the order given.

    Formula: the i-th smallest of m becomes max over j <= i of min(1, (m - j + 1) p_(j)).

    Raises:
        InputTypeError: If a value is not a number.
        InputError: If a value is outside [0, 1].
    """
    for position, p in enumerate(p_values):
        if isinstance(p, bool) or not isinstance(p, (int, float, np.floating)):
            raise InputTypeError(f"p_values[{position}] is {type(p).__name__}; a number is needed")
        if not 0 <= p <= 1:
            raise InputError(f"p_values[{position}] is {p}; it is a number from 0 to 1")
    adjusted, largest = [0.0] * len(p_values), 0.0
    for step, position in enumerate(sorted(range(len(p_values)), key=lambda i: p_values[i])):
        largest = max(largest, min(1.0, (len(p_values) - step) * float(p_values[position])))
        adjusted[position] = largest
    return adjusted


def _is_binary(*outcomes: npt.NDArray[np.generic]) -> bool:
    return all(np.isin(some, (0, 1)).all() for some in outcomes)


def _counted_interval(
    values: Float64Array, counts: Int64Array, n_samples: int, generator: np.random.Generator
) -> tuple[float, float]:
    """Resample rows that share few values: the counts of a resample are multinomial."""
    n = int(counts.sum())
    return _interval(generator.multinomial(n, counts / n, size=n_samples) @ values / n)


def _interval(means: Float64Array) -> tuple[float, float]:
    low, high = np.quantile(means, (0.025, 0.975))
    return float(low), float(high)


def _flip_test(rows: Float64Array, n_samples: int) -> float:
    moved = rows[rows != 0]
    if not len(moved):
        return 1.0
    generator = numpy_generator(42, "evaluation", "sign flips")
    # Rows of one size are flipped together: the sum of their signs is binomial.
    sizes, counts = np.unique(np.round(np.abs(moved), 12), return_counts=True)
    shapes = [(size, len(sizes)) for size in _batches(n_samples, len(sizes))]
    sums = ((2 * generator.binomial(counts, 0.5, shape) - counts) @ sizes for shape in shapes)
    reached = sum(int((np.abs(some) >= abs(moved.sum()) - 1e-9).sum()) for some in sums)
    return (reached + 1) / (n_samples + 1)


def _batches(n_samples: int, width: int) -> list[int]:
    step = max(1, (1 << 22) // width)  # 32 MB
    return [min(step, n_samples - start) for start in range(0, n_samples, step)]
