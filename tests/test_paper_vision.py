"""`FungiConfig.paper("vision")` and `paper("fungivision")` equal the published algorithm.

Given are heads, negatives, centroids, boxes and signs; everything else is the oracle's own.
"""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch

from fungi_hf import DeepCluster, FungiConfig, FungiExtractor
from fungi_hf.encoders.vision.encoder import VisionEncoder
from fungi_hf.errors import ConfigError
from fungi_hf.seeding import sample_generator
from tests.encoders.vision.kit import SETTINGS, model_of, pictures
from tests.oracles import published_text, published_vision
from tests.test_paper_text import lowest_cosine

IMAGES = pictures(3)
TRAIN = pictures(9, seed=4)
CLUSTERS = DeepCluster(views="deepcluster", prototypes=(5, 4, 6))


def extractor_of(family, preset="vision", dtype="float64", **changes):
    """The preset on a tiny model, with fewer negatives and no PCA, and DeepCluster beside it."""
    config = FungiConfig.paper(preset)
    kl, dino, simclr = config.objectives
    simclr = dataclasses.replace(simclr, n_negatives=4, negative_views=9)
    clusters = dataclasses.replace(CLUSTERS, view_options={"statistics": "deepcluster"})
    fields = {"objectives": (kl, dino, simclr, clusters), "reduction": None, "dtype": dtype}
    config = config.replace(**fields | changes)
    model = model_of(family, getattr(torch, dtype))
    return FungiExtractor(VisionEncoder(model, SETTINGS, config), config).fit(TRAIN)


def views_of(extractor, spec, image):
    """The package's boxes of one picture, cut by the oracle with pillow."""
    encoder = extractor.encoder
    raw = encoder.check(image, 0)
    name, options = spec.view_generator
    generator = sample_generator(42, f"views/{spec.kind}", raw.content)
    made = encoder.views(name, spec.n_views, options)(raw, generator)
    if spec.kind == "deepcluster":
        statistics = (0.485, 0.456, 0.406), (0.228, 0.224, 0.225)
    else:
        statistics = published_vision.IMAGENET
    return torch.stack(
        [
            published_vision.view_pixels(
                image,
                (view.draw.top, view.draw.left, view.draw.height, view.draw.width),
                size=32,
                resample="bilinear" if spec.kind == "deepcluster" else "bicubic",
                statistics=statistics,
                frame=224 if spec.kind == "simclr" else 0,
            )
            for view in made
        ]
    )


def originals(extractor, images):
    raws = [extractor.encoder.check(image, i) for i, image in enumerate(images)]
    return extractor.encoder.collate(extractor.encoder.prepare(raws))["pixel_values"]


def oracle_blocks(extractor, images):
    encoder, objectives = extractor.encoder, extractor._plan.objectives
    norm = getattr(encoder.model, "post_layernorm", None)

    def read(out):
        return out.last_hidden_state[:, 0] if norm is None else norm(out.last_hidden_state[:, 0])

    backbone = published_vision.Backbone(encoder.model, encoder.layer, read)
    dtype = next(encoder.model.parameters()).dtype

    def linear(head):
        return published_text.LinearHead(head.weight.to(dtype), head.bias.to(dtype))

    kl, dino, simclr, clusters = extractor.config.objectives
    teacher = objectives["dino"].heads
    losses = {
        dino: lambda e: published_vision.dino_loss(
            e, linear(teacher._student), linear(teacher._teacher)
        ),
        simclr: lambda e: published_vision.simclr_loss(
            e,
            linear(objectives["simclr"].head),
            objectives["simclr"].negatives.to(dtype),
            simclr.temperature,
            simclr.logsumexp_temperature or simclr.temperature,
        ),
        clusters: lambda e: published_vision.deepcluster_loss(
            e,
            objectives["deepcluster"].weight.to(dtype),
            [one.to(dtype) for one in objectives["deepcluster"].centroids],
        ),
    }
    pixels = originals(extractor, images)
    found = {
        "kl": published_vision.kl_gradients(
            backbone, pixels, linear(objectives["kl"].head), kl.temperature
        )
    }
    for spec, loss in losses.items():
        views = torch.stack([views_of(extractor, spec, image) for image in images]).to(dtype)
        found[spec.name] = published_vision.view_gradients(backbone, views, loss)
    signs = published_text.sign_matrix(encoder.width, found["kl"][0].numel())
    rows = {name: published_text.project(G, signs.to(G)) for name, G in found.items()}
    if extractor.config.embedding_weight:
        rows["embedding"] = published_text.embeddings(backbone, pixels)
    return rows


