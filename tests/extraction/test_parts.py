"""Dense features: every token's gradient against a loop, parts against tokens read by hand."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from fungi_hf import Activation, DenseInfoNCE, FungiConfig, FungiExtractor
from fungi_hf.errors import LayerUseError
from fungi_hf.extraction.parts import EncodedParts
from fungi_hf.gradients.tape import untouched
from fungi_hf.specs import layer_label
from fungi_hf.testing import model_state
from fungi_hf.tuning.scan import sibling_layers
from tests.extraction.test_tokens import SOUNDS, by_hand, encoder_and_inputs

pytestmark = pytest.mark.filterwarnings("ignore:.*were cut at the end")  # one of AST's clips
SPEC = DenseInfoNCE(n_support=8, latent_dim=7, temperature=0.2)
CASES = [
    *(("bert", pooling) for pooling in ("cls", "mean")),
    *(("vit", "cls"), ("vit", "mean"), ("dinov2_with_registers", "cls"), ("ijepa", "mean")),
    *(("siglip", "model"), ("clip", "cls")),
    *((name, "mean") for name in SOUNDS),
]


def extractor_of(family, pooling, **fields):
    encoder, inputs = encoder_and_inputs(family, pooling)
    fields = {"objectives": (SPEC,), "dtype": "float64", "pooling": pooling} | fields
    return FungiExtractor(encoder, FungiConfig(**fields)).fit(inputs), inputs


def first_of(extractor, inputs):
    (samples,) = list(extractor._reader.read(inputs))
    return samples


def gradients_by_loop(encoder, loss, n_tokens):
    """The layer's gradient at every token, one forward and backward pass for each.

    The layer's weight is moved at one token only, by a matrix that is 0: its gradient is that
    token's.
    """
    found = []
    layer = encoder.layer
    for token in range(n_tokens):
        shape = layer.out_features, layer.in_features + (layer.bias is not None)
        moved = torch.zeros(shape, dtype=torch.float64, requires_grad=True)

        def add(_, args, out, token=token, moved=moved):
            a = args[0].flatten(1, -2)[0, token]
            if layer.bias is not None:
                a = torch.cat([a, a.new_ones(1)])
            here = torch.zeros(n_tokens, 1, dtype=a.dtype)
            here[token] = 1
            return out + (here * (moved @ a)).view(out.shape)

        handle = layer.register_forward_hook(add)
        try:
            with torch.enable_grad():
                found.append(torch.autograd.grad(loss(), moved)[0])
        finally:
            handle.remove()
    return torch.stack(found)  # [T', m, n1]


@pytest.mark.parametrize(("family", "pooling"), CASES)
def test_every_gradient_equals_a_loop_over_tokens(family, pooling) -> None:
    extractor, inputs = extractor_of(family, pooling)
    encoder, plan = extractor._plan.encoder, extractor._plan
    samples = first_of(extractor, inputs[:2])
    objective = plan.objectives["dense_infonce"]
    before = model_state(encoder.model)
    with untouched(encoder.model):
        group = EncodedParts(samples, plan)
        (factors,) = group.factors("dense_infonce").values()
        found = factors.materialise()
    after = model_state(encoder.model)
    assert before == after
    start = 0
    for sample in samples:
        regions = sample.regions

        def loss(sample=sample, regions=regions):
            rows = by_hand(encoder, family, sample.original)
            return objective.loss(rows[[0, *(1 + regions.tokens)]], sample.content)

        n_tokens = len(by_hand(encoder, family, sample.original)) - 1 + encoder.first_token
        with untouched(encoder.model):
            of_tokens = gradients_by_loop(encoder, loss, n_tokens)
        expected = torch.zeros(len(regions), *of_tokens.shape[1:], dtype=torch.float64)
        for token, owner in zip(regions.tokens, regions.owners, strict=True):
            expected[owner] += of_tokens[encoder.first_token + token]
        got = found[start : start + len(regions)]
        start += len(regions)
        assert (expected.flatten(1).norm(dim=1) > 0).all()
        assert (got - expected).norm() <= 1e-10 * expected.norm()
    assert start == len(found)


@pytest.mark.parametrize(("family", "pooling"), CASES)
def test_blocks_are_means_of_tokens_and_of_the_layers_inputs(family, pooling) -> None:
    extractor, inputs = extractor_of(family, pooling, objectives=(Activation(),), dense=True)
    encoder = extractor._plan.encoder
    seen = {}
    for sample, features in zip(first_of(extractor, inputs), extractor.dense(inputs), strict=True):
        hook = encoder.layer.register_forward_hook(
            lambda _, args, __: seen.__setitem__("a", args[0].detach().flatten(1, -2)[0])
        )
        with untouched(encoder.model), torch.no_grad():
            rows = by_hand(encoder, family, sample.original)[1:]
        hook.remove()
        regions, a = sample.regions, seen["a"][encoder.first_token :]
        for name, states in (("tokens", rows), ("activation", a)):
            for part in range(len(regions)):
                mean = states[regions.tokens[regions.owners == part]].mean(0).numpy()
                block = features.block(name)[part]
                cosine = block @ mean / np.linalg.norm(block) / np.linalg.norm(mean)
                assert cosine > 1 - 1e-6
                assert np.linalg.norm(block) == pytest.approx(np.sqrt(0.5), abs=1e-5)


def test_exact_factors_have_the_cosines_of_the_gradients() -> None:
    extractor, inputs = extractor_of("vit", "cls", sketch="none")
    features = next(iter(extractor.dense(inputs)))
    with untouched(extractor.encoder.model):
        group = EncodedParts(first_of(extractor, inputs[:1]), extractor._plan)
        (factors,) = group.factors("dense_infonce").values()
    gradients = torch.nn.functional.normalize(factors.materialise().flatten(1), dim=1)
    tokens = torch.nn.functional.normalize(group.tokens(), dim=1)
    expected = (gradients @ gradients.T + tokens @ tokens.T) / 2
    assert features.factors == {"dense_infonce": factors.shape}
    found = features.rows().similarity(features.rows())
    assert np.abs(found - expected.numpy()).max() < 1e-5
    alone = features.take(["dense_infonce"]).rows()
    assert np.abs(alone.similarity(alone) - (gradients @ gradients.T).numpy()).max() < 1e-5


def test_a_layer_that_is_not_given_the_tokens_is_named() -> None:
    encoder, inputs = encoder_and_inputs("siglip", "model")
    path = next(name for name, _ in encoder.model.named_modules() if name.endswith("head.mlp.fc1"))
    objectives = (Activation(layer=path),)
    config = FungiConfig(objectives=objectives, dense=True, pooling="model", dtype="float64")
    with pytest.raises(LayerUseError, match=rf"{path}' was given 1 tokens an input"):
        next(FungiExtractor(encoder, config).dense(inputs))


@pytest.mark.parametrize("family", ["bert", "vit", "whisper"])
def test_a_vector_is_of_its_input_alone(family) -> None:
    extractor, inputs = extractor_of(family, "mean", objectives=(SPEC, Activation()))
    whole = list(extractor.dense(inputs))
    assert [one.index for one in whole] == list(range(len(inputs)))
    for place, one in enumerate(whole):
        (alone,) = extractor.dense([inputs[place]])
        assert np.abs(alone.array - one.array).max() < 1e-5
    back = list(extractor.dense(iter(inputs[::-1])))[::-1]
    for one, other in zip(whole, back, strict=True):
        assert np.abs(other.array - one.array).max() < 1e-5


def test_the_support_is_a_draw_by_content() -> None:
    extractor, inputs = extractor_of("vit", "cls")
    support = extractor.state.objectives["dense_infonce"]["support"]
    assert support.shape == (8, extractor.encoder.width)
    other, _ = extractor_of("vit", "cls")
    other.fit([*inputs[::-1], inputs[0]])
    assert torch.equal(support, other.state.objectives["dense_infonce"]["support"])
    assert other.fingerprint == extractor.fingerprint
    tokens = torch.cat(
        [by_hand(extractor.encoder, "vit", s.original)[1:] for s in first_of(extractor, inputs)]
    ).float()
    distance = (support[:, None] - tokens).abs().amax(-1).amin(1)
    assert (distance < 1e-5).all()  # each is a patch of a training image
    assert len(torch.unique(support, dim=0)) == 8


def test_whitening_and_a_pca_learn_from_parts() -> None:
    extractor, inputs = extractor_of("vit", "cls", whitening=1.0, objectives=(SPEC,))
    assert set(extractor.state.means) == {"tokens", "dense_infonce"}
    plain, _ = extractor_of("vit", "cls")
    rows = torch.cat([torch.from_numpy(one.block("tokens")) for one in plain.dense(inputs)])
    rows = torch.nn.functional.normalize(rows.double(), dim=1)
    assert torch.allclose(extractor.state.means["tokens"], rows.mean(0), atol=1e-6)
    reduced, _ = extractor_of("vit", "cls", reduction=4)
    features = next(iter(reduced.dense(inputs)))
    assert features.array.shape == (16, 4)
    assert list(features.layout) == ["reduced"]


@pytest.mark.parametrize("family", ["bert", "vit"])
def test_several_layers_are_those_of_extractors_with_that_target_layer(family) -> None:
    encoder, _ = encoder_and_inputs(family, "mean")
    low = sibling_layers(encoder, 12)[0]
    spec = DenseInfoNCE(n_support=8, latent_dim=7, temperature=0.2, layer=("auto", low))
    extractor, inputs = extractor_of(family, "mean", objectives=(spec,))
    found = list(extractor.dense(inputs))
    blocks = ("dense_infonce", f"dense_infonce_{layer_label(low)}")
    assert list(found[0].layout) == ["tokens", *blocks]
    for block, path in zip(blocks, ("auto", low), strict=True):
        encoder = encoder.rebuilt(FungiConfig(dtype="float64", pooling="mean", target_layer=path))
        config = FungiConfig(
            objectives=(SPEC,), dtype="float64", pooling="mean", target_layer=path, dense=True
        )
        alone = FungiExtractor(encoder, config).fit(inputs)
        for one, wanted in zip(found, alone.dense(inputs), strict=True):
            gradient = (
                one.array[:, one.layout[block]],
                wanted.array[:, wanted.layout["dense_infonce"]],
            )
            rows = [rows / np.linalg.norm(rows, axis=1, keepdims=True) for rows in gradient]
            np.testing.assert_allclose(*rows, rtol=0, atol=2e-6)
