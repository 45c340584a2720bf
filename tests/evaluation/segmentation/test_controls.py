"""What needs no encoder: planted features come out, transposed ones do not."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from fungi_hf.errors import InputError
from fungi_hf.evaluation.segmentation import (
    MemoryBank,
    SegmentationProtocol,
    evaluate_segmentation,
    scores,
)
from fungi_hf.evaluation.segmentation.controls import (
    FEATURE_CONTROLS,
    MapControls,
    bound,
    colour_features,
    coordinate_features,
    planted_features,
    random_features,
    transposed_features,
)
from fungi_hf.evaluation.segmentation.examples import read_example
from tests.evaluation.segmentation import scenes

GRIDS = [(6, 8), (7, 7)]
RULE = SegmentationProtocol(n_neighbors=10)


def build(make, pairs, rule):
    return MemoryBank.build(
        [(scenes.dense(make(read_example(one, 5, rule)), one[0].grid), one[1]) for one in pairs],
        n_classes=5,
        protocol=rule,
    )


def miou_of(make, train, test, rule=RULE, border=0):
    """mIoU of features made of the examples; `border` pixels beside each patch do not count."""
    bank, total = build(make, train, rule), 0
    for features, mask in test:
        example = read_example((features, mask), 5, rule)
        own = scenes.dense(make(example), features.grid)
        drawn = bank.label_map(own, size=example.size)
        labels = example.labels.copy()
        if border:
            cell = mask.shape[0] // features.grid[0]
            near = [np.minimum(p := np.arange(n) % cell, cell - 1 - p) < border for n in mask.shape]
            labels[near[0]] = labels[:, near[1]] = -1
        total = total + scores.confusion(labels, drawn, 5)
    return scores.metrics_of(total)["miou"]


def pairs_of(draw, grid, seed, n=8, **options):
    rng = np.random.default_rng(seed)
    return [(scenes.noise(rng, grid), draw(rng, grid, **options)) for _ in range(n)]


@pytest.mark.parametrize("grid", GRIDS)
def test_planted_features_are_perfect_on_masks_that_are_constant_per_patch(grid):
    train, test = (pairs_of(scenes.blocky, grid, seed, cell=8) for seed in (0, 1))
    nearest = replace(RULE, upsampling="nearest")
    assert miou_of(planted_features, train, test, nearest) == 1
    assert miou_of(planted_features, train, test, border=3) == 1  # 2 pixels within each patch
    assert 0.6 < miou_of(planted_features, train, test) < 1
    for rule in (nearest, RULE):
        assert miou_of(transposed_features, train, test, rule) < 0.2  # 5 classes by chance: 1 / 9
        assert miou_of(random_features, train, test, rule) < 0.2


@pytest.mark.parametrize("grid", GRIDS)
@pytest.mark.parametrize("kind", ["bilinear", "nearest"])
def test_true_histograms_bound_planted_features_on_masks_with_details(grid, kind):
    rule = replace(RULE, upsampling=kind)
    train, test = (pairs_of(scenes.detailed, grid, seed, n=12) for seed in (0, 1))
    total = 0
    for features, mask in test:
        drawn = bound(mask.astype(np.int32), features.grid, 5, rule)
        total = total + scores.confusion(mask.astype(np.int32), drawn, 5)
    best = scores.metrics_of(total)["miou"]
    found = miou_of(planted_features, train, test, rule)
    assert best - 0.02 < found < best + 0.01
    assert best < 0.95
    assert miou_of(transposed_features, train, test, rule) < found - 0.3


def test_random_features_stay_at_the_class_prior():
    train, test = (pairs_of(scenes.detailed, (6, 8), seed, n=20) for seed in (0, 1))
    for protocol, most in (("fungi", 0.05), ("fungi-few-shot", 0.01)):
        found = evaluate_segmentation(train, test, n_classes=5, protocol=protocol)
        by_name = {one.name.removeprefix("control: "): one.metrics["miou"] for one in found}
        prior = by_name["majority"]
        assert prior - 0.01 < by_name["random"] < prior + most
        assert prior - 0.01 < by_name["tokens"] < prior + most  # noise, too
        assert by_name["planted"] > prior + 0.6


def test_random_features_are_keyed_by_features_not_by_masks():
    rng = np.random.default_rng(0)
    features = scenes.noise(rng, (3, 4))
    masks = [scenes.blocky(rng, (3, 4)) for _ in range(2)]
    one, other = (random_features(read_example((features, mask), 5, RULE)) for mask in masks)
    np.testing.assert_array_equal(one, other)
    third = random_features(read_example((scenes.noise(rng, (3, 4)), masks[0]), 5, RULE))
    assert not np.allclose(one, third)


def test_coordinates_are_nearer_the_nearer_their_patches():
    rows = coordinate_features((4, 5))
    np.testing.assert_allclose(np.linalg.norm(rows, axis=1), 1, rtol=1e-6)
    alike = rows @ rows.T
    assert (np.diff(alike[0, :5]) < 0).all()  # along the first row of patches
    assert (np.diff(alike[0, ::5]) < 0).all()
    assert np.unique(alike.argmax(axis=1)).size == 20


def test_colours_by_hand():
    pixels = np.zeros((4, 4, 3), np.uint8)
    pixels[:, 2:, 0] = 255
    pixels[::2, :2, 1] = 255
    rows = colour_features(pixels, (1, 2))
    angles = np.arctan2(rows[:, 6:], rows[:, :6]) / (np.pi / 2)
    np.testing.assert_allclose(angles, [[0, 0.5, 0, 0, 1, 0], [1, 0, 0, 0, 0, 0]], atol=1e-6)
    uneven = colour_features(np.full((5, 7, 3), 51, np.uint8), (2, 3))
    assert np.ptp(uneven, axis=0).max() < 1e-6
    with pytest.raises(InputError, match="2 x 2 pixels has fewer pixels than a grid of 3 x 2"):
        colour_features(np.zeros((2, 2, 3), np.uint8), (3, 2))


def test_every_control_gives_unit_rows():
    rng = np.random.default_rng(0)
    mask = scenes.blocky(rng, (3, 4))
    mask[:5, :5] = 255
    pixels = rng.integers(0, 256, (30, 40, 3)).astype(np.uint8)
    rule = replace(RULE, ignore=(255,))
    example = read_example((scenes.noise(rng, (3, 4)), mask, pixels), 5, rule)
    for name, make in FEATURE_CONTROLS.items():
        rows = make(example)
        assert rows.shape[0] == 12, name
        np.testing.assert_allclose(np.linalg.norm(rows, axis=1), 1, rtol=1e-5, err_msg=name)


def test_maps_by_hand():
    rule = replace(RULE, upsampling="nearest", ignore=(9,))
    rng = np.random.default_rng(0)
    maps = MapControls((1, 2), 3, rule)
    for mask in ([[0, 0, 2, 2]], [[1, 1, 2, 9]], [[1, 1, 0, 0]], [[9, 9, 9, 9]]):
        maps.add(read_example((scenes.noise(rng, (1, 2)), np.array(mask)), 3, rule))
    np.testing.assert_array_equal(maps.pixels, [4, 4, 3])
    truth = np.array([[2, 2, 1, 1, 0, 1]])
    example = read_example((scenes.noise(rng, (1, 3)), truth), 3, rule)
    majority, prior, true = maps.maps(example)
    np.testing.assert_array_equal(majority, np.zeros((1, 6)))
    np.testing.assert_array_equal(prior, [[1, 1, 1, 2, 2, 2]])  # of another grid, brought to size
    np.testing.assert_array_equal(true, [[2, 2, 1, 1, 0, 0]])
    assert maps.sources["majority"] == (3, "learned from the masks of all 3 training images")
