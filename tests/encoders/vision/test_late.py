"""Late views of images: a rectangle of patches, or patches at random, in the last blocks."""

import inspect
import random

import numpy as np
import pytest
import torch

from fungi_hf.config import FungiConfig, SimCLR
from fungi_hf.encoders.vision.encoder import VisionEncoder
from fungi_hf.errors import ConfigError
from fungi_hf.extraction.batches import Budget, Sample
from fungi_hf.extraction.group import Group
from fungi_hf.extraction.plan import Plan
from fungi_hf.extractor import FungiExtractor
from fungi_hf.gradients.tape import reference_gradient, untouched
from fungi_hf.objectives.simclr import SimCLRObjective

from .kit import SETTINGS, encoder_of, model_of, pictures
from .test_encoder import PREFIX, block_list

FAMILIES = (
    *("vit", "deit", "vit_msn", "vit_mae", "ijepa", "dinov2", "dinov2_with_registers", "clip"),
    "flava",
)


def takes_masks(family):
    """Whether blocks take a mask: those of DINOv2 in transformers 5.15 do not."""
    block = block_list(model_of(family))[-1]
    return len(inspect.signature(block.forward).parameters) > 1


MASKED = [family for family in FAMILIES if takes_masks(family)]
FINAL = {"clip": "post_layernorm"}


def drawn(encoder, name, k, n_views=3):
    raws = [encoder.check(item, i) for i, item in enumerate(pictures(3))]
    originals = encoder.prepare(raws)
    views = encoder.late_views(name, n_views, {}, k)
    found = views(raws, originals, [random.Random(i) for i in range(len(raws))])
    return [
        Sample(i, original, {"simclr": of_picture})
        for i, (original, of_picture) in enumerate(zip(originals, found, strict=True))
    ]


def by_hand(encoder, family, sample, k):
    """Blocks called one by one on what stays of one picture, one view at a time: [V, D]."""
    blocks = list(block_list(encoder.model))
    noted = []
    hook = blocks[-k].register_forward_pre_hook(
        lambda _, args, kwargs: noted.append(
            (args[0] if args else kwargs["hidden_states"]).detach()
        ),
        with_kwargs=True,
    )
    encoder.embed(encoder.collate([sample.original]))
    hook.remove()
    rows = []
    for view in sample.views["simclr"]:
        kept = view.data if view.late else np.arange(noted[0].shape[1])
        hidden = noted[0][:, kept]
        for block in blocks[-k:]:
            hidden = block(hidden, None)
            hidden = hidden[0] if isinstance(hidden, tuple) else hidden
        hidden = getattr(encoder.model, FINAL.get(family, "layernorm"))(hidden)[0]
        patches = torch.from_numpy(kept >= PREFIX[family])
        rows.append(hidden[0] if encoder.pooling == "cls" else hidden[patches].mean(0))
    return torch.stack(rows)


@pytest.mark.parametrize("name", ["box", "token_drop"])
@pytest.mark.parametrize("k", [1, 2, 3])
@pytest.mark.parametrize(
    ("family", "pooling"),
    [(f, p) for f in MASKED for p in ("cls", "mean") if (f, p) != ("ijepa", "cls")],
)
def test_gradients_equal_blocks_called_by_hand(family, pooling, k, name):
    encoder = encoder_of(family, pooling=pooling)
    samples = drawn(encoder, name, k)
    objective = SimCLRObjective(width=16, seed=3, n_views=3, latent_dim=12)
    objective.fit(torch.randn(6, 2, 16, generator=torch.Generator().manual_seed(0)).double())
    plan = Plan(encoder=encoder, objectives={"simclr": objective})
    with untouched(encoder.model):
        group = Group(samples, plan, Budget(batch_tokens=60))
        found = group.factors("simclr")[encoder.layer_path].materialise()
        embeddings = group.view_embeddings("simclr")
    for sample, G, rows in zip(samples, found, embeddings, strict=True):
        assert torch.allclose(rows, by_hand(encoder, family, sample, k), atol=1e-10)

        def loss(sample=sample):
            return objective.loss(by_hand(encoder, family, sample, k)[None])[0]

        if k == 1:
            expected, _ = reference_gradient(encoder.model, encoder.layer, loss)
            assert (G - expected).norm() <= 1e-10 * expected.norm()


def test_a_box_through_all_blocks_is_the_computation_on_a_part_of_the_patches():
    """With k = L the hidden state is the patch embedding with its positions."""
    encoder = encoder_of("vit", pooling="cls").with_full_last_block()
    (sample, *_) = drawn(encoder, "box", 3, n_views=6)
    model, pixels = encoder.model, encoder.collate([sample.original])["pixel_values"]
    view = next(view for view in sample.views["simclr"] if view.late)
    states = model.embeddings(pixels)[:, view.data]
    for block in block_list(model):
        states = block(states)
    expected = model.layernorm(states)[:, 0]
    assert torch.allclose(
        expected,
        by_hand(encoder, "vit", Sample(0, sample.original, {"simclr": [view]}), 3),
        atol=1e-12,
    )


@pytest.mark.skipif("dinov2" not in MASKED, reason="blocks of this version take no masks")
def test_boxes_are_rectangles_of_the_grid_and_keep_the_prefix():
    encoder = encoder_of("dinov2_with_registers", image_size=(48, 96))
    for sample in drawn(encoder, "box", 1, n_views=40):
        for view in sample.views["simclr"]:
            if view.late is None:
                continue
            assert list(view.data[:4]) == [0, 1, 2, 3]
            rows, columns = np.divmod(view.data[4:] - 4, 12)
            expected = np.array(
                [
                    (r, c)
                    for r in range(rows.min(), rows.max() + 1)
                    for c in range(columns.min(), columns.max() + 1)
                ]
            )
            assert np.array_equal(np.stack([rows, columns], 1), expected)


@pytest.mark.skipif("dinov2" in MASKED, reason="blocks of this version take masks")
def test_blocks_without_a_mask_are_refused():
    with pytest.raises(ConfigError, match="takes no mask"):
        encoder_of("dinov2").late_views("box", 3, {}, 1)


@pytest.mark.parametrize("family", [f for f in ("vit", "dinov2") if f in MASKED])
def test_features_of_late_views_do_not_depend_on_the_batch(family):
    spec = SimCLR(n_views=4, n_negatives=3, late_views=1, latent_dim=8)
    config = FungiConfig(objectives=("kl", spec), dtype="float32")
    extractor = FungiExtractor(
        VisionEncoder(model_of(family, torch.float32), SETTINGS, config), config
    )
    items = pictures(5)
    extractor.fit(items)
    together = extractor(items).array
    alone = np.concatenate([extractor([item]).array for item in items])
    assert np.abs(together - alone).max() < 1e-4


@pytest.mark.parametrize(
    ("family", "fields", "name", "options", "words"),
    [
        ("dinov3_vit", {}, "box", {}, "does not allow; set late_views=None"),
        ("siglip", {}, "box", {}, "does not allow"),
        ("vit", {"pooling": "model"}, "box", {}, "does not allow"),
        ("vit", {}, "crop", {}, "views must be 'box', 'token_drop' or 'auto'"),
        ("vit", {}, "box", {"scale": 2}, "pair"),
        ("vit", {}, "box", {"scale": (0.5, 0.1)}, "pair"),
        ("vit", {}, "box", {"area": 1}, "no option"),
    ],
)
def test_what_is_not_allowed_is_named(family, fields, name, options, words):
    with pytest.raises(ConfigError, match=words):
        encoder_of(family, **fields).late_views(name, 3, options, 1)
