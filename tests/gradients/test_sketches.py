"""Sketches: exact against dense matrices, unbiased, with the variance that the formulas give."""

from __future__ import annotations

import hashlib
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fungi_hf.errors import ConfigError, ShapeError
from fungi_hf.gradients import sketches
from fungi_hf.gradients.factors import LayerFactors
from fungi_hf.gradients.sketches import DenseSketch, KhatriRao, make_sketch

DENSE = DenseSketch.KINDS
KINDS = ("khatri_rao", *DENSE)


def draw_factors(
    seed: int, n_samples: int, n_rows: int, m: int, n: int, bias: bool = True
) -> LayerFactors:
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    owner = torch.randint(0, n_samples, (n_rows,), generator=generator)
    return LayerFactors(
        delta=normal(n_rows, m), a=normal(n_rows, n), owner=owner, n_samples=n_samples, bias=bias
    )


def matrix_of(sketch) -> torch.Tensor:
    """The dense matrix [P, m n1] that a sketch stands for, from its own definition."""
    if isinstance(sketch, KhatriRao):
        U = sketch.U.double().view(len(sketch.U), sketch.width, sketch.rank)
        W = sketch.W.double().view(len(sketch.W), sketch.width, sketch.rank)
        return torch.einsum("mps,nps->pmn", U, W).flatten(1) / math.sqrt(sketch.width * sketch.rank)
    return sketch.materialise().double() / math.sqrt(sketch.width)


shapes = st.tuples(*[st.integers(1, hi) for hi in (5, 9, 7, 6, 8)])


