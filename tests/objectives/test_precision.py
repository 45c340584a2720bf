"""Losses in float32, as on a GPU, have the gradients of float64."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from fungi_hf import DINO, IBOT, DeepCluster, DenseInfoNCE, SimCLR
from fungi_hf.config import KL
from fungi_hf.extraction.group import exact_leaf
from fungi_hf.objectives.base import make_objective
from fungi_hf.testing import tiny_text_model
from tests.tiny import TRAIN

SPECS = [KL(), SimCLR(n_views=6, n_negatives=32), DINO(), IBOT()]


def embeddings_of(kind, n, n_views):
    """Recorded embeddings of a tiny model, or rows with a large common part, as encoders give."""
    if kind == "model":
        model, tokenizer = tiny_text_model("bert", dtype=torch.float32)
        batch = tokenizer(TRAIN, padding=True, return_tensors="pt")
        batch.pop("token_type_ids", None)
        with torch.no_grad():
            rows = model(**batch).last_hidden_state[:, 0]
        return rows.repeat(n * n_views // len(rows) + 1, 1)[: n * n_views].view(n, n_views, -1)
    generator = np.random.default_rng(0)
    common = generator.normal(size=(1, 1, 384))
    rows = 0.3 * common + 0.1 * generator.normal(size=(n, n_views, 384))
    return torch.from_numpy(rows).float()


def gradient(objective, leaf):
    return torch.autograd.grad(objective.loss(leaf).sum(), leaf)[0].double().flatten(1)


@pytest.mark.parametrize("kind", ["model", "common"])
@pytest.mark.parametrize("spec", SPECS, ids=lambda spec: spec.name)
def test_float32_is_enough_where_an_objective_says_so(spec, kind):
    e = embeddings_of(kind, 24, spec.n_views)
    if kind == "model":  # distinct views
        e = e + 0.05 * torch.randn(e.shape, generator=torch.Generator().manual_seed(0))
    objective = make_objective(spec, width=e.shape[-1], seed=0)
    if spec.needs_fit:
        objective.fit(e[:, :2].double())
    assert objective.needs_float64 is False
    wide = gradient(objective, e.double().requires_grad_())
    narrow = gradient(objective, e.clone().requires_grad_())
    assert torch.cosine_similarity(wide, narrow).min() > 1 - 1e-6


def test_the_dense_loss_needs_no_more():
    objective = make_objective(DenseInfoNCE(), width=384, seed=0)
    rows = embeddings_of("common", 2, 40)
    objective.fit(rows[1])
    assert objective.needs_float64 is False
    found = []
    for leaf in (rows[0].double().requires_grad_(), rows[0].clone().requires_grad_()):
        loss = objective.loss(leaf, b"content")
        found.append(torch.autograd.grad(loss, leaf)[0].double())
    assert torch.cosine_similarity(*found).min() > 1 - 1e-6


def test_the_divergence_is_that_of_the_formula():
    """Value and gradient of KL(u || softmax z) equal the sum as it is written."""
    spec = KL(latent_dim=50)
    objective = make_objective(spec, width=30, seed=0)
    e = torch.randn(7, 1, 30, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    leaf = e.clone().requires_grad_()
    found = objective.loss(leaf)
    (gradient,) = torch.autograd.grad(found.sum(), leaf)
    plain = e.clone().requires_grad_()
    z = objective.head(torch.nn.functional.normalize(plain[:, 0], dim=-1)) / spec.temperature
    p = z.softmax(-1)
    wanted = ((1 / 50) * ((1 / 50) / p).log()).sum(-1)
    (slow,) = torch.autograd.grad(wanted.sum(), plain)
    assert torch.allclose(found, wanted, rtol=1e-7, atol=1e-15)
    assert torch.allclose(gradient, slow, rtol=1e-6, atol=1e-12 * float(slow.abs().max()) + 1e-15)


def test_where_float32_is_taken():
    here = torch.zeros(2, 3)
    there = torch.zeros(2, 3, device="meta")
    kl, clusters = (
        make_objective(spec, width=3, seed=0) for spec in (KL(), DeepCluster(prototypes=(2,)))
    )
    assert exact_leaf(here, kl).dtype == torch.float64
    assert exact_leaf(there, kl).dtype == torch.float32
    assert exact_leaf(there, clusters).dtype == torch.float64  # ties of its targets need it
    assert exact_leaf(there, object()).dtype == torch.float64  # an own objective says nothing
