"""`FungiConfig.paper("text")` equals the published algorithm, given its random objects."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch

from fungi_hf import FungiConfig, FungiExtractor
from fungi_hf.seeding import sample_generator
from fungi_hf.testing import tiny_text_model
from fungi_hf.views.text import PublishedDeletion
from tests.oracles import published_text as published
from tests.tiny import TRAIN

TEXTS = [text for text in TRAIN if len(text.split()) > 2]


def paper(model, tokenizer, dtype: str, **changes) -> FungiExtractor:
    config = FungiConfig.paper("text").replace(dtype=dtype, reduction=None, **changes)
    kl, simclr = config.objectives
    config = config.replace(objectives=(kl, dataclasses.replace(simclr, n_negatives=5)))
    return FungiExtractor.from_pretrained(model, config, tokenizer)


def oracle_blocks(extractor: FungiExtractor, texts: list[str]) -> dict[str, torch.Tensor]:
    """The published steps with the extractor's heads, negatives, views and seed."""
    encoder, objectives = extractor.encoder, extractor._plan.objectives
    backbone = published.Backbone(encoder.model, encoder.tokenizer, encoder.layer)
    heads = {
        name: published.LinearHead(
            *(t.to(next(encoder.model.parameters())) for t in (o.head.weight, o.head.bias))
        )
        for name, o in objectives.items()
    }
    negatives = objectives["simclr"].negatives.to(heads["simclr"].weight)
    deletion = PublishedDeletion(12)
    views = [deletion(t, sample_generator(42, "views/simclr", t.encode())) for t in texts]
    gradients = {
        "kl": published.kl_gradients(backbone, texts, heads["kl"]),
        "simclr": published.simclr_gradients(backbone, views, heads["simclr"], negatives),
    }
    signs = published.sign_matrix(encoder.width, gradients["kl"][0].numel())
    projected = {name: published.project(G, signs.to(G)) for name, G in gradients.items()}
    return {"embedding": published.embeddings(backbone, texts), **projected}


def lowest_cosine(ours: np.ndarray, theirs: torch.Tensor) -> float:
    # In float64 and without an absolute epsilon: KL gradients may be as small as 1e-9.
    rows = theirs.double().numpy()
    rows = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    ours = ours.astype(np.float64)
    ours = ours / np.linalg.norm(ours, axis=1, keepdims=True)
    return float((ours * rows).sum(1).min())


@pytest.mark.parametrize("family", ["bert", "t5", "roberta", "distilbert"])
@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_projected_gradients_equal_the_published_algorithm(family: str, dtype: str) -> None:
    model, tokenizer = tiny_text_model(family, dtype=getattr(torch, dtype))
    extractor = paper(model, tokenizer, dtype).fit(TRAIN)
    features = extractor(TEXTS)
    oracle = oracle_blocks(extractor, TEXTS)
    assert list(features.layout) == ["embedding", "kl", "simclr"] == list(oracle)
    # Head and loss of the oracle are in the model's type; ours in float64 always.
    for name, rows in oracle.items():
        assert lowest_cosine(features.block(name), rows) > 1 - 1e-6, name


