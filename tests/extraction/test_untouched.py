"""The user's model, contexts and global generators are as they were, also after an exception."""

from __future__ import annotations

import sys
import warnings

import numpy as np
import pytest
import torch
from torch import nn

from fungi_hf import KL, FungiConfig, FungiExtractor
from fungi_hf.encoders.text import TextEncoder
from fungi_hf.errors import LayerNotFoundError, LayerUseError
from fungi_hf.gradients.layers import resolve_layer
from fungi_hf.gradients.tape import record, untouched
from fungi_hf.testing import model_state, rng_states, tiny_text_model
from tests.tiny import TEXTS, TRAIN, extractor_of, fitted, model_of


def marked_model(family: str = "bert"):
    """A model with every kind of state that could be lost."""
    model, tokenizer = tiny_text_model(family)
    model.train()
    modules = list(model.modules())
    modules[5].eval()
    for i, parameter in enumerate(model.parameters()):
        parameter.requires_grad_(i % 3 != 0)
        if i % 2:
            parameter.grad = torch.full_like(parameter, 0.5)
    modules[3].register_forward_hook(lambda *_: None)
    modules[4].register_forward_pre_hook(lambda *_: None)
    return model, tokenizer


@pytest.mark.parametrize("family", ["bert", "t5", "modernbert"])
@pytest.mark.parametrize("pooling", ["first", "mean"])
def test_model_and_generators_are_bit_identical_afterwards(family: str, pooling: str) -> None:
    model, tokenizer = marked_model(family)
    config = extractor_of(family).config.replace(pooling=pooling)
    before, random_before = model_state(model), rng_states()
    extractor = FungiExtractor.from_pretrained(model, config, tokenizer)
    extractor.fit(TRAIN)
    extractor(TEXTS)
    assert extractor.fingerprint
    assert model_state(model) == before
    assert rng_states() == random_before


def test_a_model_in_train_mode_gives_the_features_of_eval_mode() -> None:
    model, tokenizer = marked_model()
    config = extractor_of().config
    in_train = FungiExtractor.from_pretrained(model, config, tokenizer).fit(TRAIN)(TEXTS)
    assert np.array_equal(in_train.array, fitted()(TEXTS).array)


class BoomError(RuntimeError):
    pass


def test_model_is_untouched_after_an_exception_in_the_objective() -> None:
    model, tokenizer = marked_model()
    extractor = FungiExtractor.from_pretrained(model, FungiConfig(dtype="float64"), tokenizer)

    def explode(_: torch.Tensor) -> torch.Tensor:
        raise BoomError

    extractor._plan.objectives["kl"].loss = explode
    before, random_before = model_state(model), rng_states()
    with pytest.raises(BoomError):
        extractor(TEXTS)
    assert model_state(model) == before
    assert rng_states() == random_before


@pytest.mark.parametrize("pooling", ["first", "mean"])
@pytest.mark.parametrize("place", ["before the layer", "after the layer"])
def test_model_is_untouched_after_an_exception_in_the_forward_pass(
    pooling: str, place: str
) -> None:
    model, tokenizer = marked_model()
    block = model.encoder.layer[2]
    module = block.attention.self.query if place == "before the layer" else block.output.dense

    def explode(*_: object) -> None:
        raise BoomError

    module.register_forward_hook(explode)
    config = FungiConfig(dtype="float64", pooling=pooling)
    extractor = FungiExtractor.from_pretrained(model, config, tokenizer)
    before = model_state(model)
    with pytest.raises(BoomError):
        extractor(TEXTS)
    assert model_state(model) == before


def test_an_interrupt_leaves_the_model_untouched() -> None:
    model, _ = marked_model()
    before = model_state(model)

    def interrupted() -> None:
        with untouched(model):
            assert model_state(model) != before
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert model_state(model) == before


