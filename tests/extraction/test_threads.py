"""A plain forward pass of the user's model in another thread, in the middle of an extraction."""

from __future__ import annotations

import threading
from typing import Any

import numpy as np
import pytest
import torch

from fungi_hf import FungiConfig, FungiExtractor, SimCLR
from fungi_hf.testing import tiny_text_model
from tests.encoders.audio_models import build
from tests.tiny import ROUNDING, TEXTS, TRAIN

SIMCLR = SimCLR(n_views=4, latent_dim=8, n_negatives=6)
LATE = SimCLR(n_views=4, latent_dim=8, n_negatives=6, late_views=1)


class Neighbour:
    """Runs a plain pass in a thread of its own whenever a module of the model is called."""

    def __init__(self, model: torch.nn.Module, inputs: dict[str, Any]) -> None:
        self.model, self.inputs, self.outputs = model, inputs, []
        self.owner, self.wanted = threading.get_ident(), self.plain()

    def plain(self) -> Any:
        with torch.inference_mode():
            return self.model(**self.inputs).last_hidden_state.clone()

    def __call__(self, *_: Any) -> None:
        if threading.get_ident() != self.owner or len(self.outputs) > 30:
            return
        thread = threading.Thread(target=lambda: self.outputs.append(self.plain()))
        thread.start()
        thread.join()

    def disturb(self, modules: list[torch.nn.Module]) -> list[Any]:
        return [module.register_forward_pre_hook(self) for module in modules]


def run(extractor: FungiExtractor, raws: list[Any], inputs: dict[str, Any]) -> int:
    """Extract beside a neighbour, compare both with their results alone; count its passes."""
    model = extractor.encoder.model
    alone = extractor(raws).array
    neighbour = Neighbour(model, inputs)
    modules = [m for name, m in model.named_modules() if isinstance(m, torch.nn.LayerNorm)]
    handles = neighbour.disturb(modules)
    try:
        beside = extractor(raws).array
    finally:
        for handle in handles:
            handle.remove()
    for output in neighbour.outputs:
        assert (output - neighbour.wanted).abs().max() < ROUNDING
    assert np.abs(beside - alone).max() < ROUNDING
    assert (neighbour.plain() - neighbour.wanted).abs().max() < ROUNDING
    return len(neighbour.outputs)


@pytest.mark.parametrize("family", ["bert", "roberta", "distilbert", "mpnet"])
@pytest.mark.parametrize("pooling", ["cls", "mean"])
@pytest.mark.parametrize("views", ["none", "whole", "late"])
def test_neither_pass_disturbs_the_other(family: str, pooling: str, views: str) -> None:
    model, tokenizer = tiny_text_model(family)
    extra = {"none": (), "whole": (SIMCLR,), "late": (LATE,)}[views]
    config = FungiConfig(objectives=("kl", *extra), pooling=pooling, dtype="float64")
    extractor = FungiExtractor.from_pretrained(model.eval(), config, tokenizer).fit(TRAIN)
    inputs = dict(tokenizer(TRAIN[:3], padding=True, return_tensors="pt"))
    inputs.pop("token_type_ids", None)
    assert run(extractor, TEXTS, inputs) > 3


@pytest.mark.parametrize("family", ["wav2vec2", "wavlm", "hubert"])
@pytest.mark.parametrize("late", [None, 1])
def test_sounds_too(family: str, late: int | None) -> None:
    model, processor = build(family)
    simclr = SimCLR(n_views=2, latent_dim=8, n_negatives=2, late_views=late)
    config = FungiConfig(objectives=("kl", simclr))
    rng = np.random.default_rng(0)
    clips = [(rng.normal(0, 0.1, 8000 + 800 * i).astype(np.float32), 16000) for i in range(3)]
    extractor = FungiExtractor.from_pretrained(model.eval(), config, processor).fit(clips)
    waves = torch.as_tensor(rng.normal(0, 1, (2, 6000)), dtype=torch.float32)
    assert run(extractor, clips, {"input_values": waves}) > 3


def test_two_extractions_of_one_model_take_turns() -> None:
    model, tokenizer = tiny_text_model("bert")
    made = [
        FungiExtractor.from_pretrained(
            model, FungiConfig(pooling=pooling, dtype="float64"), tokenizer
        )
        for pooling in ("cls", "mean")
    ]
    wanted = [extractor(TEXTS).array for extractor in made]
    found: dict[int, list[np.ndarray]] = {0: [], 1: []}

    def work(place: int) -> None:
        found[place] += [made[place](TEXTS).array for _ in range(8)]

    threads = [threading.Thread(target=work, args=(place,)) for place in (0, 1)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for place, rows in found.items():
        assert len(rows) == 8
        assert all(np.abs(row - wanted[place]).max() < ROUNDING for row in rows)
