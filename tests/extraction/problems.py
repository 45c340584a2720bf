"""Tiny encoders, layers and texts as data, and two slow ways to a per-sample gradient."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING

import torch
from torch import nn

from fungi_hf.config import FungiConfig
from fungi_hf.encoders.text import TextEncoder
from fungi_hf.extraction.batches import Budget, Sample
from fungi_hf.extraction.group import Group
from fungi_hf.extraction.plan import Plan
from fungi_hf.gradients.tape import reference_gradient, untouched
from fungi_hf.objectives import KLObjective, SimCLRObjective
from fungi_hf.testing import tiny_text_model

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

    from fungi_hf.gradients.factors import LayerFactors
    from fungi_hf.objectives import Objective

TEXTS = [
    "my card is lost",
    "pay",
    "how do you pay a new bank account? please help me, it is my old card.",
    "what is the money",
]
VIEWS = {  # three views each; repeats, and the original itself, on purpose
    TEXTS[0]: ["my card lost", "my card is", "my card lost"],
    TEXTS[1]: ["pay", "pay", "pay"],
    TEXTS[2]: ["how do you pay a bank account? please help me, it my card.", TEXTS[2], "do"],
    TEXTS[3]: ["what the money", "is the money", "what is the"],
}
MIDDLE = {
    "bert": "encoder.layer.1.attention.output.dense",
    "roberta": "encoder.layer.1.attention.output.dense",
    "electra": "encoder.layer.1.attention.output.dense",
    "deberta-v2": "encoder.layer.1.attention.output.dense",
    "mpnet": "encoder.layer.1.attention.attn.o",
    "distilbert": "transformer.layer.1.attention.out_lin",
    "modernbert": "layers.1.attn.Wo",
    "t5": "encoder.block.1.layer.0.SelfAttention.o",
    "mt5": "encoder.block.1.layer.0.SelfAttention.o",
}
MLP = {
    "bert": "encoder.layer.2.intermediate.dense",
    "roberta": "encoder.layer.1.output.dense",
    "electra": "encoder.layer.2.output.dense",
    "deberta-v2": "encoder.layer.2.intermediate.dense",
    "mpnet": "encoder.layer.2.output.dense",
    "distilbert": "transformer.layer.2.ffn.lin1",
    "modernbert": "layers.2.mlp.Wi",
    "t5": "encoder.block.2.layer.1.DenseReluDense.wo",
    "mt5": "encoder.block.2.layer.1.DenseReluDense.wi_0",
}
LAYERS = {"last": dict.fromkeys(MIDDLE, "auto"), "middle": MIDDLE, "mlp": MLP}
POOLINGS = {
    family: [
        *(["cls"] if family not in ("t5", "mt5") else []),
        "first",
        "last",
        "mean",
        *(["model"] if family in ("bert", "roberta", "mpnet") else []),
    ]
    for family in MIDDLE
}


@functools.cache
def model_of(family: str, attention: str = "sdpa", dtype: torch.dtype = torch.float64):
    return tiny_text_model(family, attention=attention, dtype=dtype)


def encoder_of(
    family: str,
    pooling: str = "mean",
    layer: str = "auto",
    *,
    attention: str = "sdpa",
    dtype: str = "float64",
) -> TextEncoder:
    model, tokenizer = model_of(family, attention, getattr(torch, dtype))
    config = FungiConfig(dtype=dtype, pooling=pooling, target_layer=layer)
    return TextEncoder(model, tokenizer, config)


def kl(encoder: TextEncoder) -> KLObjective:
    return KLObjective(width=encoder.width, seed=1, latent_dim=24)


def simclr(encoder: TextEncoder, logsumexp_temperature: float | None = None) -> SimCLRObjective:
    objective = SimCLRObjective(
        width=encoder.width,
        seed=1,
        n_views=3,
        latent_dim=12,
        logsumexp_temperature=logsumexp_temperature,
    )
    generator = torch.Generator().manual_seed(3)
    objective.fit(torch.randn(5, 2, encoder.width, generator=generator, dtype=torch.float64))
    return objective


def samples_of(encoder: TextEncoder, texts: Sequence[str] = TEXTS) -> list[Sample]:
    return [
        Sample(i, encoder.prepare([text])[0], {"simclr": encoder.prepare(VIEWS[text])})
        for i, text in enumerate(texts)
    ]


def fast(
    encoder: TextEncoder,
    objective: Objective,
    samples: Sequence[Sample] | None = None,
    budget: Budget | None = None,
    tokens: str = "all",
) -> LayerFactors:
    name = "kl" if objective.n_views == 1 else "simclr"
    plan = Plan(encoder=encoder, objectives={name: objective}, tokens=tokens)
    with untouched(encoder.model):
        group = Group(samples or samples_of(encoder), plan, budget or Budget())
        return group.factors(name)[encoder.layer_path]


def plain_embeddings(encoder: TextEncoder, texts: Sequence[str]) -> Tensor:
    """The model's own forward pass and textbook pooling, one text at a time: [N, D]."""
    rows = []
    for text in texts:
        batch = encoder.tokenizer([text], return_tensors="pt", return_token_type_ids=False)
        output = encoder.model(**batch)
        states = output.last_hidden_state[0]
        rows.append(
            {
                "cls": lambda states=states: states[0],
                "first": lambda states=states: states[0],
                "last": lambda states=states: states[-1],
                "mean": lambda states=states: states.mean(0),
                "model": lambda output=output: output.pooler_output[0],
            }[encoder.pooling]()
        )
    return torch.stack(rows)


