"""Weights that change under a loaded extractor: refused as at load time, or right gradients."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import peft
import pytest
import torch
from torch import nn

from fungi_hf import FungiConfig, FungiExtractor, SimCLR
from fungi_hf.errors import ConfigError, EncoderError
from fungi_hf.testing import check_encoder, tiny_text_model
from tests.tiny import ROUNDING, TEXTS, TRAIN, extractor_of

if TYPE_CHECKING:
    from pathlib import Path

# peft reads a deprecated name of transformers.
pytestmark = pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing. is deprecated")
POOLINGS = ["cls", "mean"]


def fresh(**changes: Any) -> FungiExtractor:
    return extractor_of(fresh=True, dtype="float32", **{"objectives": ("kl",), **changes})


def lora(model: nn.Module) -> Any:
    targets = ["query", "value", "attention.output.dense"]
    return peft.get_peft_model(
        model, peft.LoraConfig(r=2, target_modules=targets, init_lora_weights=False)
    )


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_another_dtype_is_the_error_of_load_time(dtype: torch.dtype, tmp_path: Path) -> None:
    extractor = fresh()
    name = str(dtype).removeprefix("torch.")
    extractor.encoder.model.to(dtype)
    message = f"the model is {name}, the config says dtype='float32'"
    for use in (
        lambda: extractor(TEXTS),
        lambda: extractor.fit(TRAIN),
        lambda: extractor.fit_transform(TRAIN),
        lambda: extractor.save_pretrained(tmp_path / "saved"),
        lambda: FungiExtractor.from_pretrained(
            extractor.encoder.model, FungiConfig(), extractor.encoder.tokenizer
        ),
    ):
        with pytest.raises(ConfigError, match=message):
            use()
    assert not (tmp_path / "saved").exists()
    extractor.encoder.model.to(torch.float32)
    assert np.isfinite(extractor(TEXTS).array).all()


def test_one_layer_in_another_dtype_is_refused() -> None:
    extractor = fresh()
    extractor.encoder.layer.half()
    with pytest.raises(ConfigError, match="the model is float16, the config says"):
        extractor(TEXTS)


@pytest.mark.parametrize("pooling", POOLINGS)
@pytest.mark.parametrize("how", ["in place", "data", "one matrix", "load_state_dict"])
def test_edited_weights_count_at_once(pooling: str, how: str) -> None:
    extractor = fresh(pooling=pooling)
    before = extractor(TEXTS)
    model = extractor.encoder.model
    with torch.no_grad():
        if how == "in place":
            next(model.parameters()).mul_(1.5)
        elif how == "data":
            for p in model.parameters():
                p.data *= 1.1
        elif how == "one matrix":
            extractor.encoder.layer.weight.data += 0.1
        else:
            other = {name: value * 1.1 for name, value in model.state_dict().items()}
            model.load_state_dict(other)
    after = extractor(TEXTS)
    again = FungiExtractor.from_pretrained(model, extractor.config, extractor.encoder.tokenizer)
    assert after.fingerprint == again.fingerprint != before.fingerprint
    assert np.abs(after.array - again(TEXTS).array).max() < ROUNDING


def test_state_of_old_weights_warns() -> None:
    extractor = fresh(center=True).fit(TRAIN)
    first = extractor(TEXTS)
    with torch.no_grad():
        next(extractor.encoder.model.parameters()).mul_(1.5)
    with pytest.warns(UserWarning, match="weights changed after fit"):
        extractor(TEXTS)
    extractor(TEXTS)  # said once
    assert extractor.fit(TRAIN)(TEXTS).fingerprint != first.fingerprint
    with torch.no_grad():
        next(extractor.encoder.model.parameters()).mul_(0.5)
    extractor.fit(TRAIN)  # nothing is said of a state that is replaced


@pytest.mark.parametrize("pooling", POOLINGS)
@pytest.mark.parametrize("late", [None, 1])
def test_adapters_added_and_merged_give_right_features(pooling: str, late: int | None) -> None:
    simclr = SimCLR(n_views=4, latent_dim=8, n_negatives=6, late_views=late)
    config = {"pooling": pooling, "objectives": ("kl", simclr)}
    extractor = fresh(**config).fit(TRAIN)
    tokenizer = extractor.encoder.tokenizer
    bare = extractor(TEXTS)
    adapted = lora(extractor.encoder.model)
    extractor.fit(TRAIN)
    held = extractor(TEXTS)
    assert np.abs(held.array - bare.array).max() > 1e-2
    given = FungiExtractor.from_pretrained(adapted, extractor.config, tokenizer).fit(TRAIN)
    assert given.encoder.layer_path.endswith(".base_layer")
    full = FungiExtractor(extractor.encoder.with_full_last_block(), extractor.config).fit(TRAIN)
    for other in (given, full):
        assert np.abs(held.array - other(TEXTS).array).max() < ROUNDING
    merged = adapted.merge_and_unload()
    extractor.fit(TRAIN)
    after = extractor(TEXTS)
    assert after.fingerprint not in (held.fingerprint, bare.fingerprint)
    assert np.abs(after.array - held.array).max() < 10 * ROUNDING
    again = FungiExtractor.from_pretrained(merged, extractor.config, tokenizer).fit(TRAIN)
    assert np.abs(after.array - again(TEXTS).array).max() < ROUNDING


@pytest.mark.parametrize("pooling", POOLINGS)
def test_the_gradient_of_an_adapted_layer_is_the_loops(pooling: str) -> None:
    model, tokenizer = tiny_text_model("bert", dtype=torch.float64)
    config = FungiConfig(dtype="float64", pooling=pooling)
    check_encoder(
        FungiExtractor.from_pretrained(lora(model).double(), config, tokenizer).encoder, TEXTS
    )


def test_learned_prompts_are_refused() -> None:
    model, tokenizer = tiny_text_model("bert")
    settings = peft.PromptTuningConfig(task_type="FEATURE_EXTRACTION", num_virtual_tokens=2)
    with pytest.raises(EncoderError, match="learned prompts"):
        FungiExtractor.from_pretrained(peft.get_peft_model(model, settings), None, tokenizer)


@pytest.mark.parametrize("way", ["wrapper", "in place"])
def test_compiling_after_loading_changes_nothing(way: str) -> None:
    extractor = fresh()
    before = extractor(TEXTS)
    if way == "in place":
        extractor.encoder.model.compile(backend="eager")
    else:
        torch.compile(extractor.encoder.model, backend="eager")
    after = extractor(TEXTS)
    assert after.fingerprint == before.fingerprint
    assert np.array_equal(after.array, before.array)


def stand_in(home: str, name: str, base: type[nn.Module] = nn.Linear) -> type[nn.Module]:
    return type(name, (base,), {"__module__": home})


QUANTISED = [
    ("bitsandbytes.nn.modules", "Linear8bitLt"),
    ("bitsandbytes.nn.modules", "Linear4bit"),
    ("gptqmodel.nn_modules.qlinear.torch", "TorchQuantLinear"),
    ("awq.modules.linear.gemm", "WQLinear_GEMM"),
    ("hqq.core.quantize", "HQQLinear"),
    ("optimum.quanto.nn.qlinear", "QLinear"),
    ("transformers.integrations.finegrained_fp8", "FP8Linear"),
]


@pytest.mark.parametrize(("home", "name"), QUANTISED, ids=[name for _, name in QUANTISED])
@pytest.mark.parametrize("when", ["before", "after"])
def test_quantised_layers_are_refused_by_name(home: str, name: str, when: str) -> None:
    model, tokenizer = tiny_text_model("bert")
    extractor = FungiExtractor.from_pretrained(model, None, tokenizer)
    inner = model.encoder.layer[0].attention.self
    inner.query = stand_in(home, name)(inner.query.in_features, inner.query.out_features)
    match = f"encoder.layer.0.attention.self.query is a {home.partition('.')[0]} {name}"
    load = lambda: FungiExtractor.from_pretrained(model, None, tokenizer)
    use = load if when == "before" else lambda: extractor(TEXTS)
    with pytest.raises(EncoderError, match=match):
        use()


def test_quantised_tensors_and_integers_are_refused() -> None:
    model, tokenizer = tiny_text_model("bert")
    query = model.encoder.layer[0].attention.self.query
    kind = type("AffineQuantizedTensor", (nn.Parameter,), {"__module__": "torchao.dtypes"})
    query.weight = kind(query.weight.detach())
    with pytest.raises(EncoderError, match=r"self\.query is a torchao AffineQuantizedTensor"):
        FungiExtractor.from_pretrained(model, None, tokenizer)
    model, tokenizer = tiny_text_model("bert")
    model.encoder.layer[0].attention.self.register_buffer(
        "qweight", torch.ones(3, dtype=torch.int32)
    )
    with pytest.raises(EncoderError, match="with int32 weights"):
        FungiExtractor.from_pretrained(model, None, tokenizer)


@pytest.mark.filterwarnings("ignore:torch.quantize_per_tensor")
def test_dynamic_quantisation_of_a_loaded_model_is_refused() -> None:
    extractor = fresh()
    with pytest.warns(DeprecationWarning, match="torch.ao.quantization"):
        torch.ao.quantization.quantize_dynamic(
            extractor.encoder.model, {nn.Linear}, dtype=torch.qint8, inplace=True
        )
    with pytest.raises(EncoderError, match="is quantised"):
        extractor(TEXTS)


def test_a_replaced_target_layer_is_named() -> None:
    extractor = fresh()
    output = extractor.encoder.model.encoder.layer[-1].attention.output
    output.dense = nn.Linear(output.dense.in_features, output.dense.out_features)
    with pytest.raises(EncoderError, match="the target layer is no longer a part"):
        extractor(TEXTS)