@pytest.mark.parametrize(("n_views", "n_negatives"), [(2, 1), (3, 5), (12, 64)])
def test_the_contrastive_loss_of_the_oracle_equals_its_loop(n_views: int, n_negatives: int) -> None:
    generator = torch.Generator().manual_seed(n_views)
    E, negatives, weight, bias = (
        torch.randn(*shape, generator=generator, dtype=torch.float64)
        for shape in ((n_views, 7), (n_negatives, 5), (5, 7), (5,))
    )
    E.requires_grad_(True)
    head = published.LinearHead(weight, bias)
    values, gradients = [], []
    for loss in (published.simclr_loss, published.simclr_loss_by_loop):
        values.append(loss(E, head, negatives))
        gradients.append(torch.autograd.grad(values[-1], E)[0])
    torch.testing.assert_close(*values, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(*gradients, rtol=1e-10, atol=1e-12)


def test_the_oracle_would_notice_each_choice() -> None:
    """Another temperature, seed, view rule, pooling or sketch leaves 1 - 1e-6 clearly."""
    model, tokenizer = tiny_text_model("bert")
    extractor = paper(model, tokenizer, "float64").fit(TRAIN)
    oracle = oracle_blocks(extractor, TEXTS)
    kl, simclr = extractor.config.objectives
    for changes, block in (
        ({"seed": 43}, "kl"),
        ({"published_signs": False}, "kl"),
        ({"pooling": "mean"}, "kl"),
        ({"target_layer": "encoder.layer.1.attention.output.dense"}, "kl"),
        ({"objectives": (kl, dataclasses.replace(simclr, logsumexp_temperature=None))}, "simclr"),
        ({"objectives": (kl, dataclasses.replace(simclr, views="auto"))}, "simclr"),
        ({"objectives": (kl, dataclasses.replace(simclr, n_views=11))}, "simclr"),
        ({"objectives": (kl, dataclasses.replace(simclr, name="other"))}, "other"),
    ):
        other = FungiExtractor.from_pretrained(
            model, extractor.config.replace(**changes), tokenizer
        ).fit(TRAIN)
        rows = oracle["simclr" if block == "other" else block]
        assert lowest_cosine(other(TEXTS).block(block), rows) < 1 - 1e-4, changes


def test_negatives_are_the_head_of_two_views_of_training_texts() -> None:
    model, tokenizer = tiny_text_model("bert")
    extractor = paper(model, tokenizer, "float64").fit(TRAIN)
    objective, encoder = extractor._plan.objectives["simclr"], extractor.encoder
    backbone = published.Backbone(model, tokenizer, encoder.layer)
    head = published.LinearHead(objective.head.weight, objective.head.bias)
    deletion = PublishedDeletion(2)
    views = [deletion(t, sample_generator(42, "views/simclr", t.encode())) for t in TRAIN]
    everyone = published.negative_latents(backbone, views, head)
    everyone = torch.nn.functional.normalize(everyone, dim=1)
    assert objective.negatives.shape == (10, 256)
    nearest = (objective.negatives @ everyone.T).max(1).values
    assert nearest.min() > 1 - 1e-9


@pytest.mark.parametrize("family", ["bert", "t5"])
def test_the_published_gradient_is_that_of_autograd_for_first_token_pooling(family: str) -> None:
    """The oracle itself: token 0 of the last block is the whole gradient; the sum, elsewhere."""
    model, tokenizer = tiny_text_model(family)
    layers = [m for n, m in model.named_modules() if n.endswith(("output.dense", "Attention.o"))]
    layers = [layer for layer in layers if layer.in_features == layer.out_features]
    generator = torch.Generator().manual_seed(0)
    head = published.LinearHead(
        torch.randn(20, 16, generator=generator).double(), torch.zeros(20).double()
    )
    for layer, first_only in ((layers[-1], True), (layers[0], False)):
        backbone = published.Backbone(model, tokenizer, layer)
        for text in TEXTS[:3]:
            G = published.gradients(
                backbone, [text], lambda e: published.kl_loss(e, head), first_token_only=first_only
            )[0]
            wanted = [layer.weight] if layer.bias is None else [layer.weight, layer.bias]
            expected = torch.autograd.grad(published.kl_loss(backbone.embed([text]), head), wanted)
            whole = torch.cat([expected[0], *(b[:, None] for b in expected[1:])], dim=1)
            torch.testing.assert_close(G, whole, rtol=1e-9, atol=1e-15)


def test_rounding_to_bfloat16_is_a_flag() -> None:
    model, tokenizer = tiny_text_model("bert")
    plain = paper(model, tokenizer, "float64").fit(TRAIN)(TEXTS)
    rounded = paper(model, tokenizer, "float64", round_sketch=True).fit(TRAIN)(TEXTS)
    for name in ("kl", "simclr"):
        cosines = (plain.block(name) * rounded.block(name)).sum(1)
        assert (cosines > 1 - 1e-4).all()
        assert not np.array_equal(plain.block(name), rounded.block(name))
    assert np.array_equal(plain.block("embedding"), rounded.block("embedding"))
