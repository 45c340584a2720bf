"""Budgets by device, and what is found by trying."""

import dataclasses

import numpy as np
import pytest
import torch

from fungi_hf.errors import InputError, NotFittedError
from fungi_hf.extraction.batches import Budget, cut_batches
from fungi_hf.extraction.calibration import calibrated
from tests.tiny import ROUNDING, TEXTS, TRAIN, extractor_of, fitted


def batches(samples, budget):
    return len(cut_batches([sample.original for sample in samples], budget))


@pytest.mark.parametrize("pooling", ["cls", "mean"])
def test_a_device_gets_larger_calls(pooling):
    extractor = extractor_of(fresh=True, pooling=pooling)
    assert extractor.budget.batch_tokens == 2048
    extractor._plan.encoder.model.to("meta")
    there = extractor._plan.budget
    assert there.batch_tokens == 32768
    assert there.group_tokens == (131072 if pooling == "cls" else 32768)
    samples = next(iter(extractor._reader.read(TRAIN * 300)))
    assert 2 * batches(samples, there) < batches(samples, Budget())


@pytest.mark.parametrize("pooling", ["cls", "mean"])
def test_both_budgets_give_the_same_features(pooling):
    extractor = fitted(pooling=pooling, dtype="float32")
    texts = [*TEXTS, *TRAIN] * 12
    few = extractor(texts).array
    extractor.budget = Budget(batch_tokens=32768, group_tokens=131072)
    assert np.allclose(few, extractor(texts).array, rtol=0, atol=ROUNDING)
    extractor.budget = Budget(batch_tokens=64, group_tokens=64)
    assert np.allclose(few, extractor(texts).array, rtol=0, atol=ROUNDING)


@pytest.mark.parametrize(
    ("seconds", "expected"),
    [
        ({1024: 4.0, 2048: 2.0, 4096: 1.0, 8192: 0.99}, 4096),  # one in a hundred is no gain
        ({1024: 4.0, 2048: 5.0}, 1024),
        ({1024: 4.0, 2048: 3.0, 4096: 2.0, 8192: 1.0, 16384: 0.5}, 16384),  # all in one call
        ({1024: 4.0, 2048: torch.OutOfMemoryError("full")}, 1024),
    ],
)
def test_calls_are_doubled_while_it_pays(seconds, expected):
    extractor = extractor_of(objectives=("kl",))
    tried = []

    def run(samples, plan, budget):
        tried.append(budget.batch_tokens)
        found = seconds[budget.batch_tokens]
        if isinstance(found, Exception):
            raise found
        assert budget.batch_size == 7
        return found

    start = dataclasses.replace(extractor.budget, batch_size=7)
    texts = TRAIN * 120
    samples = next(iter(extractor._reader.read(texts)))
    assert 8192 < sum(sample.cost for sample in samples) <= 16384
    found = calibrated(extractor._reader, extractor._plan, texts, start, run=run)
    assert found.batch_tokens == expected
    share = extractor._plan.budget.group_tokens // 2048
    assert found.group_tokens == share * expected
    assert tried == [1024, *seconds]  # the first run is for warmth


def test_an_extractor_calibrates_itself():
    extractor = fitted()
    before = extractor(TEXTS).array
    found = extractor.calibrate(TRAIN)
    assert extractor.budget is found
    assert found.batch_tokens >= 1024
    assert np.allclose(extractor(TEXTS).array, before, rtol=0, atol=ROUNDING)
    with pytest.raises(InputError, match="calibrate needs at least one input"):
        extractor.calibrate([])
    with pytest.raises(NotFittedError, match="simclr"):
        extractor_of().calibrate(TEXTS)
