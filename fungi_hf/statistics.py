"""Intervals and paired tests, so that a difference is told from its noise."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from fungi_hf.errors import ComparisonError, FeatureError, InputError
from fungi_hf.neighbors.base import check_count
from fungi_hf.seeding import numpy_generator

if TYPE_CHECKING:
    import numpy.typing as npt

    from fungi_hf.types import Float64Array

_Z = 1.959963984540054
_BATCH_NUMBERS = 1 << 22


@dataclass(frozen=True, slots=True, kw_only=True)
class PairedTest:
    """The exact McNemar test of two classifiers on the same rows.

    Attributes:
        only_first: Rows that the first alone has right.
        only_second: Rows that the second alone has right.
        difference: Accuracy of the second minus that of the first.
        p: Two-sided.
    """

    only_first: int
    only_second: int
    difference: float
    p: float


def wilson_interval(successes: int, n: int) -> tuple[float, float]:
    """Give the 95 % interval of a share.

    Formula: (p + z^2/2n +- z sqrt(p(1-p)/n + z^2/4n^2)) / (1 + z^2/n), z = 1.959964.

    Args:
        successes: 0 to n.
        n: At least 1.

    Returns:
        Low and high, within [0, 1].
    """
    n = check_count(n, "n", 1, None)
    successes = check_count(successes, "successes", 0, n)
    share = successes / n
    centre = (share + _Z**2 / (2 * n)) / (1 + _Z**2 / n)
    half = _Z / (1 + _Z**2 / n) * math.sqrt(share * (1 - share) / n + _Z**2 / (4 * n**2))
    return max(0.0, centre - half), min(1.0, centre + half)


def mcnemar(first: npt.ArrayLike, second: npt.ArrayLike) -> PairedTest:
    """Test whether two classifiers are right equally often, exactly.

    Formula: p = min(1, 2 sum_{i <= min(b, c)} C(b + c, i) / 2^(b + c)), b and c the rows that
    only one of them has right; 1 if there are none.

    Args:
        first: [N] booleans, row right or not.
        second: [N] booleans of the same rows.

    Returns:
        Counts, difference and p.

    Raises:
        ComparisonError: If the two differ in length, or hold anything but right and wrong.
    """
    one, other = np.asarray(first), np.asarray(second)
    if one.shape != other.shape or one.ndim != 1 or not one.size:
        raise ComparisonError(
            f"the two have shapes {one.shape} and {other.shape}; a paired test needs the same rows"
        )
    if not (np.isin(one, (0, 1)).all() and np.isin(other, (0, 1)).all()):
        raise ComparisonError("outcomes must be right or wrong (True or False) for McNemar's test")
    one, other = one.astype(bool), other.astype(bool)
    b, c = int((one & ~other).sum()), int((~one & other).sum())
    # Python integers: binomials of a few thousand rows leave every float type.
    tail, term = 0, 1
    for i in range(min(b, c) + 1):
        tail += term
        term = term * (b + c - i) // (i + 1)
    p = min(1.0, _ratio(2 * tail, b + c))
    return PairedTest(only_first=b, only_second=c, difference=(c - b) / len(one), p=p)


def bootstrap_interval(
    values: npt.ArrayLike, *, n_samples: int = 2000, seed: int = 42, level: float = 0.95
) -> tuple[float, float]:
    """Give the percentile interval of a mean over resampled rows.

    Args:
        values: [N] one number a row, or [draws, N]: a row's draws are resampled together.
        n_samples: How often to resample.
        seed: Of the resampling.
        level: Share of the samples within the interval.

    Returns:
        Low and high.

    Raises:
        InputError: If there are no rows, or the level is not in (0, 1).
        FeatureError: If values are NaN.
    """
    table = np.atleast_2d(np.asarray(values, np.float64))
    n_samples = check_count(n_samples, "n_samples", 1, None)
    if table.ndim != 2 or not table.size:
        raise InputError(f"values have shape {table.shape}; a bootstrap needs at least one row")
    if not 0 < level < 1:
        raise InputError(f"level is {level}; allowed: between 0 and 1, e.g. 0.95")
    if np.isnan(table).any():
        raise FeatureError(f"values have {int(np.isnan(table).sum())} NaN; all must be finite")
    means = _resampled_means(table.mean(axis=0), n_samples, seed)
    low, high = np.quantile(means, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def paired_difference(
    baseline: npt.ArrayLike, other: npt.ArrayLike, *, n_samples: int = 10_000, seed: int = 42
) -> dict[str, float]:
    """Compare per-row outcomes of the same rows.

    Args:
        baseline: [N], or [draws, N] (averaged over draws).
        other: Of the same shape.
        n_samples: Resamples, and sign flips.
        seed: Of both.

    Returns:
        `difference` of the means (other minus baseline), `low` and `high` of its 95 % bootstrap
        interval, and `p`: exact McNemar for right-or-wrong outcomes, else the share of random
        sign flips whose mean difference is at least as large (one is added to both counts).

    Raises:
        ComparisonError: If the shapes differ.
    """
    one, two = np.atleast_2d(np.asarray(baseline, float)), np.atleast_2d(np.asarray(other, float))
    if one.shape != two.shape or not one.size:
        raise ComparisonError(f"outcomes have shapes {one.shape} and {two.shape}; same rows needed")
    rows = (two - one).mean(axis=0)
    low, high = bootstrap_interval(rows, n_samples=n_samples, seed=seed)
    binary = len(one) == 1 and bool(np.isin(np.stack([one, two]), (0, 1)).all())
    p = mcnemar(one[0], two[0]).p if binary else _flip_test(rows, n_samples, seed)
    return {"difference": float(rows.mean()), "low": low, "high": high, "p": p}


def holm(p_values: list[float]) -> list[float]:
    """Give Holm's adjusted p-values, in the order given."""
    order = np.argsort(p_values, kind="stable")
    adjusted = np.empty(len(p_values))
    worst = 0.0
    for rank, place in enumerate(order):
        worst = max(worst, min(1.0, (len(p_values) - rank) * p_values[place]))
        adjusted[place] = worst
    return [float(value) for value in adjusted]


