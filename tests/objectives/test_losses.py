"""KL and SimCLR against numbers computed by hand, closed forms and finite differences."""

from __future__ import annotations

import itertools
import math

import pytest
import torch

from fungi_hf.config import KL, SimCLR
from fungi_hf.errors import ConfigError, NotFittedError, ShapeError, StateError
from fungi_hf.objectives import KLObjective, SimCLRObjective, make_objective
from fungi_hf.testing import check_objective

WIDTH = 8


def draw(*shape: int, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator, dtype=torch.float64)


def simclr(n_views: int = 3, **options) -> SimCLRObjective:
    objective = SimCLRObjective(width=WIDTH, seed=0, n_views=n_views, latent_dim=5, **options)
    objective.fit(draw(4, 2, WIDTH, seed=9))
    return objective


def gradient(objective, E: torch.Tensor) -> torch.Tensor:
    leaf = E.clone().requires_grad_(True)
    (grad,) = torch.autograd.grad(objective.loss(leaf).sum(), leaf)
    return grad


def cosine(one: torch.Tensor, two: torch.Tensor) -> float:
    return float((one * two).sum() / (one.norm() * two.norm()))


def latents(objective, e: list[float]) -> list[float]:
    rows, shift = objective.head.weight.tolist(), objective.head.bias.tolist()
    return [
        sum(h * x for h, x in zip(row, e, strict=True)) + b
        for row, b in zip(rows, shift, strict=True)
    ]


def unit(vector: list[float]) -> list[float]:
    norm = math.sqrt(sum(x * x for x in vector))
    return [x / norm for x in vector]


def dot(one: list[float], two: list[float]) -> float:
    return sum(x * y for x, y in zip(one, two, strict=True))


def test_kl_equals_plain_python() -> None:
    objective = KLObjective(width=WIDTH, seed=0, temperature=0.5, latent_dim=6)
    E = draw(3, 1, WIDTH)
    for b, loss in enumerate(objective.loss(E).tolist()):
        z = [x / 0.5 for x in latents(objective, unit(E[b, 0].tolist()))]
        total = sum(math.exp(x) for x in z)
        expected = sum((1 / 6) * (math.log(1 / 6) - math.log(math.exp(x) / total)) for x in z)
        assert loss == pytest.approx(expected, rel=1e-12)
        assert loss > 0


def test_kl_by_numbers() -> None:
    """Logits 0 and ln 3 at temperature 1: softmax (1/4, 3/4), divergence ln(2/sqrt 3)."""
    objective = KLObjective(width=2, seed=0, temperature=1.0, latent_dim=2)
    objective.head.weight = torch.tensor([[0.0, 0.0], [math.log(3), 0.0]], dtype=torch.float64)
    objective.head.bias = torch.zeros(2, dtype=torch.float64)
    loss = objective.loss(torch.tensor([[[5.0, 0.0]]], dtype=torch.float64))
    assert loss.item() == pytest.approx(math.log(2 / math.sqrt(3)), rel=1e-12)
    assert loss.item() == pytest.approx(0.14384103622589045, rel=1e-12)


def simclr_by_loop(objective, E: torch.Tensor, t: float, t2: float) -> list[float]:
    negatives = objective.negatives.tolist()
    losses = []
    for sample in E.tolist():
        z = [unit(latents(objective, e)) for e in sample]
        per_view = []
        for v in range(len(z)):
            others = [dot(z[v], z[u]) for u in range(len(z)) if u != v]
            attraction = sum(others) / ((len(z) - 1) * t)
            terms = [math.exp(s / t2) for s in others]
            terms += [math.exp(dot(z[v], n) / t2) for n in negatives]
            per_view.append(math.log(sum(terms)) - attraction)
        losses.append(sum(per_view) / len(per_view))
    return losses


@pytest.mark.parametrize(("t2", "given"), [(0.07, None), (1.0, 1.0), (0.3, 0.3)])
def test_simclr_equals_plain_python(t2: float, given: float | None) -> None:
    objective = simclr(4, logsumexp_temperature=given)
    E = draw(3, 4, WIDTH)
    expected = simclr_by_loop(objective, E, 0.07, t2)
    assert objective.loss(E).tolist() == pytest.approx(expected, rel=1e-12)


def test_simclr_by_numbers() -> None:
    """Two opposite views and one negative at a right angle, both variants."""
    objective = SimCLRObjective(
        width=2, seed=0, n_views=2, temperature=0.5, logsumexp_temperature=1.0, latent_dim=2
    )
    objective.head.weight = torch.eye(2, dtype=torch.float64)
    objective.head.bias = torch.zeros(2, dtype=torch.float64)
    objective.negatives = torch.tensor([[0.0, 1.0]], dtype=torch.float64)
    E = torch.tensor([[[3.0, 0.0], [-2.0, 0.0]]], dtype=torch.float64)
    assert objective.loss(E).item() == pytest.approx(2 + math.log(math.exp(-1) + 1), rel=1e-12)
    objective.logsumexp_temperature = 0.5
    assert objective.loss(E).item() == pytest.approx(2 + math.log(math.exp(-2) + 1), rel=1e-12)


