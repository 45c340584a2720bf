"""InfoNCE of tokens against sums written out, and negatives against a search by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fungi_hf import DenseInfoNCE, FungiConfig
from fungi_hf.errors import ConfigError, NotFittedError, ShapeError, StateError
from fungi_hf.objectives import make_objective
from fungi_hf.objectives.dense import DenseInfoNCEObjective
from fungi_hf.seeding import numpy_generator


def by_loops(objective, rows, negatives):
    """The loss, token by token and pair by pair."""
    weight, bias = objective.head.weight.tolist(), objective.head.bias.tolist()

    def latent(row):
        z = [sum(w * x for w, x in zip(line, row, strict=True)) + b
             for line, b in zip(weight, bias, strict=True)]  # fmt: skip
        length = math.sqrt(sum(x * x for x in z))
        return [x / length for x in z]

    def dot(one, two):
        return sum(x * y for x, y in zip(one, two, strict=True))

    t, t2 = objective.temperature, objective.logsumexp_temperature
    z, other = [latent(row) for row in rows.tolist()], [latent(row) for row in negatives.tolist()]
    total = 0.0
    for v, own in enumerate(z):
        cosines = [dot(own, one) for u, one in enumerate(z) if u != v]
        against = [math.exp(c / t2) for c in cosines]
        against += [math.exp(dot(own, one) / t2) for one in other]
        total += math.log(sum(against)) - sum(cosines) / len(cosines) / t
    return total / len(z)


def neighbours_by_hand(objective, rows, content):
    """The kept negatives, row by row; the draw alone is the package's."""
    support = objective.support.double()
    units = support / support.norm(dim=1, keepdim=True)
    k = min(objective.neighbours, len(support))
    draws = numpy_generator(7, "negatives", objective.name, content).random((len(rows), k))
    found = []
    for row, chances in zip(rows, draws, strict=True):
        nearest = sorted(range(len(units)), key=lambda i: -float(units[i] @ row))[:k]
        table = [(units if objective.published else support)[i] for i in nearest]
        if objective.published:
            flat = torch.cat(table)
            table = [flat[j::k] for j in range(k)]
        found += [one for one, chance in zip(table, chances, strict=True)
                  if chance < objective.keep]  # fmt: skip
    return torch.stack(found) if found else support[:0]


@settings(max_examples=40, deadline=None)
@given(
    n=st.integers(2, 9),
    width=st.integers(2, 7),
    n_support=st.integers(1, 12),
    neighbours=st.integers(1, 4),
    keep=st.sampled_from([0.2, 0.5, 1.0]),
    untempered=st.booleans(),
    published=st.booleans(),
    seed=st.integers(0, 99),
)
def test_loss_and_negatives_equal_loops(
    n, width, n_support, neighbours, keep, untempered, published, seed
) -> None:
    objective = DenseInfoNCEObjective(
        width=width,
        seed=7,
        latent_dim=5,
        temperature=0.3,
        logsumexp_temperature=1.0 if untempered else None,
        neighbours=neighbours,
        keep=keep,
        published=published,
    )
    generator = np.random.default_rng(seed)
    objective.fit(torch.from_numpy(generator.standard_normal((n_support, width))))
    rows = torch.from_numpy(generator.standard_normal((n, width)))
    content = bytes([seed])
    negatives = objective.negatives(rows, content)
    expected = neighbours_by_hand(objective, rows, content)
    assert torch.allclose(negatives, expected, rtol=0, atol=1e-12)
    assert objective.loss(rows, content).item() == pytest.approx(
        by_loops(objective, rows, expected), rel=1e-12, abs=1e-12
    )


