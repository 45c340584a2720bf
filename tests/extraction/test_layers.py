"""Objectives at named layers: each block is that of an extractor with that target layer."""

from __future__ import annotations

import dataclasses
import re
from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from fungi_hf import (
    DINO,
    KL,
    Activation,
    Custom,
    DeepCluster,
    FungiConfig,
    FungiExtractor,
    SimCLR,
    register_objective,
)
from fungi_hf.errors import ConfigError, LayerNotFoundError, LayerUseError
from fungi_hf.evaluation.knn import KNNProtocol
from fungi_hf.extraction.group import Group
from fungi_hf.gradients.tape import untouched
from fungi_hf.objectives import KLObjective
from fungi_hf.specs import layer_label
from tests.extraction.problems import LAYERS, MIDDLE, MLP, by_loop, encoder_of, worst
from tests.extraction.problems import TEXTS as LONGER
from tests.tiny import ROUNDING, TEXTS, TRAIN, extractor_of, saved_model

LAST = "encoder.layer.2.attention.output.dense"
LOW = "encoder.layer.0.intermediate.dense"
WIDE = "encoder.layer.1.output.dense"
NAMES = {LAST: "2_attention_output", LOW: "0_intermediate", WIDE: "1_output"}
THREE = ("auto", LOW, WIDE)
SIMCLR = SimCLR(n_views=3, latent_dim=8, n_negatives=6)
EVERY = {
    "kl": KL(latent_dim=24),
    "simclr": SIMCLR,
    "dino": DINO(n_views=3, latent_dim=8),
    "deepcluster": DeepCluster(n_views=3, prototypes=(3, 3), latent_dim=8),
}
CLOSE = {"rtol": 0, "atol": 2e-6}


def at(spec, layer):
    return dataclasses.replace(spec, layer=layer)


def close(found, wanted):
    np.testing.assert_allclose(found, wanted, **CLOSE)


@pytest.mark.parametrize("pooling", ["cls", "mean"])
@pytest.mark.parametrize("name", EVERY)
def test_every_objective_at_every_layer(name, pooling):
    many = extractor_of(objectives=(at(EVERY[name], THREE),), pooling=pooling).fit(TRAIN)
    found = many(TEXTS)
    blocks = [name, f"{name}_0_intermediate", f"{name}_1_output"]
    assert list(found.layout) == ["embedding", *blocks]
    for block, path in zip(blocks, THREE, strict=True):
        alone = extractor_of(objectives=(EVERY[name],), pooling=pooling, target_layer=path)
        wanted = alone.fit(TRAIN)(TEXTS)
        close(found.block(block), wanted.block(name))
        close(found.block("embedding"), wanted.block("embedding"))
    for one, other in pairwise(blocks):  # not the same thing thrice
        assert np.abs(found.block(one) - found.block(other)).max() > 0.1


@pytest.mark.parametrize("family", MIDDLE)
def test_exact_gradients_of_several_layers_equal_the_loop(family):
    layers = [LAYERS[place][family] for place in ("middle", "mlp")]
    encoder = encoder_of(family, "mean")
    config = FungiConfig(
        objectives=(KL(latent_dim=24, layer=("auto", *layers)),), dtype="float64", sketch="none"
    )
    extractor = FungiExtractor(encoder, config)
    plan, samples = extractor._plan, extractor._reader.samples(LONGER)
    with untouched(encoder.model):
        found = Group(samples, plan, extractor.budget).factors("kl")
    assert list(found) == [encoder.layer_path, *layers]
    for path, factors in found.items():
        single = encoder_of(family, "mean", path)
        wanted = by_loop(single, KLObjective(width=single.width, seed=42, latent_dim=24), LONGER)
        bound = 1e-6 if family in ("t5", "mt5", "modernbert") else 1e-10
        assert worst(factors.materialise(), wanted) < bound


@pytest.mark.parametrize("sketch", ["khatri_rao", "rademacher", "gaussian", "sparse", "none"])
def test_every_sketch(sketch):
    settings = {"sketch": sketch, "pooling": "cls", "sketch_rank": 3}
    found = extractor_of(objectives=(KL(layer=THREE),), **settings)(TEXTS)
    assert set(found.factors) == (set(found.layout) - {"embedding"} if sketch == "none" else set())
    for block, path in zip(("kl", "kl_0_intermediate", "kl_1_output"), THREE, strict=True):
        alone = extractor_of(objectives=(KL(),), target_layer=path, **settings)(TEXTS)
        close(found.block(block), alone.block("kl"))
        if sketch == "none":
            assert found.factors[block] == alone.factors["kl"]
    if sketch == "none":
        parts = []
        for number, path in enumerate(THREE):
            single = settings | {"embedding_weight": 0 if number else 1, "target_layer": path}
            parts.append(extractor_of(objectives=(KL(),), **single)(TEXTS))
        close(found.similarity(found), sum(part.similarity(part) for part in parts))


