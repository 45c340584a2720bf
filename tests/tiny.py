"""A tiny extractor and some texts, for the tests above the engine."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Any

import torch

from fungi_hf import Activation, FungiConfig, FungiExtractor, SimCLR
from fungi_hf.config import KL
from fungi_hf.testing import tiny_text_model

if TYPE_CHECKING:
    from pathlib import Path

TRAIN = [
    "my card is lost",
    "please help me pay",
    "what is the new bank account",
    "how do you pay the old card",
    "it was my money",
    "do not pay me",
    "the card was not new, it was old",
    "please, please help: my account is lost!",
    "money",
    "what does the bank do",
    "is it my card or the old one you paid?",
    "how is you",
]
TEXTS = [
    "pay my card",
    "lost",
    *TRAIN[:3],
    "what? the bank paid me, but you paid the bank twice",
]
# Float32 rows of norm 1 to 2 from tiny random models: another batch rounds otherwise, by 3e-7 to
# 4e-6 on the processors tried. A row of another text, view or order is off by more than 1e-2.
ROUNDING = 2e-5
SIMCLR = SimCLR(n_views=4, latent_dim=8, n_negatives=6)
OBJECTIVES = (KL(latent_dim=24), SIMCLR, Activation())


@functools.cache
def model_of(family: str = "bert", dtype: str = "float64") -> tuple[Any, Any]:
    return tiny_text_model(family, dtype=getattr(torch, dtype))


def extractor_of(family: str = "bert", *, fresh: bool = False, **changes: Any) -> FungiExtractor:
    """An unfitted extractor on a shared model, or on a fresh copy of it."""
    fields = {"objectives": OBJECTIVES, "dtype": "float64", "pooling": "mean", **changes}
    dtype = fields["dtype"]
    model, tokenizer = (
        tiny_text_model(family, dtype=getattr(torch, dtype)) if fresh else model_of(family, dtype)
    )
    return FungiExtractor.from_pretrained(model, FungiConfig(**fields), tokenizer)


def fitted(family: str = "bert", **changes: Any) -> FungiExtractor:
    return extractor_of(family, **changes).fit(TRAIN)


def saved_model(folder: Path, family: str = "bert") -> Path:
    """Write a tiny float32 model and its tokenizer, as a folder that can be loaded."""
    model, tokenizer = tiny_text_model(family, dtype=torch.float32)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder
