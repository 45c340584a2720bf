"""Dense features equal the published algorithm, given head, support, kept neighbours and signs."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch

from fungi_hf import DenseInfoNCE, FungiConfig, FungiExtractor
from fungi_hf.encoders.vision.encoder import VisionEncoder
from fungi_hf.seeding import numpy_generator
from tests.encoders.vision.kit import SETTINGS, model_of, pictures
from tests.oracles.published_dense import dense_blocks
from tests.oracles.published_text import LinearHead, sign_matrix
from tests.test_paper_text import lowest_cosine

IMAGES = pictures(3)
TRAIN = pictures(6, seed=4)


def extractor_of(family, dtype="float64", **spec):
    config = FungiConfig.paper("segmentation")
    (objective,) = config.objectives
    objective = dataclasses.replace(objective, **{"n_support": 40} | spec)
    config = config.replace(objectives=(objective,), dtype=dtype, image_size=None)
    model = model_of(family, getattr(torch, dtype))
    return FungiExtractor(VisionEncoder(model, SETTINGS, config), config).fit(TRAIN)


def oracle_of(extractor, image):
    encoder, (spec,) = extractor.encoder, extractor.config.objectives
    objective = extractor._plan.objectives["dense_infonce"]
    raw = encoder.check(image, 0)
    pixels = encoder.collate(encoder.prepare([raw]))["pixel_values"][0]
    n_rows = 1 + encoder.grid[0] * encoder.grid[1]
    draws = numpy_generator(42, "negatives", "dense_infonce", raw.content)
    kept = torch.from_numpy(draws.random((n_rows, spec.neighbours)) < spec.keep)
    dtype = pixels.dtype
    n_numbers = encoder.layer.weight.numel() + encoder.layer.bias.numel()
    return dense_blocks(
        encoder.model,
        encoder.layer,
        pixels,
        LinearHead(objective.head.weight.to(dtype), objective.head.bias.to(dtype)),
        objective.support.to(dtype),
        kept,
        sign_matrix(encoder.width, n_numbers).to(dtype),
        temperature=spec.temperature,
        logsumexp=spec.logsumexp_temperature or spec.temperature,
        quirks=spec.published,
        prefix=encoder.prefix,
    )


@pytest.mark.parametrize("published", [False, True], ids=["correct", "quirky"])
@pytest.mark.parametrize(
    ("family", "dtype"), [("vit", "float64"), ("vit", "float32"), ("dinov2", "float64"),
                          ("dinov2_with_registers", "float64")]
)  # fmt: skip
def test_dense_features_equal_the_published_algorithm(family, dtype, published) -> None:
    extractor = extractor_of(family, dtype, published=published)
    for features, image in zip(extractor.dense(IMAGES), IMAGES, strict=True):
        tokens, gradients = oracle_of(extractor, image)
        assert lowest_cosine(features.block("tokens"), tokens) > 1 - 1e-6
        assert lowest_cosine(features.block("dense_infonce"), gradients) > 1 - 1e-6
        whole = torch.cat([tokens, gradients], dim=1).float().numpy() / np.sqrt(2)
        assert np.abs(features.array - whole).max() < (2e-3 if dtype == "float32" else 1e-5)


def test_the_oracle_would_notice_each_choice() -> None:
    image = IMAGES[0]
    extractor = extractor_of("vit")
    _, gradients = oracle_of(extractor, image)
    for changed in (
        {"published": False},
        {"temperature": 0.1},
        {"logsumexp_temperature": None},
        {"neighbours": 3},
        {"keep": 1.0},
        {"name": "other"},
    ):
        (features,) = extractor_of("vit", **changed).dense([image])
        block = features.block(changed.get("name", "dense_infonce"))
        assert lowest_cosine(block, gradients) < 1 - 1e-5, changed


def test_the_preset() -> None:
    config = FungiConfig.paper("segmentation")
    assert config.objectives == (DenseInfoNCE(logsumexp_temperature=1.0, published=True),)
    assert config.dense
    assert (config.image_size, config.pooling, config.sketch) == (512, "cls", "rademacher")
    assert config.published_signs
    assert config.reduction is None
