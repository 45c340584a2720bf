"""Late views equal their definition, block by block, for every family and every k."""

from __future__ import annotations

import pytest
import torch

from fungi_hf.encoders.late.stack import BlockStack
from fungi_hf.extraction.batches import Budget
from fungi_hf.extraction.group import Group
from fungi_hf.extraction.plan import Plan
from fungi_hf.gradients.tape import reference_gradient, untouched
from tests.extraction import late_reference
from tests.extraction.problems import MIDDLE, MLP, encoder_of, fast, simclr, worst

EXACT = 1e-10  # float64: rounding alone
DEPTHS = (1, 2, 3)


@pytest.mark.parametrize("pooling", ["first", "mean"])
@pytest.mark.parametrize("k", DEPTHS)
@pytest.mark.parametrize("family", MIDDLE)
def test_embeddings_equal_the_definition(family: str, k: int, pooling: str) -> None:
    encoder = encoder_of(family, pooling)
    plan = Plan(encoder=encoder, objectives={})
    with untouched(encoder.model):
        group = Group(late_reference.samples_of(encoder, k), plan, Budget(batch_tokens=40))
        got = group.view_embeddings("simclr")
        for i, text in enumerate(late_reference.TEXTS):
            for view, kept in enumerate(
                late_reference.kept_tokens(len(encoder.tokenizer(text)["input_ids"]))
            ):
                expected = late_reference.view_embedding(encoder, text, kept, k)
                assert (got[i, view] - expected).norm() < EXACT * expected.norm()


@pytest.mark.parametrize("family", MIDDLE)
def test_all_blocks_equal_the_model_on_the_tokens_that_stay(family: str) -> None:
    """Absolute positions are those in the untouched text, relative ones those in what stays."""
    encoder = encoder_of(family, "mean")
    plan = Plan(encoder=encoder, objectives={})
    with untouched(encoder.model), torch.no_grad():
        samples = late_reference.samples_of(encoder, late_reference.N_BLOCKS)
        got = Group(samples, plan, Budget()).view_embeddings("simclr")
        for i, text in enumerate(late_reference.TEXTS):
            ids = torch.tensor(encoder.tokenizer([text])["input_ids"])
            for view, kept in enumerate(late_reference.kept_tokens(ids.shape[1])):
                where = {}
                if family not in late_reference.RELATIVE:
                    offset = 2 if family in ("roberta", "mpnet") else 0
                    where = {"position_ids": torch.tensor([kept]) + offset}
                states = encoder.model(input_ids=ids[:, kept], **where).last_hidden_state
                expected = states[0].mean(0)
                assert (got[i, view] - expected).norm() < EXACT * expected.norm()


GRADIENTS = [
    *((family, pooling, "auto", k) for family in MIDDLE for pooling in ("first", "mean")
      for k in (1, 2)),
    *((family, "mean", MIDDLE[family], 2) for family in MIDDLE),
    *((family, "first", MLP[family], 2) for family in MIDDLE),
    ("bert", "first", "encoder.layer.2.attention.self.query", 1),
    ("bert", "first", "encoder.layer.2.attention.self.value", 1),
    ("bert", "mean", "encoder.layer.2.attention.self.key", 1),
    ("bert", "model", "auto", 1),
    ("mpnet", "model", "pooler.dense", 2),
]  # fmt: skip


@pytest.mark.parametrize(("family", "pooling", "layer", "k"), GRADIENTS)
def test_gradients_equal_the_loop(family: str, pooling: str, layer: str, k: int) -> None:
    encoder = encoder_of(family, pooling, layer)
    objective = simclr(encoder)
    expected = torch.stack(
        [
            reference_gradient(
                encoder.model,
                encoder.layer,
                lambda text=text: late_reference.sample_loss(encoder, objective, text, k),
            )[0]
            for text in late_reference.TEXTS
        ]
    )
    got = fast(encoder, objective, late_reference.samples_of(encoder, k), Budget(batch_tokens=60))
    assert worst(got.materialise(), expected) < EXACT


def test_blocks_that_pass_something_on_are_run_for_it() -> None:
    """A block whose second output is a tensor: the first one runs, so that others receive it."""

    class Block(torch.nn.Module):
        def __init__(self, first: bool) -> None:
            super().__init__()
            self.dense = torch.nn.Linear(4, 4)
            self.first = first

        def forward(self, hidden_states, bias=None):
            bias = torch.arange(hidden_states.shape[1]).float()[:, None] if self.first else bias
            return self.dense(hidden_states) + bias, bias

    class Model(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layers = torch.nn.ModuleList([Block(i == 0) for i in range(3)])

        def forward(self, hidden):
            bias = None
            for layer in self.layers:
                hidden, bias = layer(hidden, bias)
            return hidden

    model = Model()
    stack = BlockStack(model, "layers.2.dense")
    x = torch.randn(2, 5, 4, generator=torch.Generator().manual_seed(0))
    with stack.watching([1]) as states:
        model(x)
    kept = states[1][:, [0, 2, 3]]
    with stack.entered(1, kept):
        got = model(torch.zeros(2, 3, 4))
    expected = model.layers[2].dense(kept) + torch.arange(3.0)[:, None]
    assert torch.allclose(got, expected)