@settings(max_examples=60, deadline=None)
@given(shape=shapes, bias=st.booleans(), seed=st.integers(0, 99), rank=st.integers(1, 3))
@pytest.mark.parametrize("kind", KINDS)
def test_equals_its_dense_matrix_applied_to_the_whole_gradient(
    kind: str, shape: tuple[int, ...], bias: bool, seed: int, rank: int
) -> None:
    n_samples, n_rows, m, n, width = shape
    factors = draw_factors(seed, n_samples, n_rows, m, n, bias)
    sketch = make_sketch(kind, m, n + bias, width, seed=seed, rank=rank)
    expected = (
        factors.materialise().flatten(1)
        @ matrix_of(make_sketch(kind, m, n + bias, width, seed=seed, rank=rank)).T
    )
    got = sketch(factors)
    assert got.shape == (n_samples, width)
    torch.testing.assert_close(got, expected, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("kind", KINDS)
def test_rows_in_order_take_the_same_path_as_rows_in_disorder(kind: str) -> None:
    factors = draw_factors(0, 4, 4, 5, 6)
    ordered = LayerFactors(
        delta=factors.delta, a=factors.a, owner=torch.arange(4), n_samples=4, bias=True
    )
    order = torch.tensor([2, 0, 3, 1])
    mixed = LayerFactors(
        delta=factors.delta[order], a=factors.a[order], owner=order, n_samples=4, bias=True
    )
    sketch = make_sketch(kind, 5, 7, 6, seed=0)
    torch.testing.assert_close(sketch(ordered), sketch(mixed))
    torch.testing.assert_close(ordered.materialise(), mixed.materialise())


@pytest.mark.parametrize("kind", KINDS)
def test_is_linear_and_sees_the_bias_column(kind: str) -> None:
    one, two = draw_factors(1, 1, 3, 5, 6), draw_factors(2, 1, 2, 5, 6)
    both = LayerFactors(
        delta=torch.cat([2 * one.delta, two.delta]),
        a=torch.cat([one.a, two.a]),
        owner=torch.zeros(5, dtype=torch.long),
        n_samples=1,
        bias=True,
    )
    sketch = make_sketch(kind, 5, 7, 9, seed=0)
    torch.testing.assert_close(sketch(both), 2 * sketch(one) + sketch(two))
    silent = LayerFactors(
        delta=one.delta, a=torch.zeros_like(one.a), owner=one.owner, n_samples=1, bias=True
    )
    assert sketch(silent).norm() > 0  # only the bias column is left


def test_the_layout_is_row_major_with_the_bias_last() -> None:
    delta = torch.zeros(1, 3, dtype=torch.float64)
    delta[0, 1] = 1
    factors = LayerFactors(
        delta=delta, a=torch.tensor([[5.0, 7.0]]).double(), owner=torch.zeros(1).long(),
        n_samples=1, bias=True,
    )  # fmt: skip
    assert factors.materialise().flatten().tolist() == [0, 0, 0, 5, 7, 1, 0, 0, 0]
    assert sketches._gradients(factors).flatten().tolist() == [0, 0, 0, 5, 7, 1, 0, 0, 0]


@pytest.mark.parametrize("kind", DENSE)
@pytest.mark.parametrize("published", [False, True])
def test_drawing_in_blocks_changes_nothing(kind: str, published: bool, monkeypatch) -> None:
    if published and kind != "rademacher":
        pytest.skip("only the sign matrix has a published stream")
    factors = draw_factors(0, 5, 12, 6, 4)
    whole = DenseSketch(kind, 6, 5, 7, seed=3, published=published)
    expected = whole(factors)
    whole.materialise()
    torch.testing.assert_close(whole(factors), expected, rtol=1e-12, atol=1e-12)
    for block in (1, 4 * 30, 4 * 30 * 2, 4 * 30 * 3):
        monkeypatch.setattr(sketches, "_BLOCK_BYTES", block)
        blocked = DenseSketch(kind, 6, 5, 7, seed=3, published=published)
        torch.testing.assert_close(blocked(factors), expected, rtol=1e-12, atol=1e-12)
        assert torch.equal(blocked.materialise(), whole.materialise())
        assert blocked.digest() == whole.digest()


def test_the_published_stream_is_torch_rand_seeded_and_compared() -> None:
    sketch = DenseSketch("rademacher", 4, 5, 6, seed=42, published=True)
    stream = torch.Generator().manual_seed(42)
    expected = (torch.rand(6, 20, generator=stream) > 0.5).float() * 2 - 1
    assert torch.equal(sketch.materialise(), expected)
    torch.manual_seed(42)  # the global generator gives the same stream
    assert torch.equal((torch.rand(6, 20) > 0.5).float() * 2 - 1, expected)


def sha(tensor: torch.Tensor) -> str:
    return hashlib.sha256(tensor.to(torch.int8).numpy().tobytes()).hexdigest()[:16]


def test_golden_digests() -> None:
    """The same on every processor. Another torch or numpy may draw other numbers: then saved
    folders say so, and this test too."""
    assert sha(DenseSketch("rademacher", 24, 25, 32, seed=42, published=True).materialise()) == (
        "d07762bec44f8e9e"
    )
    got = {kind: make_sketch(kind, 4, 5, 6, seed=42).digest() for kind in KINDS}
    assert got == {
        "khatri_rao": "1a9f8f905cc6d336",
        "rademacher": "rademacher:071cd33370bf24d5",
        "gaussian": "gaussian:0de91106dd76d58e",
        "sparse": "sparse:0633c3cda7b8dabf",
    }


@pytest.mark.parametrize("kind", ["rademacher", "khatri_rao"])
def test_signs_have_no_zeros_parity_of_the_all_ones_gradient(kind: str) -> None:
    m, n = 5, 6
    ones = LayerFactors(
        delta=torch.ones(1, m).double(), a=torch.ones(1, n).double(), owner=torch.zeros(1).long(),
        n_samples=1, bias=True,
    )  # fmt: skip
    sketch = make_sketch(kind, m, n + 1, 64, seed=0, rank=1)
    values = sketch(ones)[0] * 8
    assert torch.equal(values, values.round())
    parity = (m * (n + 1)) % 2
    assert (values.long() % 2 == parity).all()


def test_entries_have_the_documented_distribution() -> None:
    columns = 30 * 40
    for kind, values in (("rademacher", [-1, 1]), ("sparse", [-math.sqrt(3), 0, math.sqrt(3)])):
        matrix = DenseSketch(kind, 30, 40, 50, seed=1).materialise().flatten()
        shares = [(matrix == torch.tensor(v, dtype=torch.float32)).double().mean() for v in values]
        expected = [0.5, 0.5] if kind == "rademacher" else [1 / 6, 2 / 3, 1 / 6]
        for share, p in zip(shares, expected, strict=True):
            assert abs(share - p) < 5 * math.sqrt(p * (1 - p) / (columns * 50))
    normal = DenseSketch("gaussian", 30, 40, 50, seed=1).materialise().double().flatten()
    assert abs(normal.mean()) < 5 / math.sqrt(60_000)
    assert abs(normal.var() - 1) < 5 * math.sqrt(2 / 60_000)
    assert abs((normal**4).mean() - 3) < 5 * math.sqrt(96 / 60_000)


M, N, P, DRAWS = 24, 24, 32, 500


def gradient_pairs() -> dict[str, LayerFactors]:
    """Two correlated samples each: rank 1, rank 12, rank 1 with three non-zeros per factor."""
    generator = torch.Generator().manual_seed(11)

    def pair(rank: int, live: int | None = None) -> LayerFactors:
        delta = torch.randn(2 * rank, M, generator=generator, dtype=torch.float64)
        a = torch.randn(2 * rank, N, generator=generator, dtype=torch.float64)
        delta[rank:] = 0.6 * delta[:rank] + 0.8 * delta[rank:]
        a[rank:] = 0.6 * a[:rank] + 0.8 * a[rank:]
        if live is not None:
            delta[:, live:] = 0
            a[:, live:] = 0
        owner = torch.arange(2).repeat_interleave(rank)
        return LayerFactors(delta=delta, a=a, owner=owner, n_samples=2, bias=True)

    return {"rank 1": pair(1), "rank 12": pair(12), "sparse": pair(1, 3)}


def statistics(make, factors: LayerFactors) -> tuple[float, float]:
    """(mean of <y, y'> minus <G, G'>, in standard errors; P Var(|y|^2) / |G|^4)."""
    G = factors.materialise().flatten(1)
    inner, squared = [], []
    for seed in range(DRAWS):
        y = make(seed)(factors)
        inner.append(float(y[0] @ y[1]))
        squared.append(float(y[0] @ y[0]))
    bias = np.mean(inner) - float(G[0] @ G[1])
    errors = abs(bias) / (np.std(inner) / math.sqrt(DRAWS))
    return float(errors), float(P * np.var(squared) / float(G[0] @ G[0]) ** 2)


def variance_formula(kind: str, factors: LayerFactors, rank: int) -> float:
    G = factors.materialise()[0]
    norm2 = G.square().sum()
    if kind == "khatri_rao":
        rho = (G.T @ G).square().sum() / norm2**2
        return float(2 + 6 * rho / rank)
    return float(2 - 2 * G.pow(4).sum() / norm2**2) if kind == "rademacher" else 2.0


@pytest.mark.slow
@pytest.mark.parametrize("name", ["rank 1", "rank 12", "sparse"])
@pytest.mark.parametrize("kind", KINDS)
def test_inner_products_are_unbiased_with_the_variance_of_the_formula(kind: str, name: str) -> None:
    factors = gradient_pairs()[name]
    for rank in (1, 4) if kind == "khatri_rao" else (1,):
        errors, variance = statistics(
            lambda seed, r=rank: make_sketch(kind, M, N + 1, P, seed=seed, rank=r), factors
        )
        assert errors < 4
        expected = variance_formula(kind, factors, rank)
        if kind == "khatri_rao":  # an upper bound, reached by normal entries; 500 draws: wide
            assert 1.0 < variance < 1.4 * expected
        else:
            assert 0.6 * expected < variance < 1.4 * expected


class WrongScale(KhatriRao):
    def __call__(self, factors: LayerFactors) -> torch.Tensor:
        return super().__call__(factors) / math.sqrt(self.width)


class MissingBias(KhatriRao):
    def __call__(self, factors: LayerFactors) -> torch.Tensor:
        self.W[-1] = 0
        return super().__call__(factors)


class RepeatedRow(KhatriRao):
    def __init__(self, m: int, n1: int, width: int, *, rank: int, seed: int) -> None:
        super().__init__(m, n1, width, rank=rank, seed=seed)
        self.U[:], self.W[:] = self.U[:, :1], self.W[:, :1]


@pytest.mark.parametrize("wrong", [WrongScale, MissingBias, RepeatedRow])
def test_the_statistics_catch_a_wrong_sketch(wrong: type) -> None:
    factors = gradient_pairs()["rank 12"]
    loud = LayerFactors(  # a bias column that carries a good part of the gradient
        delta=factors.delta.abs(), a=factors.a * 0.3, owner=factors.owner, n_samples=2, bias=True
    )
    errors, variance = statistics(lambda seed: wrong(M, N + 1, P, rank=4, seed=seed), loud)
    assert errors > 6 or variance > 1.4 * variance_formula("khatri_rao", loud, 4)


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_the_variance_with_many_draws(kind: str, monkeypatch) -> None:
    monkeypatch.setattr("tests.gradients.test_sketches.DRAWS", 2000)
    for factors in gradient_pairs().values():
        errors, variance = statistics(
            lambda seed: make_sketch(kind, M, N + 1, P, seed=seed, rank=1), factors
        )
        expected = variance_formula(kind, factors, 1)
        assert errors < 4
        low, high = (
            (1.5, 1.2 * expected) if kind == "khatri_rao" else (0.8 * expected, 1.2 * expected)
        )
        assert low < variance < high


def test_errors() -> None:
    with pytest.raises(ConfigError, match="sketch is 'kronecker'; choose one of"):
        make_sketch("kronecker", 2, 3, 4, seed=0)
    for kind in KINDS:
        with pytest.raises(ShapeError, match=r"of shape \(5, 7\); got \(5, 8\)"):
            make_sketch(kind, 5, 7, 3, seed=0)(draw_factors(0, 2, 3, 5, 7))


def test_seed_kind_and_shape_decide_the_digest() -> None:
    digests = {
        make_sketch(kind, 4, 5, width, seed=seed).digest()
        for kind in KINDS
        for width in (3, 6)
        for seed in (0, 1)
    }
    # A dense digest covers the first row, which does not depend on P.
    assert len(digests) == 4 + 3 * 2
