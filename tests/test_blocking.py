"""Between two batches nothing waits for the device: on "meta" every use of a value raises."""

from __future__ import annotations

import copy
import traceback
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from fungi_hf import DINO, IBOT, Activation, FungiConfig, SimCLR
from fungi_hf.config import KL
from fungi_hf.devices import Mirror, received, sent
from fungi_hf.encoders.padding import broad_mask
from fungi_hf.encoders.text import TextEncoder
from fungi_hf.encoders.vision.encoder import VisionEncoder
from fungi_hf.extraction.batches import Budget, cut_groups
from fungi_hf.extraction.group import Chunk, Group
from fungi_hf.extraction.inputs import InputReader
from fungi_hf.extraction.plan import Plan
from fungi_hf.gradients.tape import live_rows, untouched
from fungi_hf.testing import tiny_text_model
from tests.encoders.vision.kit import SETTINGS, pictures
from tests.encoders.vision.kit import model_of as vision_model
from tests.tiny import TEXTS, fitted

META = torch.device("meta")
NEGATIVES = SimCLR(n_views=3, latent_dim=8, n_negatives=6)
LATE = SimCLR(name="late", n_views=3, latent_dim=8, n_negatives=6, late_views=1)


class Copies(TorchDispatchMode):
    """Counts operations, and copies from the host to the device that the host waits for."""

    def __init__(self):
        super().__init__()
        self.operations, self.waits = 0, []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        self.operations += 1
        if func is torch.ops.aten._to_copy.default:
            to = kwargs.get("device", args[0].device)
            if torch.device(to).type != args[0].device.type and not kwargs.get("non_blocking"):
                self.waits.append(traceback.format_stack(limit=9)[-5])
        elif func is torch.ops.aten.copy_.default and args[0].device != args[1].device:
            self.waits.append(traceback.format_stack(limit=9)[-5])
        return func(*args, **kwargs)


def run(encoder, config, inputs, budget=None):
    """Compute the raw blocks of some inputs, and say what was done for them."""
    plan = Plan.of(encoder, config)
    for spec in config.objectives:
        if spec.needs_fit:
            plan.objectives[spec.name].negatives = torch.nn.functional.normalize(
                torch.randn(12, 8, dtype=torch.float64), dim=-1
            )
    samples = next(iter(InputReader(plan.encoder, config).read(inputs)))
    groups = cut_groups(samples, budget or Budget(group_tokens=64))
    with untouched(plan.encoder.model), Copies() as copies:
        chunk = Chunk(len(samples), plan)
        for some in groups:
            Group(some, plan, budget or plan.budget).write(chunk)
        chunk.flush()
    assert len(groups) > 1 or budget is not None
    return chunk, copies


@pytest.mark.parametrize("sketch", ["khatri_rao", "rademacher", "none"])
@pytest.mark.parametrize("pooling", ["cls", "mean", "last", "model"])
@pytest.mark.parametrize("family", ["bert", "roberta"])
def test_texts_run_to_their_blocks_without_a_value_of_the_device(family, pooling, sketch):
    model, tokenizer = tiny_text_model(family)
    late = (LATE,) if pooling != "model" else ()
    objectives = (KL(latent_dim=8), NEGATIVES, DINO(n_views=4, latent_dim=8), *late, Activation())
    config = FungiConfig(objectives=objectives, pooling=pooling, sketch=sketch, sketch_dim=16)
    encoder = TextEncoder(copy.deepcopy(model).to(META), tokenizer, config)
    chunk, copies = run(encoder, config, TEXTS)
    assert copies.waits == []
    assert {block.device for block in chunk.blocks.values()} == {META}
    assert chunk.blocks["kl"].shape[0] == len(TEXTS)


@pytest.mark.parametrize("sketch", ["khatri_rao", "sparse", "none"])
@pytest.mark.parametrize("pooling", ["cls", "mean"])
def test_several_layers_run_to_their_blocks_without_a_value_of_the_device(pooling, sketch):
    model, tokenizer = tiny_text_model("bert")
    layers = ("auto", "encoder.layer.0.intermediate.dense", "encoder.layer.1.output.dense")
    late = replace(LATE, layer=("auto", "encoder.layer.2.output.dense"))
    objectives = (KL(latent_dim=8, layer=layers), replace(NEGATIVES, layer=layers[1:]), late)
    config = FungiConfig(objectives=objectives, pooling=pooling, sketch=sketch, sketch_dim=16)
    encoder = TextEncoder(copy.deepcopy(model).to(META), tokenizer, config)
    chunk, copies = run(encoder, config, TEXTS)
    assert copies.waits == []
    assert {block.device for block in chunk.blocks.values()} == {META}
    assert len(chunk.blocks) == 8


