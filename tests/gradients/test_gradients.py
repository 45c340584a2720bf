"""The fast factors equal two slow, independent ways, for every family, pooling and layer."""

from __future__ import annotations

import pytest
import torch

from fungi_hf.extraction.batches import Budget, Sample
from fungi_hf.gradients.tape import untouched
from tests.extraction.problems import (
    LAYERS,
    MIDDLE,
    MLP,
    POOLINGS,
    TEXTS,
    VIEWS,
    by_loop,
    by_torch_func,
    encoder_of,
    fast,
    kl,
    lowest_cosine,
    plain_embeddings,
    sample_loss,
    samples_of,
    simclr,
    worst,
)

EXACT = 1e-10  # float64: rounding alone
# T5 computes its norms, and eager attention its softmax, in float32 even in a float64 model.
INNER_FLOAT32 = 1e-6
GRID = [
    pytest.param(family, pooling, layer, id=f"{family}-{pooling}-{layer}")
    for family in MIDDLE
    for pooling in POOLINGS[family]
    for layer in LAYERS
]


@pytest.mark.parametrize(("family", "pooling", "layer"), GRID)
def test_kl_factors_equal_the_loop(family: str, pooling: str, layer: str) -> None:
    encoder = encoder_of(family, pooling, LAYERS[layer][family])
    objective = kl(encoder)
    assert worst(fast(encoder, objective).materialise(), by_loop(encoder, objective)) < EXACT


@pytest.mark.parametrize(("family", "pooling", "layer"), GRID)
def test_simclr_factors_equal_the_loop(family: str, pooling: str, layer: str) -> None:
    encoder = encoder_of(family, pooling, LAYERS[layer][family])
    objective = simclr(encoder, 1.0 if layer == "middle" else None)
    texts = TEXTS[:1] + TEXTS[2:]  # a one-word text's views are equal: see the next tests
    got = fast(encoder, objective, samples_of(encoder, texts)).materialise()
    assert worst(got, by_loop(encoder, objective, texts)) < EXACT


@pytest.mark.parametrize("family", ["bert", "roberta", "distilbert", "electra", "t5"])
@pytest.mark.parametrize("pooling", ["first", "mean"])
def test_eager_attention_equals_the_loop(family: str, pooling: str) -> None:
    encoder = encoder_of(family, pooling, attention="eager")
    limit = INNER_FLOAT32 if family == "t5" else EXACT
    for objective in (kl(encoder), simclr(encoder)):
        assert worst(fast(encoder, objective).materialise(), by_loop(encoder, objective)) < limit


def test_eager_modernbert_equals_the_loop_in_float32() -> None:
    """In float64 its float32 softmax gives NaN at padding far from any word."""
    encoder = encoder_of("modernbert", "mean", attention="eager", dtype="float32")
    for objective in (kl(encoder), simclr(encoder)):
        got = fast(encoder, objective).materialise()
        assert got.isfinite().all()
        assert worst(got, by_loop(encoder, objective)) < 1e-3


def test_a_nan_in_the_gradient_is_not_taken_for_padding() -> None:
    encoder = encoder_of("modernbert", "mean", attention="eager")
    assert fast(encoder, kl(encoder)).materialise().isnan().any()


@pytest.mark.parametrize("family", MIDDLE)
def test_factors_equal_torch_func(family: str) -> None:
    for layer, pooling in (("last", "first"), ("last", "mean"), ("mlp", "mean")):
        encoder = encoder_of(family, pooling, LAYERS[layer][family])
        for objective in (kl(encoder), simclr(encoder)):
            got = fast(encoder, objective, samples_of(encoder, [TEXTS[2]])).materialise()
            assert worst(got, by_torch_func(encoder, objective, TEXTS[2])[None]) < EXACT


def test_vmap_over_a_batch_of_equal_lengths_agrees() -> None:
    encoder = encoder_of("bert", "mean", attention="eager")
    objective = kl(encoder)
    texts = ["my card is lost", "pay the new bank", "what was old money", "do not help me"]
    ids = torch.stack([torch.tensor(encoder.tokenizer(t)["input_ids"]) for t in texts])
    names = [f"{encoder.layer_path}.weight", f"{encoder.layer_path}.bias"]
    constants = {n: p.detach() for n, p in encoder.model.named_parameters() if n not in names}
    wanted = {n: p.detach() for n, p in encoder.model.named_parameters() if n in names}

    def loss(parameters: dict[str, torch.Tensor], row: torch.Tensor) -> torch.Tensor:
        output = torch.func.functional_call(
            encoder.model, constants | parameters, (row[None],), {"return_dict": True}
        )
        return objective.loss(output.last_hidden_state.mean(1)[:, None])[0]

    grads = torch.func.vmap(torch.func.grad(loss), in_dims=(None, 0))(wanted, ids)
    expected = torch.cat([grads[names[0]], grads[names[1]][:, :, None]], dim=2)
    samples = [Sample(i, encoder.prepare([text])[0], {}) for i, text in enumerate(texts)]
    assert worst(fast(encoder, objective, samples).materialise(), expected) < EXACT