@pytest.mark.parametrize("context", [torch.no_grad, torch.inference_mode, torch.enable_grad])
@pytest.mark.parametrize("family", ["bert", "t5"])
def test_a_callers_context_changes_nothing(family: str, context) -> None:
    expected = fitted(family)(TEXTS).array
    with context():
        everything_inside = extractor_of(family).fit(TRAIN)
        inside = everything_inside(TEXTS).array
    assert np.array_equal(inside, expected)
    assert np.array_equal(everything_inside(TEXTS).array, expected)  # built inside, used outside
    outside = fitted(family)
    with context():
        assert np.array_equal(outside(TEXTS).array, expected)


def test_autocast_and_default_dtype_of_the_caller_change_nothing() -> None:
    expected = fitted(dtype="float32")(TEXTS).array
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert np.array_equal(fitted(dtype="float32")(TEXTS).array, expected)
    for sketch in ("khatri_rao", "rademacher", "gaussian", "sparse"):
        expected = fitted(sketch=sketch)(TEXTS).array
        try:
            torch.set_default_dtype(torch.float64)
            got = fitted(sketch=sketch)(TEXTS).array
        finally:
            torch.set_default_dtype(torch.float32)
        assert got.dtype == np.float32
        assert np.array_equal(got, expected)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        dense = fitted(dtype="float32", sketch="gaussian")(TEXTS).array
    assert np.array_equal(dense, fitted(dtype="float32", sketch="gaussian")(TEXTS).array)


def test_a_frozen_model_gives_the_same_features() -> None:
    model, tokenizer = tiny_text_model("bert")
    model.requires_grad_(False)
    extractor = FungiExtractor.from_pretrained(model, extractor_of().config, tokenizer).fit(TRAIN)
    assert np.array_equal(extractor(TEXTS).array, fitted()(TEXTS).array)
    assert not any(p.requires_grad for p in model.parameters())


@pytest.mark.parametrize("used_inside", [True, False])
def test_a_model_loaded_under_inference_mode_works(used_inside: bool, tmp_path) -> None:
    """Parameters made there are refused; a loaded model has only buffers from there."""
    model, tokenizer = tiny_text_model("bert", dtype=torch.float32)
    model.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    config = extractor_of(dtype="float32").config
    expected = FungiExtractor.from_pretrained(tmp_path, config).fit(TRAIN)(TEXTS).array
    with torch.inference_mode():
        extractor = FungiExtractor.from_pretrained(tmp_path, config)
        if used_inside:
            got = extractor.fit(TRAIN)(TEXTS).array
    if not used_inside:
        got = extractor.fit(TRAIN)(TEXTS).array
    assert np.array_equal(got, expected)


def test_parameters_made_under_inference_mode_are_refused() -> None:
    from fungi_hf.errors import EncoderError

    with torch.inference_mode():
        model, tokenizer = tiny_text_model("bert")
    if not next(model.parameters()).is_inference():
        pytest.skip("this torch makes ordinary parameters under inference_mode")
    extractor = FungiExtractor.from_pretrained(model, FungiConfig(dtype="float64"), tokenizer)
    with pytest.raises(EncoderError, match="inference_mode"):
        extractor(TEXTS)


def test_the_wrapper_of_torch_compile_is_taken_off() -> None:
    model, tokenizer = tiny_text_model("bert")
    wrapped = torch.compile(model, backend="eager")
    extractor = FungiExtractor.from_pretrained(wrapped, extractor_of().config, tokenizer)
    assert np.array_equal(extractor.fit(TRAIN)(TEXTS).array, fitted()(TEXTS).array)


def test_a_model_compiled_in_place_runs_as_written_and_stays_compiled() -> None:
    model, tokenizer = tiny_text_model("bert")
    model.compile(backend="eager")
    model.encoder.layer[1].compile(backend="eager")
    calls = [module._compiled_call_impl for module in model.modules()]
    extractor = FungiExtractor.from_pretrained(model, extractor_of().config, tokenizer)
    assert np.array_equal(extractor.fit(TRAIN)(TEXTS).array, fitted()(TEXTS).array)
    assert [module._compiled_call_impl for module in model.modules()] == calls
    assert sum(call is not None for call in calls) == 2