@pytest.mark.parametrize("k", [1, 2])
@pytest.mark.parametrize("pooling", ["cls", "mean"])
def test_late_views_reach_the_layers_that_they_run_through(pooling, k):
    inside = (LAST, "encoder.layer.2.attention.self.query", WIDE)[: 2 if k == 1 else 3]
    late = dataclasses.replace(SIMCLR, late_views=k)
    objectives = (at(late, inside), KL(layer=("auto", LOW)))
    found = extractor_of(objectives=objectives, pooling=pooling).fit(TRAIN)(TEXTS)
    for path in inside:
        alone = extractor_of(objectives=(late,), pooling=pooling, target_layer=path)
        close(found.block(f"simclr_{layer_label(path)}"), alone.fit(TRAIN)(TEXTS).block("simclr"))
    low = extractor_of(objectives=(KL(),), pooling=pooling, target_layer=LOW)(TEXTS)
    close(found.block("kl_0_intermediate"), low.block("kl"))


def test_late_views_above_a_layer_are_refused():
    late = dataclasses.replace(SIMCLR, late_views=1, layer=("auto", WIDE))
    message = (
        f"layer '{WIDE}' lies below block 2, where views with late_views=1 begin, so they have no "
        "gradient there; choose a layer of the last 1 of 3 blocks, or late_views=2 or more"
    )
    with pytest.raises(ConfigError, match="^" + re.escape(message)):
        extractor_of(objectives=(late,))


def test_one_pass_forward_and_one_back(monkeypatch):
    def passes(layer):
        extractor = extractor_of(objectives=(KL(layer=layer),), pooling="mean")
        calls = {"forward": 0, "back": 0}
        hook = extractor.encoder.model.register_forward_hook(
            lambda *_: calls.update(forward=calls["forward"] + 1)
        )
        grad = torch.autograd.grad

        def counted(*args, **options):
            calls["back"] += 1
            return grad(*args, **options)

        with monkeypatch.context() as patch:
            patch.setattr(torch.autograd, "grad", counted)
            extractor(TEXTS)
        hook.remove()
        return calls

    one = passes(None)
    assert passes(THREE) == one == {"forward": 1, "back": 2}  # the loss, and the encoder


def test_objectives_of_one_name_are_one_loss():
    apart = (KL(weight=0.5), SIMCLR, KL(layer=LOW, weight=2.0), at(SIMCLR, WIDE))
    extractor = extractor_of(objectives=apart).fit(TRAIN)
    found = extractor(TEXTS)
    assert list(extractor._plan.objectives) == ["kl", "simclr"]
    assert list(extractor.state.objectives) == ["simclr"]
    blocks = ["kl", "simclr", "kl_0_intermediate", "simclr_1_output"]
    assert list(found.layout) == ["embedding", *blocks]
    together = extractor_of(objectives=(KL(layer=("auto", LOW)), at(SIMCLR, ("auto", WIDE))))
    wanted = together.fit(TRAIN)(TEXTS)
    for block, weight in [("kl", 0.5), ("simclr", 1.0), ("kl_0_intermediate", 2.0)]:
        close(found.block(block), weight * wanted.block(block))
    close(found.block("simclr_1_output"), wanted.block("simclr_1_output"))


def test_a_name_keys_the_head_and_begins_the_block():
    objectives = (KL(layer=LOW), KL(layer=LOW, name="other"))
    found = extractor_of(objectives=objectives)(TEXTS)
    assert list(found.layout)[1:] == ["kl_0_intermediate", "other_0_intermediate"]
    named = extractor_of(objectives=(KL(name="other"),), target_layer=LOW)(TEXTS)
    close(found.block("other_0_intermediate"), named.block("other"))
    first, second = (found.block(name) for name in list(found.layout)[1:])
    assert np.abs(first - second).max() > 1e-2  # heads of their own


