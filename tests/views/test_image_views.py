"""Image views: boxes that are drawn, counted, placed, and seeded by content alone."""

import random
from dataclasses import dataclass

import numpy as np
import pytest

from fungi_hf.errors import ConfigError
from fungi_hf.views.image import BoxDraw, DeepClusterCrops, MultiCrop, Patchify, image_views


@dataclass(frozen=True)
class Blank:
    height: int
    width: int
    content: bytes = b"blank"


def test_patchify_is_the_published_grid():
    views = Patchify()(Blank(300, 200), random.Random(0))
    assert len(views) == 49
    draws = [view.draw for view in views]
    assert draws[0] == BoxDraw(0, 0, 112, 112, "bicubic", 224)
    assert [d.left for d in draws[:7]] == [0, 18, 36, 54, 72, 90, 108]
    assert [d.top for d in draws[::7]] == [0, 18, 36, 54, 72, 90, 108]
    assert len({view.content for view in views}) == 49
    assert [d.left for d in (v.draw for v in Patchify(25)(Blank(9, 9), random.Random(0)))][:5] == [
        *(0, 28, 56, 84, 112)
    ]


@pytest.mark.parametrize("kind", [MultiCrop, DeepClusterCrops])
def test_crops_have_the_stated_areas_and_aspects(kind):
    generator, picture = random.Random(1), Blank(400, 600)
    views = [kind(n_views=6, n_global=2)(picture, generator) for _ in range(300)]
    for places, (low, high) in (
        ((0, 1), (0.25, 1.0) if kind is MultiCrop else (0.14, 1.0)),
        ((2, 3, 4, 5), (0.05, 0.25) if kind is MultiCrop else (0.05, 0.14)),
    ):
        boxes = [some[v].draw for some in views for v in places]
        areas = np.array([b.height * b.width for b in boxes]) / 240_000
        aspects = np.array([b.width / b.height for b in boxes])
        assert low - 0.01 < areas.min() < low + 0.05
        assert high - 0.25 * (high - low) < areas.max() <= high + 0.01
        assert 0.74 < aspects.min() < 0.8
        assert 1.25 < aspects.max() < 1.35
        assert abs(np.log(aspects).mean()) < 0.06  # wide ones fit better: 400 x 600
        tops = np.array([b.top / max(1, 400 - b.height) for b in boxes])
        assert 0.45 < tops.mean() < 0.55
        assert all(b.top + b.height <= 400 and b.left + b.width <= 600 for b in boxes)


def test_fewer_views_are_the_first_of_more():
    few = MultiCrop(n_views=2)(Blank(99, 77), random.Random(3))
    many = MultiCrop(n_views=12)(Blank(99, 77), random.Random(3))
    assert many[:2] == few


@pytest.mark.parametrize("size", [(1, 1), (1, 50), (50, 1), (3, 100)])
def test_odd_pictures_have_boxes_inside_them(size):
    for seed in range(20):
        for view in MultiCrop(n_views=12)(Blank(*size), random.Random(seed)):
            box = view.draw
            assert box.height >= 1
            assert box.width >= 1
            assert box.top + box.height <= size[0]
            assert box.left + box.width <= size[1]


@pytest.mark.parametrize(
    ("name", "n_views", "options", "words"),
    [
        ("patchify", 12, {}, "n_views must be 4, 9, 16"),
        ("patchify", 49, {"frame": 5}, "frame"),
        ("patchify", 49, {"resample": "lanczos"}, "resample is"),
        ("multi_crop", 12, {"global_scale": (0.5, 0.2)}, "lowest, highest"),
        ("multi_crop", 12, {"global_scale": 0.5}, "pair"),
        ("multi_crop", 12, {"statistics": "mine"}, "statistics is"),
        ("multi_crop", 12, {"flips": True}, "refused its options"),
        ("crop", 12, {}, "unknown views"),
    ],
)
def test_what_is_unknown_is_refused(name, n_views, options, words):
    with pytest.raises(ConfigError, match=words):
        image_views(name, n_views, options)


def test_auto_is_multi_crop():
    assert type(image_views("auto", 12, {})) is MultiCrop
