"""Exact factors: their similarity is the cosine of whole gradients; what is dropped is said."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fungi_hf.features import FungiFeatures, make_layout
from fungi_hf.gradients.factors import LayerFactors, compress
from tests.gradients.test_sketches import draw_factors
from tests.tiny import TEXTS, TRAIN, extractor_of


def gram(factors: LayerFactors) -> torch.Tensor:
    G = factors.materialise().flatten(1)
    unit = torch.nn.functional.normalize(G, dim=1, eps=1e-300)
    return unit @ unit.T


def features_of(packed: torch.Tensor, m: int, n1: int) -> FungiFeatures:
    array = packed.float().numpy()
    return FungiFeatures(
        array=array, layout=make_layout({"kl": array.shape[1]}), fingerprint="f",
        factors={"kl": (m, n1)},
    )  # fmt: skip


shapes = st.tuples(st.integers(1, 5), st.integers(1, 12), st.integers(1, 6), st.integers(1, 6))


@settings(max_examples=80, deadline=None)
@given(shape=shapes, bias=st.booleans(), seed=st.integers(0, 99))
def test_similarity_is_the_gram_matrix_of_whole_gradients(
    shape: tuple[int, ...], bias: bool, seed: int
) -> None:
    n_samples, n_rows, m, n = shape
    factors = draw_factors(seed, n_samples, n_rows, m, n, bias)
    packed, lost = compress(factors, rank=12)
    features = features_of(packed, m, n + bias)
    assert lost.abs().max() < 1e-12
    np.testing.assert_allclose(features.similarity(features), gram(factors), atol=2e-5)


def test_rank_one_identity() -> None:
    factors = draw_factors(0, 6, 6, 5, 7)
    factors = LayerFactors(
        delta=factors.delta, a=factors.a, owner=torch.arange(6), n_samples=6, bias=True
    )
    packed, lost = compress(factors, rank=1)
    features = features_of(packed, 5, 8)
    cos = torch.nn.functional.normalize
    delta, a = cos(factors.delta, dim=1), cos(factors.inputs, dim=1)
    expected = (delta @ delta.T) * (a @ a.T)
    np.testing.assert_allclose(features.similarity(features), expected, atol=1e-6)
    np.testing.assert_allclose(expected, gram(factors), atol=1e-12)
    assert (lost == 0).all()


@pytest.mark.parametrize("rank", [1, 2, 3])
def test_lost_energy_is_that_of_the_dropped_singular_values(rank: int) -> None:
    factors = draw_factors(3, 3, 15, 6, 7)
    packed, lost = compress(factors, rank)
    for i, G in enumerate(factors.materialise()):
        energy = torch.linalg.svdvals(G).square()
        assert lost[i].item() == pytest.approx(
            (energy[rank:].sum() / energy.sum()).item(), abs=1e-9
        )
        d = packed[i, : rank * 6].view(rank, 6)
        a = packed[i, rank * 6 :].view(rank, 8)
        kept = d.T @ a
        u, s, vh = torch.linalg.svd(G)
        best = (u[:, :rank] * s[:rank]) @ vh[:rank]
        torch.testing.assert_close(kept, best / best.norm(), rtol=1e-8, atol=1e-8)


def test_zero_gradients_give_zero_rows_never_nan() -> None:
    factors = draw_factors(0, 3, 6, 4, 5)
    kept = factors.owner != 1
    some = LayerFactors(
        delta=factors.delta[kept], a=factors.a[kept], owner=factors.owner[kept], n_samples=3,
        bias=True,
    )  # fmt: skip
    packed, lost = compress(some, 2)
    assert (packed[1] == 0).all()
    assert packed.isfinite().all()
    assert lost[1] == 0
    none = LayerFactors(
        delta=factors.delta[:0], a=factors.a[:0], owner=factors.owner[:0], n_samples=3, bias=True
    )
    packed, lost = compress(none, 2)
    assert packed.shape == (3, 2 * (4 + 6))
    assert (packed == 0).all()
    rank_one = LayerFactors(
        delta=torch.zeros(2, 4), a=torch.ones(2, 5), owner=torch.arange(2), n_samples=2, bias=True
    )
    assert (compress(rank_one, 2)[0] == 0).all()


@pytest.mark.parametrize("scale", [1e-30, 1e-12, 1e20])
def test_tiny_and_huge_gradients_keep_their_direction(scale: float) -> None:
    factors = draw_factors(0, 3, 9, 4, 5)
    scaled = LayerFactors(
        delta=(factors.delta * scale).float(), a=factors.a.float(), owner=factors.owner,
        n_samples=3, bias=True,
    )  # fmt: skip
    one = features_of(compress(scaled, 9)[0], 4, 6)
    np.testing.assert_allclose(one.similarity(one), gram(factors), atol=1e-5)


@pytest.mark.parametrize("pooling", ["first", "mean"])
def test_exact_features_of_an_extractor_equal_whole_gradients(pooling: str) -> None:
    from tests.extraction.problems import by_loop, encoder_of

    extractor = extractor_of(objectives=("kl",), sketch="none", sketch_rank=16, pooling=pooling)
    features = extractor(TEXTS)
    assert features.factors == {"kl": (16, 17)}
    gradients = by_loop(
        encoder_of("bert", pooling), extractor._plan.objectives["kl"], TEXTS
    ).flatten(1)
    unit = torch.nn.functional.normalize(gradients, dim=1, eps=1e-300)
    embedding = features.block("embedding")
    expected = unit @ unit.T + torch.tensor(embedding @ embedding.T)
    np.testing.assert_allclose(features.similarity(features), expected, atol=2e-5)


def test_dropped_energy_is_recorded_in_the_notes() -> None:
    coarse = extractor_of(objectives=("kl",), sketch="none", sketch_rank=1)(TRAIN)
    (note,) = coarse.notes
    assert "block 'kl'" in note
    assert "squared norm" in note
    fine = extractor_of(objectives=("kl",), sketch="none", sketch_rank=16)(TRAIN)
    assert fine.notes == ()