def test_a_custom_objective_takes_a_layer():
    class Mine(KLObjective):
        def __init__(self, *, width: int, seed: int) -> None:
            super().__init__(width=width, seed=seed, latent_dim=24, name="kl")

    register_objective("mine_of_layers", Mine)
    spec = Custom(objective="mine_of_layers", layer=(LOW, "auto"))
    found = extractor_of(objectives=(spec,))(TEXTS)
    wanted = extractor_of(objectives=(KL(latent_dim=24, layer=(LOW, "auto")),))(TEXTS)
    assert list(found.layout)[1:] == ["mine_of_layers_0_intermediate", "mine_of_layers"]
    close(found.array, wanted.array)


@pytest.mark.parametrize("pooling", ["cls", "mean"])
def test_it_is_a_function_of_the_input(pooling):
    extractor = extractor_of(objectives=(at(SIMCLR, THREE), KL(layer=THREE)), pooling=pooling)
    whole = extractor.fit(TRAIN)(TEXTS).array
    for order in (range(len(TEXTS))[::-1], [3], [0, 5]):
        some = extractor([TEXTS[i] for i in order], batch_size=2).array
        np.testing.assert_allclose(some, whole[list(order)], rtol=0, atol=ROUNDING)
    assert extractor([]).array.shape == (0, whole.shape[1])


@pytest.mark.parametrize(
    "learned", [{"center": True}, {"whitening": 1.0}, {"whitening": 0.5, "reduction": 5}]
)
def test_means_whitening_and_pca(learned):
    layered = extractor_of(objectives=(at(SIMCLR, THREE),), **learned).fit(TRAIN)
    blocks = ["embedding", "simclr", "simclr_0_intermediate", "simclr_1_output"]
    assert list(layered.state.means) == blocks
    if "reduction" in learned:
        assert layered(TEXTS).array.shape == (len(TEXTS), 5)
        return
    found = layered(TEXTS)
    for block, path in zip(blocks[1:], THREE, strict=True):
        alone = extractor_of(objectives=(SIMCLR,), target_layer=path, **learned).fit(TRAIN)
        # The rank of few rows is decided by rounding; a wrong block is off by 0.1.
        np.testing.assert_allclose(
            found.block(block), alone(TEXTS).block("simclr"), rtol=0, atol=1e-4
        )


def test_fit_in_parts_equals_fit():
    objectives = (at(SIMCLR, THREE),)
    whole = extractor_of(objectives=objectives, center=True).fit(TRAIN)
    parted = extractor_of(objectives=objectives, center=True)
    for stage in parted.fit_stages:
        parts = [parted.fit_part(TRAIN[start::3], stage) for start in range(3)]
        parted.fit_merge(parts, stage)
    np.testing.assert_allclose(parted(TEXTS).array, whole(TEXTS).array, rtol=0, atol=1e-6)


def test_a_saved_folder_gives_the_same_features(tmp_path):
    from sentence_transformers import SentenceTransformer

    model = saved_model(tmp_path / "model")
    objectives = (at(SIMCLR, ("auto", WIDE)), KL(layer=LOW))
    config = FungiConfig(objectives=objectives, whitening=0.5, pooling="mean")
    extractor = FungiExtractor.from_pretrained(model, config).fit(TRAIN)
    found = extractor(TEXTS)
    extractor.save_pretrained(tmp_path / "saved")
    loaded = FungiExtractor.from_pretrained(tmp_path / "saved")
    assert loaded.config == extractor.config
    assert loaded.fingerprint == extractor.fingerprint
    np.testing.assert_array_equal(loaded(TEXTS).array, found.array)
    place = str(tmp_path / "saved")
    rows = SentenceTransformer(place, trust_remote_code=True, device="cpu").encode(TEXTS)
    np.testing.assert_allclose(rows, found.array, rtol=0, atol=1e-6)
    card = extractor.make_card()
    assert f"- **kl_0_intermediate**: {KL().title('')}, gradient at `{LOW}`, weight 1" in card
    assert "- all gradients: sketched to as many numbers as the embedding has (khatri_rao)" in card
    digests = extractor.digests()
    assert len([name for name in digests if name.startswith("sketch/")]) == 3


def test_fingerprints_tell_layers_apart():
    assert FungiConfig().fingerprint() == "d9249c6c826944a1"
    layers = [None, LOW, WIDE, ("auto", LOW), (LOW, "auto"), (LOW, WIDE)]
    found = {FungiConfig(objectives=(KL(layer=layer),)).fingerprint() for layer in layers}
    assert len(found) == len(layers)
    assert KL(layer="auto") == KL(layer=("auto",)) == KL()
    assert KL(layer=[LOW]) == KL(layer=LOW)


