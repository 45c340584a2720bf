"""Image encoders of every family: poolings by hand, gradients, independence, the short block."""

import numpy as np
import pytest
import torch

from fungi_hf.config import KL, Activation, FungiConfig, SimCLR
from fungi_hf.encoders.vision.encoder import VisionEncoder
from fungi_hf.errors import ConfigError, EncoderError
from fungi_hf.extraction.batches import Budget, Sample
from fungi_hf.extraction.group import Group
from fungi_hf.extraction.plan import Plan
from fungi_hf.extractor import FungiExtractor
from fungi_hf.gradients.layers import linear_layers
from fungi_hf.gradients.tape import record, reference_gradient, untouched
from fungi_hf.objectives.base import make_objective
from fungi_hf.seeding import sample_generator
from fungi_hf.testing.vision_models import VISION_FAMILIES

from .kit import POOLINGS, SETTINGS, encoder_of, model_of, pictures

EVERY = [(family, pooling) for family, poolings in POOLINGS.items() for pooling in poolings]
PREFIX = {
    "vit": 1,
    "deit": 2,
    "vit_msn": 1,
    "vit_mae": 1,
    "ijepa": 0,
    "dinov2": 1,
    "dinov2_swiglu": 1,
    "dinov2_with_registers": 4,
    "dinov3_vit": 5,
    "clip": 1,
    "clip_projected": 1,
    "siglip": 0,
    "beit": 1,
    "data2vec": 1,
    "flava": 1,
    "pixio": 3,
    "aimv2": 0,
}


def forward_alone(encoder, family, item):
    """One picture through the model's own forward pass, pooled by hand."""
    model, pixels = encoder.model, encoder.collate([item])["pixel_values"]
    if family == "vit_mae":  # all patches, put back into their order
        model = plain_mae(model)
    out = model(pixel_values=pixels)
    states = out.last_hidden_state
    if encoder.pooling == "projection":
        return out.image_embeds
    if encoder.pooling == "model":
        return out.pooler_output
    if family.startswith("clip"):
        tower = getattr(model, "vision_model", model)
        states = tower.post_layernorm(states)
    if encoder.pooling == "cls":
        return states[:, 0]
    return states[:, PREFIX[family] :].mean(1)


def plain_mae(model):
    """An MAE's own parts, called one by one without masking."""

    def forward(pixel_values):
        embeddings = model.embeddings
        patches = embeddings.patch_embeddings(pixel_values) + embeddings.position_embeddings[:, 1:]
        first = embeddings.cls_token + embeddings.position_embeddings[:, :1]
        states = torch.cat([first.expand(len(patches), -1, -1), patches], 1)
        for block in block_list(model):
            states = block(states)
            states = states[0] if isinstance(states, tuple) else states
        return type("Out", (), {"last_hidden_state": model.layernorm(states)})

    return forward


def block_list(model):
    return max((m for m in model.modules() if isinstance(m, torch.nn.ModuleList)), key=len)


def layers_of(encoder):
    """The last attention projection, a middle one, an MLP layer of the last block."""
    last = encoder.layer_path
    middle = last.replace(".2.", ".1.")
    block = last.partition(".2.")[0] + ".2."
    mlp = [p for p in linear_layers(encoder.model) if p.startswith(block) and "atten" not in p]
    mlp = [p for p in mlp if "attn" not in p and "head" not in p]
    return {"last": last, "middle": middle, "mlp": mlp[-1]}


@pytest.mark.parametrize("family", VISION_FAMILIES)
def test_the_tables_of_the_tests_name_every_family(family):
    encoder = encoder_of(family)
    assert encoder.pooling == POOLINGS[family][0]
    assert encoder.prefix == PREFIX[family]
    assert encoder.grid == (4, 4)
    assert encoder.max_length == 32


@pytest.mark.parametrize(("family", "pooling"), EVERY)
@pytest.mark.parametrize("where", ["last", "middle", "mlp"])
def test_gradients_equal_the_loop_reference(family, pooling, where):
    encoder = encoder_of(family, pooling=pooling)
    if where != "last":
        encoder = encoder_of(family, pooling=pooling, target_layer=layers_of(encoder)[where])
    spec = KL(latent_dim=12) if where == "mlp" else SimCLR(latent_dim=12, n_views=3)
    objective = make_objective(spec, width=encoder.width, seed=3)
    checked = [encoder.check(item, i) for i, item in enumerate(pictures())]
    samples = []
    for i, (picture, original) in enumerate(zip(checked, encoder.prepare(checked), strict=True)):
        views = {}
        if spec.n_views > 1:
            generator = sample_generator(0, "views", picture.content)
            made = encoder.views("auto", spec.n_views, {})(picture, generator)
            made[-1] = made[0]  # a repeated view is encoded once and counts twice
            views = {spec.name: encoder.prepare(made)}
        samples.append(Sample(i, original, views))
    if isinstance(spec, SimCLR):
        bank = torch.randn(6, 2, encoder.width, generator=torch.Generator().manual_seed(0))
        objective.fit(bank.double())
    plan = Plan(encoder=encoder, objectives={spec.name: objective})
    with untouched(encoder.model):
        group = Group(samples, plan, Budget(batch_tokens=90))
        found = group.factors(spec.name)[encoder.layer_path].materialise()
    for sample, G in list(zip(samples, found, strict=True))[:2]:
        items = sample.views.get(spec.name, [sample.original])

        def loss(items=items):
            e = torch.cat([forward_alone(encoder, family, item) for item in items])
            return objective.loss(e[None])[0]

        expected, _ = reference_gradient(encoder.model, encoder.layer, loss)
        assert expected.norm() > 0
        assert (G - expected).norm() <= 1e-10 * expected.norm()


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize(
    "family",
    [
        *("vit", "deit", "vit_msn", "vit_mae", "dinov2", "dinov2_swiglu"),
        *("dinov2_with_registers", "dinov3_vit", "clip", "clip_projected"),
    ],
)
def test_the_short_last_block_is_exact(family, attention):
    encoder = encoder_of(family, attention=attention)
    assert encoder.uses_short_last_block
    assert encoder.reads_first_token
    full = encoder.with_full_last_block()
    items = encoder.prepare([encoder.check(item, 0) for item in pictures()])
    found = []
    for one in (encoder, full):
        batch = one.collate(items)
        with untouched(one.model):
            tape = record(lambda one=one, batch=batch: one.embed(batch), {"x": one.layer})
            gradient = torch.linspace(-1, 1, tape.embeddings.numel()).view_as(tape.embeddings)
            factors = tape.pull_back(gradient.double(), torch.arange(4), 4)["x"]
        found.append((tape.embeddings, factors.materialise()))
        assert len(factors.owner) == 4  # one row a picture, also where the block is whole
    bound = 1e-12 if attention == "sdpa" else 1e-6  # eager attention rounds weights to float32
    for short, whole in zip(*found, strict=True):
        assert (short - whole).norm() <= bound * whole.norm()