def test_published_neighbours_interleave_their_coordinates() -> None:
    """Two neighbours (.6, .8) and (1, 0) become (.6, 1) and (.8, 0)."""
    objective = DenseInfoNCEObjective(width=2, seed=0, keep=1.0, published=True)
    objective.fit(torch.tensor([[3.0, 4.0], [2.0, 0.0], [-1.0, 0.0]]))
    found = objective.negatives(torch.tensor([[0.0, 1.0]]).double(), b"x")
    assert torch.allclose(found.float(), torch.tensor([[0.6, 1.0], [0.8, 0.0]]))
    plain = DenseInfoNCEObjective(width=2, seed=0, keep=1.0)
    plain.fit(torch.tensor([[3.0, 4.0], [2.0, 0.0], [-1.0, 0.0]]))
    found = plain.negatives(torch.tensor([[0.0, 1.0]]).double(), b"x")
    assert torch.equal(found.float(), torch.tensor([[3.0, 4.0], [2.0, 0.0]]))


def test_the_share_that_is_kept() -> None:
    objective = DenseInfoNCEObjective(width=3, seed=0, neighbours=3)
    objective.fit(torch.randn(50, 3, generator=torch.Generator().manual_seed(0)))
    rows = torch.randn(2000, 3, generator=torch.Generator().manual_seed(1)).double()
    found = objective.negatives(rows, b"a")
    assert abs(len(found) / 6000 - 0.5) < 4 * 0.5 / math.sqrt(6000)  # four standard errors
    assert torch.equal(found, objective.negatives(rows, b"a"))
    other = objective.negatives(rows, b"b")
    assert other.shape != found.shape or not torch.equal(other, found)


def test_state_and_its_errors() -> None:
    objective = DenseInfoNCEObjective(width=3, seed=0)
    assert objective.state() == {}
    with pytest.raises(NotFittedError, match=r"no support; call fit"):
        objective.loss(torch.ones(2, 3), b"")
    with pytest.raises(ShapeError, match=r"\[S, D\], not empty; got \[0, 3\]"):
        objective.fit(torch.ones(0, 3))
    with pytest.raises(StateError, match=r"width 3; the stored support is \[4, 5\]"):
        objective.load_state({"support": torch.ones(4, 5)})
    objective.fit(torch.arange(6.0).view(2, 3))
    again = DenseInfoNCEObjective(width=3, seed=0)
    again.load_state(objective.state())
    rows = torch.randn(4, 3).double()
    assert torch.equal(again.loss(rows, b"a"), objective.loss(rows, b"a"))
    assert again.digest() == objective.digest()


def test_the_spec() -> None:
    spec = DenseInfoNCE()
    assert (spec.temperature, spec.n_support, spec.needs_fit) == (0.07, 2000, True)
    config = FungiConfig(objectives=("dense_infonce",))
    assert config.dense
    assert config.needs_fit
    assert FungiConfig.from_json(config.to_json()) == config
    assert make_objective(spec, width=4, seed=1).name == "dense_infonce"


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"neighbours": 0}, "neighbours"),
        ({"neighbours": 3000}, "neighbours"),
        ({"keep": 0}, "keep"),
        ({"keep": 1.5}, "keep"),
        ({"temperature": 0}, "temperature"),
        ({"logsumexp_temperature": -1}, "logsumexp_temperature"),
        ({"n_support": 0}, "n_support"),
        ({"latent_dim": 2.5}, "latent_dim"),
        ({"published": 1}, "published"),
        ({"n_views": 2}, "n_views"),
        ({"late_views": 1}, "late_views"),
    ],
)
def test_refused_fields(fields, message) -> None:
    with pytest.raises(ConfigError, match=message):
        DenseInfoNCE(**fields)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"objectives": ("kl", "dense_infonce")}, "kl has one loss an input"),
        ({"objectives": ("ibot",), "dense": True}, "ibot has one loss an input"),
        ({"objectives": (), "dense": True, "gradient_tokens": "first"}, "gradient_tokens='first'"),
        ({"objectives": (), "dense": "yes"}, "dense"),
        ({"objectives": (DenseInfoNCE(name="tokens"),)}, "not 'tokens'"),
        ({"objectives": (), "dense": True, "embedding_weight": 0}, "nothing to extract"),
    ],
)
def test_refused_configs(fields, message) -> None:
    with pytest.raises(ConfigError, match=message):
        FungiConfig(**fields)
