"""Encoders on fresh copies of the tiny audio models."""

import copy

import pytest

from fungi_hf.config import FungiConfig
from fungi_hf.encoders.audio.encoder import AudioEncoder

from .audio_models import FAMILIES, build


@pytest.fixture(scope="module")
def originals():
    return {name: build(name) for name in FAMILIES}


@pytest.fixture
def make(originals):
    def give(name, config=None, dtype=None):
        model, processor = originals[name]
        model = copy.deepcopy(model).eval()
        if dtype is not None:
            model = model.to(dtype)
        return AudioEncoder(model, processor, config or FungiConfig())

    return give
