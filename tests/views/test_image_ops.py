"""Boxes of pictures against pillow's own crops."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from fungi_hf.errors import ConfigError, ShapeError
from fungi_hf.views.image_ops import cut_boxes

FILTERS = {"bilinear": Image.Resampling.BILINEAR, "bicubic": Image.Resampling.BICUBIC}


def reference_boxes(image, boxes, size, resample, *, at_once=False):
    """The slow, obviously right way: pillow's crop, then its resize, columns before rows."""
    height, width = (size, size) if isinstance(size, int) else size
    whole = Image.fromarray(image.permute(1, 2, 0).numpy())
    made = []
    for top, left, h, w in boxes:
        part = whole.crop((left, top, left + w, top + h))
        if not at_once:
            part = part.resize((width, h), FILTERS[resample])
        part = part.resize((width, height), FILTERS[resample])
        made.append(torch.from_numpy(np.array(part)).permute(2, 0, 1))
    return torch.stack(made)


def picture(height, width, seed=0, noise=True):
    generator = np.random.default_rng(seed)
    values = generator.integers(0, 256, (height, width, 3), dtype=np.uint8)
    if not noise:
        small = Image.fromarray(values[: max(1, height // 8), : max(1, width // 8)])
        values = np.array(small.resize((width, height), Image.Resampling.BICUBIC))
    return torch.from_numpy(values).permute(2, 0, 1)


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_boxes_equal_pillows_two_passes(data):
    height = data.draw(st.integers(1, 90), label="height")
    width = data.draw(st.integers(1, 90), label="width")
    image = picture(height, width, data.draw(st.integers(0, 9)), data.draw(st.booleans()))
    boxes = []
    for _ in range(data.draw(st.integers(1, 3))):
        top, left = data.draw(st.integers(0, height - 1)), data.draw(st.integers(0, width - 1))
        h, w = data.draw(st.integers(1, height - top)), data.draw(st.integers(1, width - left))
        boxes.append((top, left, h, w))
    size = data.draw(
        st.one_of(st.integers(1, 64), st.tuples(st.integers(1, 64), st.integers(1, 9)))
    )
    resample = data.draw(st.sampled_from(list(FILTERS)))
    found = cut_boxes(image, boxes, size, resample)
    expected = reference_boxes(image, boxes, size, resample)
    assert found.dtype == torch.uint8
    assert torch.equal(found, expected)


@pytest.mark.parametrize("resample", FILTERS)
def test_boxes_of_photographs_are_within_two_levels_of_pillows_own(resample):
    photograph = picture(700, 900, noise=False)
    boxes = [(0, 0, 700, 900), (100, 50, 333, 257), (3, 700, 224, 100), (0, 0, 30, 200)]
    found = cut_boxes(photograph, boxes, 224, resample)
    apart = (found.int() - reference_boxes(photograph, boxes, 224, resample, at_once=True)).abs()
    assert apart.max() <= 2
    assert apart.float().mean() < 0.3


@pytest.mark.parametrize("resample", FILTERS)
def test_a_box_does_not_depend_on_the_others_or_on_threads(resample):
    image = picture(120, 150)
    boxes = [(0, 0, 100, 100), (20, 30, 17, 90), (5, 5, 64, 64)]
    together = cut_boxes(image, boxes, 64, resample)
    alone = torch.cat([cut_boxes(image, [box], 64, resample) for box in boxes])
    assert torch.equal(together, alone)
    assert torch.equal(together[2], image[:, 5:69, 5:69])  # of that size already
    threads = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        other = cut_boxes(image, boxes, 64, resample)
    finally:
        torch.set_num_threads(threads)
    assert (other.int() - together.int()).abs().max() <= 1


def test_what_is_outside_of_a_box_is_not_seen():
    image = picture(60, 60)
    other = image.clone()
    other[:, :, 30:] = 0
    box = [(0, 0, 60, 30)]
    assert torch.equal(cut_boxes(image, box, 17, "bicubic"), cut_boxes(other, box, 17, "bicubic"))


@pytest.mark.parametrize("box", [(0, 0, 61, 5), (-1, 0, 5, 5), (0, 56, 5, 5), (0, 0, 0, 5)])
def test_boxes_outside_are_refused(box):
    with pytest.raises(ShapeError, match="is not inside of a picture of 60 x 60"):
        cut_boxes(picture(60, 60), [box], 8, "bicubic")
    with pytest.raises(ConfigError, match="resample is 'lanczos'"):
        cut_boxes(picture(60, 60), [(0, 0, 5, 5)], 8, "lanczos")