def _resampled_means(values: Float64Array, n_samples: int, seed: int) -> Float64Array:
    generator = numpy_generator(seed, "evaluation", "bootstrap")
    distinct, counts = np.unique(values, return_counts=True)
    if len(distinct) <= 64:  # the counts of a resample are multinomial: far fewer numbers to draw
        drawn = generator.multinomial(len(values), counts / len(values), size=n_samples)
        return drawn @ distinct / len(values)
    means = np.empty(n_samples)
    step = max(1, _BATCH_NUMBERS // len(values))
    for start in range(0, n_samples, step):
        size = min(step, n_samples - start)
        rows = generator.integers(0, len(values), (size, len(values)))
        means[start : start + size] = values[rows].mean(axis=1)
    return means


def _flip_test(rows: Float64Array, n_samples: int, seed: int) -> float:
    moved = rows[rows != 0]
    if not len(moved):
        return 1.0
    generator = numpy_generator(seed, "evaluation", "sign flips")
    # Rows of one size are flipped together: the sum of their signs is binomial.
    sizes, counts = np.unique(np.round(np.abs(moved), 12), return_counts=True)
    reached, step = 0, max(1, _BATCH_NUMBERS // len(sizes))
    for start in range(0, n_samples, step):
        shape = (min(step, n_samples - start), len(sizes))
        sums = (2 * generator.binomial(counts, 0.5, shape) - counts) @ sizes
        reached += int((np.abs(sums) >= abs(moved.sum()) - 1e-9).sum())
    return (reached + 1) / (n_samples + 1)


def _ratio(numerator: int, exponent: int) -> float:
    """Give numerator / 2^exponent for integers beyond float's range."""
    shift = max(0, numerator.bit_length() - 64)
    return math.ldexp(numerator >> shift, shift - exponent)
