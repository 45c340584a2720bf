"""The memory bank: what it holds, in any order, within its bound, and how it votes."""

from __future__ import annotations

import gc
import weakref
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fungi_hf.evaluation.segmentation import MemoryBank, SegmentationProtocol, bank
from fungi_hf.evaluation.segmentation.builder import BankBuilder
from fungi_hf.evaluation.segmentation.examples import read_example
from tests.evaluation.segmentation import references, scenes

RULE = SegmentationProtocol(n_neighbors=3, bank_rows=20, ignore=(9,))


def training(seed, n_images, n_classes=4):
    """Images of uneven grids and sizes, some pixels ignored, some images without a label."""
    rng = np.random.default_rng(seed)
    pairs = []
    for _ in range(n_images):
        grid = tuple(rng.integers(1, 5, 2).tolist())
        mask = rng.integers(0, n_classes, (grid[0] * 2, grid[1] * 3))
        mask[rng.random(mask.shape) < rng.choice([0, 0.5, 1])] = 9
        pairs.append((scenes.noise(rng, grid), mask))
    pairs[0][1][0, 0] = 0
    return pairs


@settings(max_examples=60, deadline=None)
@given(
    st.integers(0, 1000),
    st.integers(1, 12),
    st.one_of(st.none(), st.integers(1, 6)),
    st.one_of(st.none(), st.integers(1, 60)),
    st.sampled_from([None, 0]),
    st.sampled_from(["float32", "float16"]),
    st.randoms(use_true_random=False),
)
def test_the_bank_is_the_slow_one_in_any_order(
    seed, n_images, n_drawn, rows, void, dtype, shuffler
):
    rule = replace(RULE, bank_rows=rows, void_class=void, key_dtype=dtype, seed=seed)
    pairs = training(seed, n_images)
    examples = [read_example(one, 4, rule) for one in pairs]
    keys, values = references.bank(examples, rule, n_drawn)
    shuffler.shuffle(examples)
    builder = BankBuilder(rule, n_images=n_drawn)
    for one in examples:
        builder.add(one)
    found = MemoryBank.of(builder)
    if n_drawn is None:
        again = MemoryBank.build(pairs, n_classes=4, protocol=rule)
        np.testing.assert_array_equal(again.keys, found.keys)
    np.testing.assert_array_equal(found.keys, keys)
    np.testing.assert_allclose(found.values, values, atol=1e-6)
    assert found.keys.dtype == dtype
    np.testing.assert_allclose(found.values.sum(axis=1), 1, atol=1e-6)
    assert rows is None or len(found) <= rows


def test_the_bound_is_reached_and_the_seed_chooses():
    rng = np.random.default_rng(0)
    pairs = [(scenes.noise(rng, (4, 4)), scenes.blocky(rng, (4, 4))) for _ in range(7)]
    found = [
        MemoryBank.build(pairs, n_classes=5, protocol=replace(RULE, bank_rows=50, seed=seed))
        for seed in (0, 0, 1)
    ]
    assert [len(one) for one in found] == [50, 50, 50]
    np.testing.assert_array_equal(found[0].keys, found[1].keys)
    assert not np.array_equal(found[0].keys, found[2].keys)
    assert found[0].n_images == 7


def test_the_bound_favours_patches_of_rare_classes():
    rng = np.random.default_rng(0)
    pairs = []
    for _ in range(20):
        mask = np.zeros((8, 8), int)
        mask[tuple(rng.integers(0, 8, 2))] = 1  # one patch of 64
        pairs.append((scenes.noise(rng, (8, 8)), mask))
    found = MemoryBank.build(pairs, n_classes=2, protocol=replace(RULE, bank_rows=80))
    assert found.values[:, 1].sum() >= 19  # four patches of each image; evenly drawn: 1 in all
    assert len(found) == 80


def test_ignored_labels_are_left_out_or_fall_to_the_void_class():
    rng = np.random.default_rng(0)
    mask = np.array([[1, 9, 9, 9], [1, 2, 9, 9]])
    pair = scenes.noise(rng, (1, 2)), mask
    found = MemoryBank.build([pair], n_classes=3, protocol=RULE)
    np.testing.assert_allclose(found.values, [[0, 2 / 3, 1 / 3]])
    np.testing.assert_array_equal(found.keys, pair[0].array[:1])
    found = MemoryBank.build([pair], n_classes=3, protocol=replace(RULE, void_class=0))
    np.testing.assert_allclose(sorted(found.values.tolist()), [[0.25, 0.5, 0.25], [1, 0, 0]])