@pytest.mark.parametrize("family", ["bert", "t5", "mpnet"])
def test_the_sum_over_samples_is_the_gradient_of_one_ordinary_backward(family: str) -> None:
    for layer in ("last", "middle"):
        encoder = encoder_of(family, "mean", LAYERS[layer][family])
        for objective in (kl(encoder), simclr(encoder)):
            total = fast(encoder, objective).materialise().sum(0)
            loss = sum(sample_loss(encoder, objective, text) for text in TEXTS)
            encoder.model.zero_grad()
            loss.backward()
            parameters = [encoder.layer.weight.grad]
            if encoder.layer.bias is not None:
                parameters.append(encoder.layer.bias.grad[:, None])
            expected = torch.cat(parameters, dim=1)
            encoder.model.zero_grad(set_to_none=True)
            assert worst(total[None], expected[None]) < EXACT


def n_tokens(encoder, text: str) -> int:
    return len(encoder.tokenizer(text)["input_ids"])


@pytest.mark.parametrize(
    ("pooling", "layer", "every_token"),
    [("first", "last", False), ("mean", "last", True), ("first", "middle", True)],
)
@pytest.mark.parametrize("family", ["bert", "t5", "distilbert", "electra"])
def test_all_tokens_that_the_loss_reaches_are_counted_and_padding_is_not(
    family: str, pooling: str, layer: str, every_token: bool
) -> None:
    encoder = encoder_of(family, pooling, LAYERS[layer][family])
    factors = fast(encoder, kl(encoder))
    counts = torch.bincount(factors.owner, minlength=len(TEXTS)).tolist()
    assert counts == [n_tokens(encoder, text) if every_token else 1 for text in TEXTS]


def test_views_are_encoded_once_each_and_owned_by_their_sample() -> None:
    encoder = encoder_of("bert", "first")
    factors = fast(encoder, simclr(encoder))
    live = factors.owner[(factors.delta != 0).any(1)]
    distinct = [len(set(VIEWS[text])) for text in TEXTS]
    assert torch.bincount(live).tolist() == distinct


def test_delta_at_padding_is_exactly_zero_whatever_the_layer_was_fed_there() -> None:
    """The raw tape, before rows are dropped."""
    from fungi_hf.gradients.tape import record

    for family in MIDDLE:
        encoder = encoder_of(family, "mean")
        items = encoder.prepare(TEXTS)
        batch = encoder.collate(items)
        with untouched(encoder.model):
            layers = {encoder.layer_path: encoder.layer}
            tape = record(lambda e=encoder, b=batch: e.embed(b), layers)
            (delta,) = torch.autograd.grad(
                tape._embeddings,
                tape._watches[encoder.layer_path].edge,
                torch.randn(tape.embeddings.shape).double(),
            )
        padding = batch["attention_mask"] == 0
        assert padding.any()
        assert (delta[padding] == 0).all(), family
        assert (delta[~padding].abs().amax(-1) > 0).all(), family


def test_a_nan_at_padding_reaches_nothing() -> None:
    from fungi_hf.gradients.tape import record

    layer = torch.nn.Linear(5, 4).double()
    a = torch.randn(2, 3, 5, dtype=torch.float64)
    a[:, 2] = torch.nan
    with untouched(layer):
        tape = record(lambda: layer(a)[:, :2].sum(1), {"layer": layer})
        factors = tape.pull_back(torch.ones(2, 4), torch.arange(2), 2)["layer"]
    assert factors.materialise().isfinite().all()
    assert len(factors.owner) == 4


def test_first_tokens_only_keeps_position_zero() -> None:
    encoder = encoder_of("bert", "mean")
    objective = kl(encoder)
    every = fast(encoder, objective)
    first = fast(encoder, objective, tokens="first")
    assert sorted(first.owner.tolist()) == [0, 1, 2, 3]
    for b in range(4):
        row = first.delta[first.owner == b]
        assert any(torch.equal(row[0], other) for other in every.delta[every.owner == b])
    assert worst(first.materialise(), every.materialise()) > 0.1


def test_an_all_equal_view_sample_has_a_finite_gradient() -> None:
    encoder = encoder_of("bert", "mean")
    objective = simclr(encoder)
    got = fast(encoder, objective, samples_of(encoder, [TEXTS[1]])).materialise()
    assert got.isfinite().all()
    assert worst(got, by_loop(encoder, objective, [TEXTS[1]])) < EXACT