def test_the_variant_changes_the_direction() -> None:
    E = draw(1, 3, WIDTH)
    tempered, untempered = simclr(), simclr(logsumexp_temperature=1.0)
    assert torch.equal(tempered.head.weight, untempered.head.weight)
    assert cosine(gradient(tempered, E), gradient(untempered, E)) < 0.99


def test_kl_direction_is_that_of_half_the_variance_of_the_logits() -> None:
    objective = KLObjective(width=384, seed=0)  # a narrow head's logits are too large for this
    E = draw(1, 1, 384)
    leaf = E.clone().requires_grad_(True)
    logits = objective.head(torch.nn.functional.normalize(leaf[:, 0], dim=-1)) / 15
    (half_variance,) = torch.autograd.grad(logits.var(-1, unbiased=False).sum() / 2, leaf)
    assert cosine(gradient(objective, E), half_variance) > 1 - 1e-5


@pytest.mark.parametrize(
    "objective",
    [
        KLObjective(width=WIDTH, seed=0, temperature=0.5),
        KLObjective(width=WIDTH, seed=0),
        simclr(),
        simclr(logsumexp_temperature=1.0),
    ],
    ids=["kl-0.5", "kl-15", "simclr-tempered", "simclr-untempered"],
)
def test_gradient_equals_finite_differences(objective) -> None:
    E, direction = draw(2, objective.n_views, WIDTH), draw(2, objective.n_views, WIDTH, seed=5)
    step = 1e-5
    difference = (objective.loss(E + step * direction) - objective.loss(E - step * direction)) / (
        2 * step
    )
    slope = (gradient(objective, E) * direction).sum((1, 2))
    # At temperature 15 the loss itself is 1e-6 of log L: cancellation costs those digits.
    limit = 1e-4 if getattr(objective, "temperature", 0) == 15 else 1e-9
    scale = (gradient(objective, E).norm() * direction.norm()).item()
    assert (difference - slope).abs().max().item() < limit * scale


@pytest.mark.parametrize("spec", [KL(latent_dim=16), SimCLR(latent_dim=6, n_views=4)])
def test_contract(spec) -> None:
    check_objective(lambda width, seed: make_objective(spec, width=width, seed=seed))


def test_all_equal_views_are_finite_and_only_the_negatives_pull() -> None:
    objective = simclr()
    E = draw(1, 1, WIDTH).expand(1, 3, WIDTH)
    grad = gradient(objective, E)
    assert grad.isfinite().all()
    assert grad.norm() > 0


def test_zero_embeddings_are_finite() -> None:
    for objective in (KLObjective(width=WIDTH, seed=0), simclr()):
        assert (
            gradient(objective, torch.zeros(1, objective.n_views, WIDTH).double()).isfinite().all()
        )


def test_heads_follow_the_default_linear_distribution_and_their_name() -> None:
    heads = [
        KLObjective(width=64, seed=s, latent_dim=512, name=n).head
        for s, n in itertools.product((0, 1), ("kl", "other"))
    ]
    for head in heads:
        values = torch.cat([head.weight.flatten(), head.bias])
        assert values.abs().max() <= 1 / 8
        assert values.std().item() == pytest.approx(1 / 8 / math.sqrt(3), rel=0.02)
        assert abs(values.mean().item()) < 0.002
    assert len({head.digest() for head in heads}) == 4
    assert heads[0].digest() == KLObjective(width=64, seed=0, latent_dim=512).head.digest()


def test_golden_head() -> None:
    """Another torch may draw other numbers: then saved folders say so, and this test too."""
    head = KLObjective(width=4, seed=42, latent_dim=3).head
    assert head.digest() == "71a2df3448257407"


def test_negatives_are_unit_rows_of_the_heads_latents_and_are_stored() -> None:
    objective = simclr()
    bank = objective.state()["negatives"]
    assert bank.shape == (8, 5)
    assert bank.norm(dim=1).tolist() == pytest.approx([1.0] * 8)
    first = unit(latents(objective, draw(4, 2, WIDTH, seed=9)[0, 0].tolist()))
    assert bank[0].tolist() == pytest.approx(first)
    other = SimCLRObjective(width=WIDTH, seed=0, n_views=3, latent_dim=5)
    other.load_state(objective.state())
    E = draw(2, 3, WIDTH)
    assert torch.equal(other.loss(E), objective.loss(E))


def test_errors() -> None:
    objective = SimCLRObjective(width=WIDTH, seed=0, n_views=3, latent_dim=5)
    with pytest.raises(NotFittedError, match="'simclr' has no negatives"):
        objective.loss(draw(1, 3, WIDTH))
    with pytest.raises(ShapeError, match=r"needs embeddings \[B, 3, D\]; got \[1, 2, 8\]"):
        objective.loss(draw(1, 2, WIDTH))
    with pytest.raises(ShapeError, match=r"needs embeddings \[B, 1, D\]"):
        KLObjective(width=WIDTH, seed=0).loss(draw(3, 2, WIDTH))
    with pytest.raises(ShapeError, match="not empty"):
        objective.fit(draw(0, 2, WIDTH))
    with pytest.raises(StateError, match="width 5; the stored negatives have 7"):
        objective.load_state({"negatives": draw(2, 7)})
    with pytest.raises(ConfigError, match="n_views must be >= 2; got 1"):
        SimCLR(n_views=1)