@pytest.mark.parametrize("preset", ["vision", "fungivision"])
@pytest.mark.parametrize(
    ("family", "dtype"), [("vit", "float64"), ("vit", "float32"), ("dinov2", "float64"),
                          ("clip", "float64")]
)  # fmt: skip
def test_projected_gradients_equal_the_published_algorithm(family, dtype, preset) -> None:
    extractor = extractor_of(family, preset, dtype)
    features = extractor(IMAGES)
    oracle = oracle_blocks(extractor, IMAGES)
    assert set(features.layout) == set(oracle)
    for name, rows in oracle.items():
        assert lowest_cosine(features.block(name), rows) > 1 - 1e-6, name


def test_the_oracle_would_notice_each_choice() -> None:
    """Other temperatures, views, statistics, heads or signs leave 1 - 1e-6 clearly."""
    extractor = extractor_of("vit")
    oracle = oracle_blocks(extractor, IMAGES)
    kl, dino, simclr, clusters = extractor.config.objectives
    for changed, block in (
        (dataclasses.replace(dino, temperature=0.2), "dino"),
        (dataclasses.replace(dino, view_options={}), "dino"),
        (dataclasses.replace(dino, shared_heads=True), "dino"),
        (dataclasses.replace(dino, n_global=1), "dino"),
        (dataclasses.replace(simclr, logsumexp_temperature=1.0), "simclr"),
        (dataclasses.replace(simclr, n_views=36), "simclr"),
        (dataclasses.replace(clusters, view_options={}), "deepcluster"),
        (dataclasses.replace(clusters, views="multi_crop"), "deepcluster"),
        (dataclasses.replace(clusters, iterations=1), "deepcluster"),
    ):
        specs = tuple(changed if one.name == block else one for one in (kl, dino, simclr, clusters))
        other = extractor_of("vit", objectives=specs)
        assert lowest_cosine(other(IMAGES).block(block), oracle[block]) < 1 - 1e-4, changed
    for fields, block in (({"seed": 43}, "kl"), ({"published_signs": False}, "dino")):
        other = extractor_of("vit", **fields)
        assert lowest_cosine(other(IMAGES).block(block), oracle[block]) < 1 - 1e-4, fields


def test_the_presets_have_the_published_numbers() -> None:
    vision, library = FungiConfig.paper("vision"), FungiConfig.paper("fungivision")
    assert [spec.name for spec in vision.objectives] == ["kl", "dino", "simclr"]
    kl, dino, simclr = vision.objectives
    assert (kl.temperature, kl.latent_dim) == (15, 768)
    assert (dino.n_views, dino.n_global, dino.latent_dim) == (12, 2, 2048)
    assert (dino.temperature, dino.teacher_temperature) == (0.1, 0.07)
    assert (simclr.views, simclr.n_views, simclr.latent_dim) == ("patchify", 49, 96)
    assert (simclr.temperature, simclr.logsumexp_temperature) == (0.07, None)
    assert (simclr.n_negatives, simclr.negative_views) == (256, 49)
    for spec in (dino, simclr):
        assert spec.view_options == {"statistics": "imagenet"}
    assert (vision.sketch, vision.published_signs, vision.pooling) == ("rademacher", True, "cls")
    assert (vision.reduction.n_components, vision.reduction.normalize) == (512, False)
    kl, _, simclr = library.objectives
    assert (kl.temperature, library.embedding_weight, library.reduction) == (1, 0, None)
    assert (simclr.logsumexp_temperature, simclr.n_negatives) == (1, 64)
    with pytest.raises(ConfigError, match="preset for 'visoin'; choose one of 'vision'"):
        FungiConfig.paper("visoin")


def test_patchify_covers_what_the_published_windows_cover() -> None:
    extractor = extractor_of("vit")
    raw = extractor.encoder.check(IMAGES[0], 0)
    views = extractor.encoder.views("patchify", 49, {})(raw, None)
    corners = [(view.draw.top, view.draw.left) for view in views]
    assert corners == [(r, c) for r in range(0, 109, 18) for c in range(0, 109, 18)]
    assert {(v.draw.height, v.draw.width, v.draw.frame) for v in views} == {(112, 112, 224)}
    assert np.all([v.draw.resample == "bicubic" for v in views])