@pytest.mark.parametrize("family", MIDDLE)
def test_embeddings_are_the_models_own(family: str) -> None:
    for pooling in POOLINGS[family]:
        encoder = encoder_of(family, pooling)
        with untouched(encoder.model), torch.no_grad():
            got = encoder.embed(encoder.collate(encoder.prepare(TEXTS)))
            assert worst(got, plain_embeddings(encoder, TEXTS)) < EXACT


@pytest.mark.parametrize("family", ["bert", "roberta", "electra", "t5", "mt5"])
@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_the_short_last_block_equals_the_full_one(family: str, attention: str) -> None:
    layers = ["auto", MIDDLE[family], MLP[family], *SHORT_BLOCK_LAYERS.get(family, [])]
    for layer in layers:
        short = encoder_of(family, "first", layer, attention=attention)
        full = short.with_full_last_block()
        assert short.uses_short_last_block
        assert not full.uses_short_last_block
        for objective in (kl(short), simclr(short)):
            limit = INNER_FLOAT32 if family in ("t5", "mt5") else EXACT
            one = fast(short, objective).materialise()
            assert worst(one, fast(full, objective).materialise()) < limit
            assert worst(one, by_loop(short, objective)) < limit


SHORT_BLOCK_LAYERS = {  # the target layer may be inside the attention that is computed in short
    "bert": [f"encoder.layer.2.attention.self.{name}" for name in ("query", "value")],
    "t5": [f"encoder.block.2.layer.0.SelfAttention.{name}" for name in ("q", "k", "v")],
}


def test_a_layer_whose_gradient_vanishes_gives_next_to_nothing() -> None:
    """Softmax does not see the key's bias: its column of G is zero up to rounding."""
    encoder = encoder_of("bert", "first", "encoder.layer.2.attention.self.key")
    objective = kl(encoder)
    G, expected = fast(encoder, objective).materialise(), by_loop(encoder, objective)
    assert worst(G, expected) < 1e-9
    assert G[:, :, -1].norm() < 1e-10 * G.norm()


def test_families_without_a_short_block_say_so() -> None:
    for family in ("distilbert", "mpnet", "modernbert", "deberta-v2"):
        assert not encoder_of(family, "first").uses_short_last_block
    assert not encoder_of("bert", "mean").uses_short_last_block


@pytest.mark.parametrize("family", ["bert", "t5"])
@pytest.mark.parametrize("pooling", ["first", "mean"])
def test_float32_and_bfloat16_stay_within_their_tolerance(family: str, pooling: str) -> None:
    exact, single, half = (
        encoder_of(family, pooling, dtype=d) for d in ("float64", "float32", "bfloat16")
    )
    for make in (kl, simclr):
        expected = fast(exact, make(exact)).materialise()
        in_single = fast(single, make(single)).materialise()
        assert in_single.dtype == torch.float32
        # The tiny random models amplify rounding more than trained ones: 2e-5 becomes 1e-4.
        assert worst(in_single, expected) < 1e-4
        assert 1 - lowest_cosine(in_single, expected) < 1e-8
        assert lowest_cosine(fast(half, make(half)).materialise(), expected) > 0.98


def test_the_head_and_the_loss_are_computed_in_float64_even_under_autocast() -> None:
    encoder = encoder_of("bert", "mean", dtype="float32")
    objective = kl(encoder)
    expected = fast(encoder, objective)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        got = fast(encoder, objective)
    assert torch.equal(got.delta, expected.delta)
    assert torch.equal(got.a, expected.a)


def test_small_batches_give_the_same_factors() -> None:
    encoder = encoder_of("bert", "mean")
    objective = simclr(encoder)
    expected = fast(encoder, objective).materialise()
    for budget in (Budget(batch_size=1), Budget(batch_size=2), Budget(batch_tokens=1)):
        assert worst(fast(encoder, objective, budget=budget).materialise(), expected) < EXACT


def test_equal_texts_and_views_of_different_samples_are_not_merged() -> None:
    encoder = encoder_of("bert", "mean")
    texts = [TEXTS[0], TEXTS[3], TEXTS[0]]
    objective = simclr(encoder)
    samples = samples_of(encoder, texts)
    shared = samples[0].views["simclr"][0]
    samples[1].views["simclr"][:] = [shared, samples[1].original, samples[0].original]
    got = fast(encoder, objective, samples).materialise()
    alone = torch.cat(
        [fast(encoder, objective, [Sample(0, s.original, s.views)]).materialise() for s in samples]
    )
    assert worst(got, alone) < EXACT
    assert torch.equal(got[0].isfinite(), got[2].isfinite())
    assert worst(got[:1], got[2:]) < EXACT
    assert worst(fast(encoder, kl(encoder), samples).materialise()[2:], got[:1]) > 0.1
