"""Each fast part against a slow and obvious one of the same signature, and by hand."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fungi_hf.evaluation.segmentation import scores, upsampling
from fungi_hf.evaluation.segmentation.examples import patch_histograms, rare_first, resize_labels
from tests.evaluation.segmentation import references

SIDES = st.integers(1, 9)
KINDS = st.sampled_from(["bilinear", "nearest"])
SEEDS = st.integers(0, 10_000)
FEW = settings(max_examples=40, deadline=None)


@FEW
@given(st.tuples(SIDES, SIDES), st.tuples(SIDES, SIDES), SEEDS)
def test_patch_histograms(size, grid, seed):
    labels = np.random.default_rng(seed).integers(-1, 4, size, np.int32)
    found = patch_histograms(labels, grid, 4)
    np.testing.assert_allclose(found, references.patch_histograms(labels, grid, 4), atol=1e-6)


def test_patch_histograms_by_hand():
    labels = np.array([[0, 0, 1, -1], [0, 2, 1, -1]], np.int32)
    found = patch_histograms(labels, (1, 2), 3)
    np.testing.assert_allclose(found, [[0.75, 0, 0.25], [0, 1, 0]])
    assert not patch_histograms(np.full((2, 2), -1, np.int32), (1, 1), 3).any()
    # Three columns on two patches: the middle one is halved, by way of four.
    np.testing.assert_array_equal(resize_labels(np.array([[0, 1, 2]]), (1, 4)), [[0, 1, 1, 2]])
    found = patch_histograms(np.array([[0, 1, 2]], np.int32), (1, 2), 3)
    np.testing.assert_allclose(found, [[0.5, 0.5, 0], [0, 0.5, 0.5]])


@FEW
@given(st.integers(1, 30), SEEDS)
def test_rare_classes_come_first(n_patches, seed):
    rng = np.random.default_rng(seed)
    shares = rng.random((n_patches, 4)) * (rng.random((n_patches, 4)) < 0.4)
    found = rare_first(shares.astype(np.float32), seed, b"content")
    assert found.tolist() == references.rare_first(shares, seed, b"content")


@FEW
@given(st.tuples(SIDES, SIDES), st.tuples(SIDES, SIDES), KINDS, SEEDS, st.integers(1, 200))
def test_upsampling(grid, size, kind, seed, numbers):
    shares = np.random.default_rng(seed).random((*grid, 3)).astype(np.float32)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(upsampling, "_NUMBERS", numbers)  # bands of few rows
        found = upsampling.upsample(shares, size, kind)
        drawn = upsampling.label_map(shares, size, kind)
    np.testing.assert_allclose(found, references.upsample(shares, size, kind), atol=1e-5)
    np.testing.assert_array_equal(drawn, found.argmax(axis=2))
    tensor = torch.from_numpy(shares).permute(2, 0, 1)[None]
    options = {"align_corners": False} if kind == "bilinear" else {}
    mode = "bilinear" if kind == "bilinear" else "nearest-exact"
    wanted = torch.nn.functional.interpolate(tensor, size, mode=mode, **options)
    wanted = wanted[0].permute(1, 2, 0).numpy()
    # A pixel's centre on the border of two patches: torch's float32 may take either.
    odd = [(2 * np.arange(to) + 1) * n % (2 * to) == 0 for n, to in zip(grid, size, strict=True)]
    clear = ~(odd[0][:, None] | odd[1]) if kind == "nearest" else np.ones(size, bool)
    np.testing.assert_allclose(found[clear], wanted[clear], atol=1e-5)


def test_nearest_upsampling_by_a_whole_factor_is_torchs_plain_nearest():
    shares = np.random.default_rng(0).random((3, 4, 2)).astype(np.float32)
    tensor = torch.from_numpy(shares).permute(2, 0, 1)[None]
    wanted = torch.nn.functional.interpolate(tensor, (15, 8), mode="nearest")[0]
    found = upsampling.upsample(shares, (15, 8), "nearest")
    np.testing.assert_array_equal(found, wanted.permute(1, 2, 0).numpy())


def test_upsampling_by_hand_and_its_ties():
    shares = np.array([[[1, 0], [0, 1]]], np.float32)
    found = upsampling.upsample(shares, (1, 4), "bilinear")[0, :, 1]
    np.testing.assert_allclose(found, [0, 0.25, 0.75, 1])
    even = np.full((1, 1, 3), 1 / 3, np.float32)
    assert not upsampling.label_map(even, (2, 2), "bilinear").any()


def matrices(seed, n_draws, n_images, n_classes):
    """Confusion matrices with classes and images that lack classes."""
    rng = np.random.default_rng(seed)
    truth = rng.integers(0, 30, (n_images, n_classes)) * (rng.random((n_images, n_classes)) < 0.6)
    truth[:, 0] += 1
    shape = (n_draws, n_images, n_classes, n_classes)
    drawn = np.zeros(shape, int)
    for draw, image, row in np.ndindex(shape[:3]):
        odds = rng.random(n_classes) + 2 * (np.arange(n_classes) == row)
        drawn[draw, image, row] = rng.multinomial(truth[image, row], odds / odds.sum())
    return drawn


def counts_of(tables):
    return np.stack([[scores.counts_of(one) for one in draw] for draw in tables])


@FEW
@given(SIDES, SIDES, st.integers(2, 5), SEEDS)
def test_confusion_and_scores_of_one_map(height, width, n_classes, seed):
    rng = np.random.default_rng(seed)
    truth = rng.integers(-1, n_classes, (height, width), np.int32)
    truth[0, 0] = 1
    predicted = rng.integers(0, n_classes, (height, width))
    matrix = scores.confusion(truth, predicted, n_classes)
    np.testing.assert_array_equal(matrix, references.confusion(truth, predicted, n_classes))
    found = scores.metrics_of(matrix)
    assert found["miou"] == pytest.approx(references.miou(matrix))
    assert found["miou_matched"] == pytest.approx(references.matched_miou(matrix))
    known = truth >= 0
    assert found["pixel_accuracy"] == pytest.approx((truth == predicted)[known].mean())
    assert found["miou_matched"] >= found["miou"] - 1e-12


def test_scores_by_hand():
    truth = np.array([[0, 0, 0, 1], [1, 1, 1, -1]], np.int32)
    predicted = np.array([[0, 0, 1, 1], [1, 1, 2, 2]])
    matrix = scores.confusion(truth, predicted, 4)
    each = scores.iou(scores.counts_of(matrix))
    np.testing.assert_allclose(each, [2 / 3, 3 / 5, np.nan, np.nan])
    found = scores.metrics_of(matrix)
    assert found["miou"] == pytest.approx((2 / 3 + 3 / 5) / 2)  # class 2 is predicted, never true
    assert found["pixel_accuracy"] == pytest.approx(5 / 7)
    swapped = scores.metrics_of(matrix[:, [1, 0, 2, 3]])
    assert swapped["miou_matched"] == pytest.approx(found["miou"])
    assert swapped["miou"] < 0.2


def test_all_images_share_one_matrix():
    # Class 1 is one pixel of the first image: its own IoU would halve the mean of the images.
    tables = np.array([[[[9, 0], [1, 0]], [[0, 0], [0, 30]]]])
    assert scores.miou(counts_of(tables).sum(axis=1))[0] == pytest.approx((9 / 10 + 30 / 31) / 2)


@settings(max_examples=10, deadline=None)
@given(
    st.integers(1, 2),
    st.integers(1, 4),
    st.integers(2, 3),
    SEEDS,
    st.sampled_from([1, 200, 1 << 22]),
)
def test_intervals_and_differences(n_draws, n_images, n_classes, seed, numbers):
    first = matrices(seed, n_draws, n_images, n_classes)
    second = first.copy()  # the same truth, one class named otherwise
    second[..., 1, :] = np.roll(second[..., 1, :], 1, axis=-1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(scores, "_EXCHANGES", 50)
        patch.setattr(scores, "_BOOTSTRAP", 60)
        patch.setattr(scores, "_NUMBERS", numbers)
        low, high = scores.interval(counts_of(first))
        found = scores.difference(counts_of(first), counts_of(second))
    assert (low, high) == pytest.approx(references.interval(first, 60))
    assert found == pytest.approx(references.difference(first, second, 60, 50))


def test_equal_maps_do_not_differ():
    counts = counts_of(matrices(0, 2, 5, 3))
    found = scores.difference(counts, counts)
    assert found == {"difference": 0, "low": 0, "high": 0, "p": 1}


def test_one_image_has_an_interval_without_width():
    counts = counts_of(matrices(0, 1, 1, 3))
    low, high = scores.interval(counts)
    assert low == high == pytest.approx(float(scores.miou(counts[:, 0])[0]))
