"""Activations of any layer equal a hook, a loop over single inputs and pooling by hand."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from fungi_hf import KL, Activation, FungiConfig, FungiExtractor, SimCLR
from fungi_hf.errors import ConfigError, LayerNotFoundError, LayerUseError
from fungi_hf.extraction.group import pooler_of
from fungi_hf.gradients.layers import linear_layers
from fungi_hf.gradients.tape import record
from tests.extraction.problems import MIDDLE, MLP, POOLINGS
from tests.tiny import TEXTS, TRAIN, extractor_of, model_of

LAST = "encoder.layer.2.attention.output.dense"
BESIDE = ("query", "key", "value")


def reference(extractor, path, texts):
    """One text at a time through the untouched model; pooled over its tokens by hand."""
    model, tokenizer = extractor.encoder.model, extractor.encoder.tokenizer
    rows = []
    for text in texts:
        seen = []
        hook = model.get_submodule(path).register_forward_pre_hook(
            lambda _, args, seen=seen: seen.append(args[0])
        )
        try:
            with torch.no_grad():
                model.eval()(**tokenizer(text, return_tensors="pt"))
        finally:
            hook.remove()
        (tokens,) = seen  # [1, T, n]
        pooled = {"mean": lambda t: t.mean(0), "last": lambda t: t[-1]}
        row = pooled.get(extractor.encoder.pooling, lambda t: t[0])(tokens[0].flatten(0, -2))
        rows.append(row / row.norm())
    return torch.stack(rows).float().numpy()


@pytest.mark.parametrize("family", MIDDLE)
def test_layers_of_several_blocks_equal_the_loop(family):
    layers = {"middle": MIDDLE[family], "mlp": MLP[family]}
    blocks = tuple(Activation(name=name, layer=path) for name, path in layers.items())
    for pooling in POOLINGS[family]:
        extractor = extractor_of(family, objectives=(*blocks, Activation()), pooling=pooling)
        found = extractor(TEXTS, batch_size=4)
        assert list(found.layout) == ["embedding", "middle", "mlp", "activation"]
        for name, path in {**layers, "activation": extractor.encoder.layer_path}.items():
            wanted = reference(extractor, path, TEXTS)
            np.testing.assert_allclose(found.block(name), wanted, rtol=0, atol=2e-6)


@pytest.mark.parametrize("beside", BESIDE)
def test_a_layer_beside_the_target_in_a_shortened_block(beside):
    path = f"encoder.layer.2.attention.self.{beside}"
    extractor = extractor_of(objectives=(KL(), Activation(layer=path)), pooling="cls")
    assert extractor.encoder.uses_short_last_block  # the caller's encoder stays as it is
    found = extractor(TEXTS)
    wanted = reference(extractor, path, TEXTS)
    np.testing.assert_allclose(found.block("activation_2"), wanted, rtol=0, atol=2e-6)
    plain = extractor_of(objectives=(KL(),), pooling="cls")(TEXTS)
    np.testing.assert_allclose(found.block("kl"), plain.block("kl"), rtol=0, atol=1e-6)


@pytest.mark.parametrize("beside", BESIDE)
def test_a_layer_of_a_shortened_block_above_the_target(beside):
    path = f"encoder.layer.2.attention.self.{beside}"
    objectives = (KL(), Activation(layer=path))
    extractor = extractor_of(objectives=objectives, pooling="cls", target_layer=MIDDLE["bert"])
    wanted = reference(extractor, path, TEXTS)
    np.testing.assert_allclose(extractor(TEXTS).block("activation_2"), wanted, rtol=0, atol=2e-6)


@pytest.mark.parametrize("pooling", ["cls", "mean"])
def test_gradients_and_late_views_beside_do_not_change_it(pooling):
    inner = Activation(layer=MIDDLE["bert"])
    alone = extractor_of(objectives=(inner,), pooling=pooling)(TEXTS)
    for late in (None, 1):
        simclr = SimCLR(n_views=3, latent_dim=8, n_negatives=6, late_views=late)
        many = extractor_of(objectives=(simclr, KL(), inner, Activation()), pooling=pooling)
        found = many.fit(TRAIN)(TEXTS)
        for block in ("embedding", "activation_1"):
            np.testing.assert_allclose(found.block(block), alone.block(block), rtol=0, atol=1e-6)


def test_it_depends_on_no_batch():
    extractor = extractor_of(objectives=(Activation(layer=MIDDLE["bert"]),))
    whole = extractor(TEXTS).array
    for i, text in enumerate(TEXTS):
        np.testing.assert_allclose(extractor([text]).array[0], whole[i], rtol=0, atol=1e-6)
    assert extractor([]).array.shape == (0, whole.shape[1])


def test_the_target_layer_named_is_the_target_layer():
    plain = extractor_of(objectives=(Activation(),), pooling="cls")
    named = extractor_of(objectives=(Activation(layer=LAST),), pooling="cls")
    assert named.encoder.layer_path == LAST
    np.testing.assert_array_equal(named(TEXTS).array, plain(TEXTS).array)


def test_names_widths_and_fingerprints():
    assert Activation().name == "activation"
    assert Activation(layer=MIDDLE["bert"]).name == "activation_1"
    assert Activation(layer="layers.12.self_attn.out_proj").name == "activation_12"
    assert Activation(layer="pooler.dense").name == "activation_pooler_dense"
    config = FungiConfig(objectives=(Activation(layer=MLP["bert"]),))
    assert FungiConfig.from_json(config.to_json()) == config
    other = config.replace(objectives=(Activation(layer=LAST, name="activation_2"),))
    assert config.fingerprint() != other.fingerprint()
    # A golden: stored features are known by it.
    assert FungiConfig(objectives=("activation",)).fingerprint() == "886f786ba65738ba"
    wide = extractor_of(objectives=(Activation(layer="encoder.layer.2.output.dense"),))
    assert wide(TEXTS).block("activation_2").shape[1] == wide.encoder.model.config.intermediate_size


@pytest.mark.parametrize("layer", ["", 3, [], [3], ["a.1.b", "a.1.b"], True, {"a": 1}])
def test_a_layer_that_is_no_path_is_refused(layer):
    with pytest.raises(ConfigError, match=r"Activation.layer must be None .* a dotted path"):
        Activation(layer=layer)


def test_several_layers_are_as_many_activations():
    layers = ("auto", MIDDLE["bert"], MLP["bert"])
    several = FungiConfig(objectives=(Activation(layer=layers, weight=2.0),))
    assert several == FungiConfig(
        objectives=(
            Activation(weight=2.0),
            Activation(layer=layers[1], name="activation_1_attention_output", weight=2.0),
            Activation(layer=layers[2], name="activation_2_intermediate", weight=2.0),
        )
    )
    assert FungiConfig(objectives=(Activation(layer=["auto"]),)) == FungiConfig(
        objectives=("activation",)
    )


def test_two_layers_of_one_block_need_names():
    layers = ("encoder.layer.1.output.dense", MIDDLE["bert"])
    with pytest.raises(ConfigError, match="names must be unique"):
        FungiConfig(objectives=tuple(Activation(layer=layer) for layer in layers))


def test_a_layer_that_is_not_there_is_refused_when_built():
    with pytest.raises(
        LayerNotFoundError, match=r"'encoder\.layer\.9\.nothing' is not in BertModel"
    ):
        extractor_of(objectives=(Activation(layer="encoder.layer.9.nothing"),))


class Odd(nn.Module):
    """An encoder's model that calls one layer twice and another never."""

    main_input_name = "input_ids"

    def __init__(self, inner):
        super().__init__()
        self.inner, self.config = inner, inner.config
        self.twice = nn.Linear(inner.config.hidden_size, inner.config.hidden_size).double()
        self.never = nn.Linear(2, 2).double()
        self.odd = nn.Linear(4, 4).double()

    def forward(self, **inputs):
        output = self.inner(**inputs)
        self.twice(self.twice(output.last_hidden_state))
        self.odd(torch.zeros(7, 5, 4).double())
        return output


@pytest.mark.parametrize(
    ("layer", "words"),
    [
        ("twice", "'twice' was called 2 times"),
        ("never", "'never' was not called in the forward pass"),
        ("odd", r"'odd' has shape \(7, 5, 4\), which cannot be pooled as the embedding is \(mean"),
    ],
)
def test_layers_without_one_vector_an_input_are_refused(layer, words):
    model, tokenizer = model_of()
    objectives = (Activation(layer=layer, name="a"),)
    config = FungiConfig(
        objectives=objectives, pooling="mean", dtype="float64", target_layer=f"inner.{LAST}"
    )
    extractor = FungiExtractor.from_pretrained(Odd(model), config, tokenizer)
    with pytest.raises(LayerUseError, match=words):
        extractor(TEXTS)
    assert not any(module._forward_hooks for module in extractor.encoder.model.modules())


def test_no_hook_stays_behind():
    encoder = extractor_of(pooling="mean").encoder
    layers = linear_layers(encoder.model)
    batch = encoder.collate(encoder.prepare(TEXTS))
    tape = record(lambda: encoder.embed(batch), noted=layers, pool=pooler_of(encoder, batch))
    assert set(tape.pooled) == set(layers)
    assert not any(module._forward_hooks for module in encoder.model.modules())