@pytest.mark.parametrize("family", ["ijepa", "siglip", "beit", "data2vec", "pixio", "aimv2"])
def test_other_families_keep_their_last_block(family):
    assert not encoder_of(family).uses_short_last_block


@pytest.mark.parametrize("family", VISION_FAMILIES)
def test_features_do_not_depend_on_batch_or_order_and_the_model_is_left_as_it_was(family):
    config = FungiConfig(
        objectives=(KL(latent_dim=8), SimCLR(latent_dim=8, n_views=3, n_negatives=2), Activation()),
        dtype="float32",
    )
    model = model_of(family, torch.float32).train()
    before = {key: value.clone() for key, value in model.state_dict().items()}
    attributes = {key: set(vars(module)) for key, module in model.named_modules()}
    torch.manual_seed(5)
    state = torch.random.get_rng_state()
    extractor = FungiExtractor(VisionEncoder(model, SETTINGS, config), config)
    items = pictures(5)
    extractor.fit(items[:3])
    together = extractor(items).array
    alone = np.concatenate([extractor([item]).array for item in items])
    backwards = extractor(items[::-1], batch_size=2).array[::-1]
    assert np.abs(together - alone).max() < 1e-4
    assert np.abs(together - backwards).max() < 1e-4
    assert np.abs(together[0] - together[1]).max() > 1e-3
    assert torch.equal(torch.random.get_rng_state(), state)
    assert all(module.training for module in model.modules())
    assert all(torch.equal(before[key], value) for key, value in model.state_dict().items())
    for key, module in model.named_modules():
        assert set(vars(module)) == attributes[key]
        assert not module._forward_hooks
    model.eval()


@pytest.mark.parametrize("family", VISION_FAMILIES)
@pytest.mark.parametrize("size", [48, (32, 48)])
def test_positions_follow_another_image_size(family, size):
    if family == "aimv2":
        with pytest.raises(ConfigError, match="takes images of 32 x 32 pixels only"):
            encoder_of(family, image_size=size)
        return
    if family in ("beit", "data2vec") and size != 48:
        pytest.skip("relative biases of grids that are not square are transformers' own matter")
    encoder = encoder_of(family, image_size=size)
    height, width = (size, size) if isinstance(size, int) else size
    assert encoder.grid == (height // 8, width // 8)
    pixels = encoder.collate(encoder.prepare([encoder.check(pictures(1)[0], 0)]))["pixel_values"]
    assert pixels.shape == (1, 3, height, width)
    embedding = encoder.embed({"pixel_values": pixels})
    assert embedding.shape == (1, encoder.width)
    assert embedding.isfinite().all()


def test_tokens_are_the_patches_row_by_row():
    for family in VISION_FAMILIES:
        encoder = encoder_of(family)
        items = encoder.prepare([encoder.check(item, 0) for item in pictures(2)])
        batch = encoder.collate(items)
        with torch.no_grad():
            tokens = encoder.with_full_last_block().embed_tokens(batch)
            assert tokens.shape == (2, 17, encoder.width) or family == "clip_projected"
            assert torch.allclose(tokens[:, 0], encoder.embed(batch), atol=1e-10)


def test_an_mae_sees_all_patches_and_draws_nothing():
    encoder = encoder_of("vit_mae")
    batch = encoder.collate(encoder.prepare([encoder.check(item, 0) for item in pictures(2)]))
    first, second = encoder.embed(batch), encoder.embed(batch)
    assert torch.equal(first, second)
    assert encoder.with_full_last_block()._run(batch).last_hidden_state.shape[1] == 17
    assert encoder.model(**batch).last_hidden_state.shape[1] == 5  # the user's own pass, as ever


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"image_size": 30}, "whole patches of 8 x 8"),
        ({"pooling": "last"}, "choose one of"),
        ({"pooling": "projection"}, "choose one of"),
        ({"max_length": 100}, "images have image_size"),
        ({"target_layer": "nowhere"}, "is not in ViTModel"),
    ],
)
def test_what_does_not_fit_is_refused(fields, words):
    with pytest.raises((ConfigError, ValueError), match=words):
        encoder_of("vit", **fields)


def test_a_model_with_other_tokens_than_its_family_is_refused(monkeypatch):
    model = model_of("vit")
    monkeypatch.setattr(model.config, "model_type", "deit")
    with pytest.raises(EncoderError, match="gave 17 tokens for a blank image"):
        VisionEncoder(model, SETTINGS, FungiConfig(dtype="float64"))