PATHS = st.sampled_from(["auto", *NAMES, "layers.3.mlp.fc1", "pooler.dense"])


@given(st.lists(PATHS, min_size=1, max_size=5, unique=True), st.floats(0.1, 5))
def test_json_gives_the_config_back(layers, weight):
    config = FungiConfig(objectives=(SimCLR(layer=tuple(layers), weight=weight), "kl"))
    again = FungiConfig.from_json(config.to_json())
    assert again == config
    assert again.fingerprint() == config.fingerprint()
    blocks = ["simclr" if one == "auto" else f"simclr_{layer_label(one)}" for one in layers]
    assert list(config.blocks) == [*blocks, "kl"]


@pytest.mark.parametrize(
    ("path", "label"),
    [
        *NAMES.items(),
        ("encoder.block.4.layer.0.SelfAttention.o", "4_layer_0_SelfAttention_o"),
        ("layers.3.mlp.fc1", "3_mlp_fc1"),
        ("pooler.dense", "pooler"),
        ("encoder.layer.3.output.dense.base_layer", "3_output"),
    ],
)
def test_labels_of_layers(path, label):
    assert layer_label(path) == label


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: KL(layer=""), "KL.layer must be None or 'auto' (the target layer), a dotted path, "
         "or several of these, each once; got ''"),
        (lambda: KL(layer=()), "each once; got ()"),
        (lambda: KL(layer=(LOW, LOW)), "each once; got ("),
        (lambda: KL(layer=3), "each once; got 3"),
        (lambda: KL(layer=(LOW, None)), "each once; got ("),
        (lambda: KL(layer=("encoder.layer.1.output.dense", "decoder.layer.1.output.dense")),
         "would share a block's name; give them objectives of their own, with names"),
        (lambda: FungiConfig(objectives=(KL(), KL(layer="auto"))),
         "objective names must be unique and not 'embedding'; got ['kl', 'kl']"),
        (lambda: FungiConfig(objectives=(KL(), KL(layer=LOW, temperature=1.0))),
         "two objectives are named 'kl' and differ in more than layer and weight"),
        (lambda: FungiConfig(objectives=(KL(layer=LOW), Activation(name="kl_0_intermediate"))),
         "objective names must be unique"),
    ],
)  # fmt: skip
def test_wrong_layers_are_refused(make, message):
    with pytest.raises(ConfigError, match=re.escape(message)):
        make()


def test_layers_that_the_model_has_not_are_refused():
    with pytest.raises(LayerNotFoundError, match=r"'encoder\.layer\.7\.x' is not in BertModel"):
        extractor_of(objectives=(KL(layer=("auto", "encoder.layer.7.x")),))
    extractor = extractor_of(objectives=(KL(layer=("auto", "pooler.dense")),), pooling="mean")
    with pytest.raises(LayerUseError, match=r"layer 'pooler\.dense' is not on the path to the emb"):
        extractor(TEXTS)


def test_sweeps_and_costs_know_the_blocks():
    from fungi_hf.evaluation.cost import extraction_costs
    from fungi_hf.evaluation.sweeps import SweepData, sweep_objective

    extractor = extractor_of(objectives=(KL(layer=("auto", LOW)), at(SIMCLR, WIDE))).fit(TRAIN)
    costs = extraction_costs(extractor, TEXTS, [["embedding", "kl_0_intermediate"], ["kl"]])
    assert list(costs) == ["embedding", "embedding+kl_0_intermediate", "kl"]
    labels = [i % 2 for i in range(len(TRAIN))]
    data = SweepData(train=TRAIN, train_labels=labels, test=TEXTS, test_labels=labels[:6])
    data = dataclasses.replace(data, protocol=KNNProtocol(name="one", n_neighbors=1))
    result = sweep_objective(extractor, data, "temperature", [1.0], objective="kl")
    names = [row["features"] for row in result.rows]
    assert names[:3] == ["embedding", "kl", "kl_0_intermediate"]


def test_layers_of_an_mlp_in_the_shortened_block_are_called():
    path = MLP["bert"]
    found = extractor_of(objectives=(KL(layer=("auto", path)),), pooling="cls")(TEXTS)
    alone = extractor_of(objectives=(KL(),), pooling="cls", target_layer=path)(TEXTS)
    close(found.block(f"kl_{layer_label(path)}"), alone.block("kl"))