class Toy(nn.Module):
    """[N, D] -> [N, D] through layers used in ways that a tape cannot follow."""

    def __init__(self) -> None:
        super().__init__()
        self.once, self.twice, self.unused = (nn.Linear(4, 4) for _ in range(3))
        self.sideways = nn.Linear(4, 4)
        self.functional = nn.Linear(4, 4)
        self.attention = nn.MultiheadAttention(4, 2, batch_first=True)
        self.tied_one, self.tied_two = nn.Linear(4, 4), nn.Linear(4, 4)
        self.tied_two.weight = self.tied_one.weight
        self.alias = self.once_more = nn.Linear(4, 4)
        self.norm = nn.LayerNorm(4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.sideways(x)
        x = self.once(self.twice(self.twice(x)))
        x = nn.functional.linear(x, self.functional.weight, self.functional.bias)
        return x + self.attention(x, x, x)[0]


def run(toy: Toy, path: str) -> None:
    _, layer = resolve_layer(toy, path)
    with untouched(toy):
        record(lambda: toy(torch.ones(2, 3, 4)).mean(1), {path: layer})


@pytest.mark.parametrize(
    ("path", "error", "message"),
    [
        ("twice", LayerUseError, "'twice' was called 2 times"),
        ("unused", LayerUseError, "'unused' was not called"),
        ("functional", LayerUseError, "'functional' was not called.*functional call"),
        ("sideways", LayerUseError, "'sideways' is not on the path to the embedding"),
        ("attention.out_proj", LayerUseError, "nn.MultiheadAttention, which never calls"),
        ("tied_one", LayerUseError, "'tied_one' is tied.*tied_two"),
        ("alias", LayerUseError, "'alias' is tied.*once_more"),
        ("norm", LayerNotFoundError, "LayerNorm, not a Linear"),
        ("once.", LayerNotFoundError, "'once.' is not in Toy"),
    ],
)
def test_unusable_layers_are_errors_that_say_so(path: str, error: type, message: str) -> None:
    toy = Toy()
    before = model_state(toy)
    with pytest.raises(error, match=message):
        run(toy, path)
    assert model_state(toy) == before
    run(Toy(), "once")


def test_an_unknown_architecture_says_what_to_pass() -> None:
    with pytest.raises(LayerNotFoundError, match=r"pass target_layer, e\.g\. one of 0, 1"):
        resolve_layer(nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2)))
    with pytest.raises(LayerNotFoundError, match=r"has no nn\.Linear layer, and gradients"):
        resolve_layer(nn.Sequential(nn.LayerNorm(2)))


def test_a_layer_shared_by_blocks_is_refused_in_a_real_model() -> None:
    from transformers import AlbertConfig, AlbertModel

    _, tokenizer = model_of("bert")
    config = AlbertConfig(
        vocab_size=200, hidden_size=16, embedding_size=8, num_attention_heads=2,
        intermediate_size=24, num_hidden_layers=2,
    )  # fmt: skip
    extractor = FungiExtractor.from_pretrained(
        AlbertModel(config),
        FungiConfig(target_layer="encoder.albert_layer_groups.0.albert_layers.0.attention.dense"),
        tokenizer,
    )
    with pytest.raises(LayerUseError, match="called 2 times"):
        extractor(["a card"])


def test_layers_are_ordered_by_number_not_by_spelling() -> None:
    model, tokenizer = tiny_text_model("bert", n_layers=11)
    assert resolve_layer(model)[0] == "encoder.layer.10.attention.output.dense"
    with pytest.raises(LayerNotFoundError, match=r"encoder\.layer\.10\.intermediate\.dense"):
        resolve_layer(model, "encoder.layer.11.output.dense")
    assert TextEncoder(model, tokenizer, FungiConfig()).layer_path.startswith("encoder.layer.10.")


def test_nothing_is_printed_and_no_warning_is_given(capfd) -> None:
    extractor = fitted()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        extractor(TEXTS)
    out, err = capfd.readouterr()
    assert (out, err) == ("", "")
    assert "fungi_hf.testing" in sys.modules
    assert KL().kind == "kl"