@pytest.mark.parametrize("pooling", ["cls", "mean"])
@pytest.mark.parametrize(
    ("family", "third"),  # DINOv2 of earlier transformers offers no late views
    [("vit", LATE), ("vit", IBOT(latent_dim=8)), ("dinov2", IBOT(latent_dim=8))],
)
def test_pictures_run_to_their_blocks_without_a_value_of_the_device(family, pooling, third):
    model = copy.deepcopy(vision_model(family, torch.float32))
    objectives = (KL(latent_dim=8), NEGATIVES, third, Activation())
    config = FungiConfig(objectives=objectives, pooling=pooling, sketch_dim=16)
    encoder = VisionEncoder(model, SETTINGS, config)
    encoder.model.to(META)
    chunk, copies = run(encoder, config, pictures(4), Budget(batch_tokens=64, group_tokens=64))
    assert copies.waits == []
    assert {block.device for block in chunk.blocks.values()} == {META}


def test_a_chunk_comes_back_in_one_copy(monkeypatch):
    extractor = fitted()
    copies = []
    monkeypatch.setattr(
        "fungi_hf.extraction.group.received", lambda flat: copies.append(flat.shape) or flat
    )
    monkeypatch.setattr(torch.Tensor, "cpu", None)
    features = extractor(TEXTS)
    widths = sum(extractor._plan.widths.values())
    assert copies == [(len(TEXTS) * widths,)]
    monkeypatch.undo()
    assert np.array_equal(features.array, extractor(TEXTS).array)


def test_operations_grow_with_batches_and_not_with_texts():
    model, tokenizer = tiny_text_model("bert")
    config = FungiConfig(objectives=(KL(latent_dim=8),), pooling="cls", sketch_dim=16)
    encoder = TextEncoder(copy.deepcopy(model).to(META), tokenizer, config)
    large = Budget(batch_tokens=1 << 20, group_tokens=1 << 20)
    few, many = (run(encoder, config, ["money"] * n, large)[1].operations for n in (2, 90))
    assert many == few


def test_what_is_sent_is_not_waited_for(monkeypatch):
    asked = []
    real = torch.Tensor.to

    def watched(self, *args, **kwargs):
        asked.append(kwargs.get("non_blocking", False))
        return real(self, *args, **kwargs)

    monkeypatch.setattr(torch.Tensor, "to", watched)
    rows = torch.arange(3)
    assert sent(rows, META).device == META
    assert asked == [True]
    here = torch.device("cpu")
    assert sent(rows, here) is rows
    assert torch.equal(received(rows), rows)


def test_a_constant_is_sent_once():
    weight, other = torch.randn(3, 2, dtype=torch.float64), torch.randn(3, 2, dtype=torch.float64)
    mirror = Mirror()
    there = torch.empty(1, device=META)
    first = mirror(weight, there)
    assert first.device == META
    assert first.dtype == there.dtype
    assert mirror(weight, there) is first
    assert mirror(weight, weight) is weight
    assert torch.equal(mirror(other, torch.empty(1)), other.float())


@pytest.mark.parametrize("family", ["bert", "roberta", "electra"])
def test_the_broad_mask_hides_what_the_flat_one_hides(family):
    model, tokenizer = tiny_text_model(family, dtype=torch.float64)
    assert model.config._attn_implementation == "sdpa"
    batch = tokenizer(TEXTS, padding=True, return_tensors="pt")
    batch.pop("token_type_ids", None)
    with torch.no_grad():
        flat = model(**batch).last_hidden_state
        broad = model(**{**batch, "attention_mask": broad_mask(batch["attention_mask"])})
        even = batch["input_ids"][:1, : int(batch["attention_mask"][0].sum())]
        without = model(input_ids=even, attention_mask=None).last_hidden_state
        ones = model(input_ids=even, attention_mask=torch.ones_like(even)).last_hidden_state
    shown = batch["attention_mask"].bool()
    assert torch.allclose(flat[shown], broad.last_hidden_state[shown], rtol=0, atol=1e-12)
    assert torch.allclose(without, ones, rtol=0, atol=1e-12)


@pytest.mark.parametrize("tokens", [1, 5])
def test_rows_that_are_not_looked_for_add_nothing(tokens):
    generator = torch.Generator().manual_seed(0)
    d = torch.randn(4, tokens, 6, generator=generator)
    a = torch.randn(4, tokens, 3, generator=generator)
    d[1, tokens - 1] = 0  # padding, whose input may be anything
    a[1, tokens - 1] = torch.inf
    owners = torch.tensor([[0], [1], [-1], [2]]).expand(-1, tokens)
    looked, kept = (
        live_rows(d, a, owners, 3, bias=True, looks=looks).materialise() for looks in (True, False)
    )
    assert kept.isfinite().all()
    # The bias of a row with a zero delta adds zero, too.
    assert torch.allclose(looked, kept, rtol=0, atol=1e-6)
    d[0, 0] = torch.nan
    assert live_rows(d, a, owners, 3, bias=True, looks=False).materialise()[0].isnan().any()