@pytest.mark.parametrize("rows", [None, 40, 300])
def test_images_are_let_go_and_rows_stay_within_twice_the_bound(rows):
    rng = np.random.default_rng(0)
    alive = weakref.WeakSet()
    most_alive = 0

    def images():
        nonlocal most_alive
        for _ in range(200):
            one = scenes.noise(rng, (5, 5))
            alive.add(one)
            most_alive = max(most_alive, len(alive))
            yield one, scenes.blocky(rng, (5, 5), 2)
            del one

    rule = replace(RULE, bank_rows=rows, key_dtype="float16")
    builder = BankBuilder(rule)
    most_rows = 0
    for pair in images():
        builder.add(read_example(pair, 5, rule))
        held = sum(len(one.keys) for one in builder.held)
        assert held == builder.n_rows
        assert all(one.keys.base is None and one.values.base is None for one in builder.held)
        assert builder.held[0].keys.dtype == np.float16
        most_rows = max(most_rows, held)
    del pair
    gc.collect()
    assert not alive
    assert most_alive <= 2  # the one at hand, and the caller's last
    keys, _ = builder.finish()
    assert len(keys) == (5000 if rows is None else rows)
    assert rows is None or most_rows < 2 * rows
    assert not builder.held
    MemoryBank.build(images(), n_classes=5, protocol=rule)
    gc.collect()
    assert not alive
    assert most_alive <= 2


@settings(max_examples=25, deadline=None)
@given(
    st.integers(0, 1000),
    st.integers(1, 12),
    st.sampled_from([1e-3, 0.02, 0.1, 5]),
    st.sampled_from(["float32", "float16"]),
    st.sampled_from([1, 50, 1 << 22]),
)
def test_votes_are_the_slow_ones_by_every_combination(seed, k, temperature, dtype, numbers):
    rng = np.random.default_rng(seed)
    widths = {"tokens": 3, "dense_infonce": 5}
    rule = replace(RULE, n_neighbors=k, temperature=temperature, key_dtype=dtype)
    pairs = [
        (scenes.noise(rng, (3, 2), widths=widths), rng.integers(0, 3, (6, 4))) for _ in range(4)
    ]
    found = MemoryBank.build(pairs, n_classes=3, protocol=rule)
    query = scenes.noise(rng, (2, 4), widths=widths)
    names = [("tokens",), ("dense_infonce",), ("tokens", "dense_infonce")]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(bank, "_NUMBERS", numbers)
        voted = found.votes(query, names)
    for some, one in zip(names, voted, strict=True):
        np.testing.assert_allclose(one, references.votes(found, query, some), atol=2e-4)
        np.testing.assert_allclose(one.sum(axis=2), 1, atol=1e-5)
        np.testing.assert_array_equal(found.probabilities(query, blocks=some), one)


def test_a_vote_by_hand():
    keys = np.array([[1, 0], [0.6, 0.8], [0, 1]])
    rule = SegmentationProtocol(n_neighbors=2, temperature=0.4)
    pair = scenes.dense(keys, (3, 1)), np.array([[0], [1], [1]])
    found = MemoryBank.build([pair], n_classes=2, protocol=rule)
    query = scenes.dense(np.array([[1.0, 0]]), (1, 1))
    near = np.exp(0) / (np.exp(0) + np.exp((0.6 - 1) / 0.4))
    np.testing.assert_allclose(found.probabilities(query), [[[near, 1 - near]]], rtol=1e-5)
    drawn = found.label_map(query, size=(2, 3))
    np.testing.assert_array_equal(drawn, np.zeros((2, 3)))
    assert found.probabilities(query, size=(2, 3)).shape == (2, 3, 2)


@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_many_rows_are_searched_by_faiss(monkeypatch, dtype):
    rng = np.random.default_rng(0)
    widths = {"tokens": 32, "dense_infonce": 32}
    masks = [scenes.blocky(rng, (6, 6), 2) for _ in range(60)]
    (query, _), *pairs = scenes.planted(rng, masks, (6, 6), spread=0.2, widths=widths)
    rule = SegmentationProtocol(n_neighbors=5, bank_rows=None, key_dtype=dtype)
    found = MemoryBank.build(pairs, n_classes=5, protocol=rule)
    names = [("tokens",), ("tokens", "dense_infonce")]
    exact = found.votes(query, names)
    monkeypatch.setattr(bank, "EXACT_ROWS", len(found) - 1)
    for probes, least in ((64, 1), (5, 0.9)):  # of 46 cells
        monkeypatch.setattr(bank, "_PROBES", probes)
        found._indices.clear()
        approximate = found.votes(query, names)
        assert set(found._indices) == set(names)
        for one, other in zip(exact, approximate, strict=True):
            assert (one.argmax(axis=2) == other.argmax(axis=2)).mean() >= least
            if least == 1:
                np.testing.assert_allclose(one, other, atol=1e-5)
        for one, other in zip(approximate, found.votes(query, names), strict=True):
            np.testing.assert_array_equal(one, other)
    monkeypatch.setattr(bank, "EXACT_ROWS", len(found))
    np.testing.assert_array_equal(found.votes(query, names), exact)