def sample_loss(encoder: TextEncoder, objective: Objective, text: str) -> Tensor:
    inputs = [text] if objective.n_views == 1 else VIEWS[text]
    return objective.loss(plain_embeddings(encoder, inputs)[None].double())[0]


def by_loop(encoder: TextEncoder, objective: Objective, texts: Sequence[str] = TEXTS) -> Tensor:
    """One sample, one full backward: [B, m, n1]."""
    return torch.stack(
        [
            reference_gradient(
                encoder.model, encoder.layer, lambda t=t: sample_loss(encoder, objective, t)
            )[0]
            for t in texts
        ]
    )


def by_torch_func(encoder: TextEncoder, objective: Objective, text: str) -> Tensor:
    """`torch.func.grad` of `functional_call`: no hook, no `.grad`, no package code but the loss."""
    model, path = encoder.model, encoder.layer_path
    names = [f"{path}.weight", *([f"{path}.bias"] if encoder.layer.bias is not None else [])]
    constants = {n: p.detach() for n, p in model.named_parameters() if n not in names}
    wanted = {n: p.detach() for n, p in model.named_parameters() if n in names}

    class Whole(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.model = model

        def forward(self) -> Tensor:
            return sample_loss(encoder, objective, text)

    def loss(parameters: dict[str, Tensor]) -> Tensor:
        given = {f"model.{n}": p for n, p in (constants | parameters).items()}
        return torch.func.functional_call(Whole(), given, ())

    grads = torch.func.grad(loss)(wanted)
    columns = [grads[names[0]], *(grads[name][:, None] for name in names[1:])]
    return torch.cat(columns, dim=1).detach()


def worst(got: Tensor, reference: Tensor) -> float:
    """Frobenius norm of the difference over the reference's, worst sample."""
    difference = (got.double() - reference.double()).flatten(1).norm(dim=1)
    return float((difference / reference.double().flatten(1).norm(dim=1)).max())


def lowest_cosine(got: Tensor, reference: Tensor) -> float:
    one = torch.nn.functional.normalize(got.double().flatten(1), eps=1e-300)
    two = torch.nn.functional.normalize(reference.double().flatten(1), eps=1e-300)
    return float((one * two).sum(1).min())
