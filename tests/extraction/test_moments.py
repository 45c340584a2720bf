"""Moments of rows in parts, against all rows at once."""

from __future__ import annotations

import pickle

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fungi_hf.errors import ShapeError, StateError
from fungi_hf.extraction.moments import Moments
from fungi_hf.extraction.reduction import PrincipalComponents, whitening_from
from fungi_hf.gradients.factors import unit_rows


def by_rows(rows: np.ndarray, power: float) -> np.ndarray:
    """Ledoit and Wolf's shrinkage from the definition, with all rows in memory."""
    centred = rows - rows.mean(0)
    n, width = centred.shape
    covariance = centred.T @ centred / n
    level = np.trace(covariance) / width
    spread = ((covariance - level * np.eye(width)) ** 2).sum()
    distances = [((np.outer(x, x) - covariance) ** 2).sum() for x in centred]
    share = min(sum(distances) / n**2, spread) / spread
    values, vectors = np.linalg.eigh((1 - share) * covariance + share * level * np.eye(width))
    scales = values ** (-power / 2)
    return (vectors * (scales / scales.max())) @ vectors.T


def in_two_passes(rows: torch.Tensor, power: float) -> torch.Tensor:
    """The same from centred rows in memory, directions without variance included."""
    centred = rows - rows.mean(0)
    n, width = centred.shape
    covariance = centred.T @ centred / n
    level = covariance.trace() / width
    squares = (covariance**2).sum()
    spread = squares - width * level**2
    noise = ((centred**2).sum(1) ** 2).sum() / n**2 - squares / n
    shrinkage = float((noise / spread).clamp(0, 1)) if spread > 0 else 1.0
    variances, directions = torch.linalg.eigh(covariance)
    variances = (1 - shrinkage) * variances.clamp(min=0) + shrinkage * level
    scales = variances.clamp(min=float(variances.max()) * 1e-7) ** (-power / 2)
    return (directions * (scales / scales.max())) @ directions.T


def rows_of(n: int, width: int, seed: int, shift: float) -> torch.Tensor:
    """Unit rows of uneven variances, the closer together the larger the shift."""
    generator = torch.Generator().manual_seed(seed)
    scales = torch.linspace(0.5, 2, width)
    return unit_rows(torch.randn(n, width, generator=generator) * scales + shift)


def tree(parts: list[Moments], order: np.random.Generator) -> Moments:
    """Merge two random ones until one is left."""
    parts = list(parts)
    while len(parts) > 1:
        first, second = (parts.pop(int(order.integers(len(parts)))) for _ in range(2))
        parts.append(first.merged(second))
    return parts[0]


@settings(deadline=None, max_examples=60)
@given(
    n=st.integers(3, 90),
    width=st.integers(2, 12),
    n_parts=st.integers(1, 9),
    seed=st.integers(0, 999),
    shift=st.sampled_from([0.0, 3.0, 30.0]),
)
def test_parts_in_any_tree_give_what_all_rows_give(n, width, n_parts, seed, shift) -> None:
    rows, order = rows_of(n, width, seed, shift), np.random.default_rng(seed)
    parts = [Moments(width, products=True) for _ in range(n_parts)]
    for chunk in rows.split(max(1, n // 7)):
        parts[int(order.integers(n_parts))].add(chunk)
    found = tree(parts, order)
    exact = rows.double().numpy()
    assert found.n == n
    np.testing.assert_allclose(found.mean(), exact.mean(0), rtol=0, atol=1e-14)
    for power in (0.5, 1.0):
        got = whitening_from(found, power)
        # Rows that are close together lose digits by any formula.
        np.testing.assert_allclose(got, by_rows(exact, power), rtol=0, atol=1e-9)
        close = 1e-12 if shift < 30 else 1e-9
        np.testing.assert_allclose(got, in_two_passes(rows.double(), power), rtol=0, atol=close)


@settings(deadline=None, max_examples=30)
@given(n=st.integers(4, 60), n_parts=st.integers(1, 6), seed=st.integers(0, 999))
def test_components_of_parts_span_those_of_all_rows(n, n_parts, seed) -> None:
    width, n_components = 10, 3
    rows, order = rows_of(n, width, seed, 0.5), np.random.default_rng(seed)
    found = tree([Moments.of(part, products=True) for part in rows.chunk(n_parts)], order)
    centred = rows.double().numpy() - rows.double().numpy().mean(0)
    values = np.linalg.svd(centred, compute_uv=False)
    expected = np.linalg.svd(centred)[2][:n_components]
    got = PrincipalComponents.of(found, n_components).components.numpy()
    gap = (values[2] ** 2 - values[3] ** 2) / values[0] ** 2
    np.testing.assert_allclose(got.T @ got, expected.T @ expected, atol=1e-12 / gap)


def test_sums_take_the_place_of_rows_where_they_are_smaller() -> None:
    rows = rows_of(20, 8, 0, 0.0)
    few, many = Moments.of(rows[:7], products=True), Moments.of(rows, products=True)
    assert torch.equal(few.rows, rows[:7])
    assert many.rows is None
    assert few.merged(Moments.of(rows[7:8], products=True)).rows is None
    assert len(pickle.dumps(Moments.of(torch.cat([rows] * 1000), products=True))) < 5000


def test_means_are_exact_whatever_the_order() -> None:
    """Sums of a few numbers of 24 bits have no rounding in 53."""
    rows = rows_of(200, 6, 1, 1.0)
    for products in (False, True):
        one = Moments.of(rows, products=products)
        parts = [Moments.of(part, products=products) for part in rows.flip(0).split(33)]
        assert torch.equal(tree(parts, np.random.default_rng(0)).mean(), one.mean())


@pytest.mark.parametrize("n", [3, 30])
@pytest.mark.parametrize("products", [False, True])
def test_tensors_and_back(n: int, products: bool) -> None:
    found = Moments.of(rows_of(n, 8, 0, 1.0), products=products)
    again = Moments.from_tensors(found.to_tensors())
    assert (again.n, again.width, again.products) == (n, 8, products)
    assert torch.equal(again.mean(), found.mean())
    if products:
        assert torch.equal(whitening_from(again, 1.0), whitening_from(found, 1.0))


def test_errors() -> None:
    found = Moments(4, products=True)
    with pytest.raises(StateError, match="no rows to learn from"):
        found.mean()
    with pytest.raises(ShapeError, match=r"shape \[2, 5\]; \[N, 4\]"):
        found.add(torch.zeros(2, 5))
    with pytest.raises(ShapeError, match="moments of 5 columns"):
        found.merged(Moments(5, products=True))
    with pytest.raises(ShapeError, match="products: False"):
        found.merged(Moments(4, products=False))
    with pytest.raises(StateError, match="the stored moments lack"):
        Moments.from_tensors({"n": torch.tensor(3)})


def test_directions_without_variance_are_not_blown_up() -> None:
    rows = rows_of(2000, 6, 0, 0.0) * (torch.arange(6) < 4)
    parts = [Moments.of(part, products=True) for part in rows.split(300)]
    got = whitening_from(tree(parts, np.random.default_rng(0)), 1.0)
    np.testing.assert_allclose(got, in_two_passes(rows.double(), 1.0), rtol=0, atol=1e-12)


@pytest.mark.parametrize("n", [1, 5, 40])
def test_equal_rows_are_not_whitened(n: int) -> None:
    rows = rows_of(1, 6, 0, 1.0).expand(n, 6)
    parts = [Moments.of(part, products=True) for part in rows.split(3)]
    matrix = whitening_from(tree(parts, np.random.default_rng(0)), 1.0)
    assert torch.equal(matrix, torch.eye(6).double())
