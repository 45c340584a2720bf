"""A tiny encoder in a folder, shared by the tests of the adapters."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

import pytest

from fungi_hf import KL, FungiConfig, FungiExtractor, SimCLR
from tests.tiny import saved_model

if TYPE_CHECKING:
    from pathlib import Path

os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")

TEXTS = [
    "my card was lost",
    "how do you pay",
    "what is the new account",
    "please help me",
    "not paid",
    "the bank does not help me pay the new card",
    "it was my money",
    "a",
]
CONFIG = FungiConfig(objectives=(KL(latent_dim=32),))
FITTED = FungiConfig(
    objectives=(KL(latent_dim=32), SimCLR(n_views=3, latent_dim=16, n_negatives=4)), center=True
)


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model's folder as transformers writes it."""
    path = tmp_path_factory.mktemp("tiny-bert")
    return saved_model(path)


@pytest.fixture(scope="session")
def extractor(folder: Path) -> FungiExtractor:
    return FungiExtractor.from_pretrained(folder, CONFIG)


@pytest.fixture(scope="session")
def fitted(folder: Path) -> FungiExtractor:
    return FungiExtractor.from_pretrained(folder, FITTED).fit(TEXTS)


@pytest.fixture(scope="session")
def expected(extractor: FungiExtractor) -> Any:
    """[8, F] of `TEXTS`."""
    return extractor(TEXTS).array
