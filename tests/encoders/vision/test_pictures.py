"""Pictures from everything that holds one: modes, orientation, transparency, damage, limits."""

import io
import random
import struct
import subprocess
import sys
import threading
import tracemalloc
import warnings
import zlib

import numpy as np
import pytest
import torch
from PIL import Image, ImageOps

from fungi_hf.encoders.vision import pictures as module
from fungi_hf.encoders.vision.pictures import Picture, decode, describe
from fungi_hf.errors import ImageError, InputTypeError, OptionalDependencyError

GENERATOR = np.random.default_rng(0)
RGB = GENERATOR.integers(0, 256, (12, 17, 3), dtype=np.uint8)


def saved(image, kind="PNG", **options):
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def smooth(height=60, width=80):
    rows, columns = np.linspace(0, 6, height)[:, None], np.linspace(0, 6, width)[None]
    waves = [np.sin(rows + c) * np.cos(columns * (c + 1)) for c in range(3)]
    return Image.fromarray((127 + 120 * np.stack(waves, -1)).astype(np.uint8))


@pytest.mark.parametrize("mode", ["1", "L", "P", "RGB", "CMYK", "YCbCr", "HSV", "LAB"])
def test_every_mode_becomes_what_pillow_converts_it_to(mode):
    image = Image.fromarray(RGB).convert("RGB")
    if mode == "LAB":
        image = Image.frombytes("LAB", image.size, image.tobytes())
    else:
        image = image.convert(mode)
    found = decode(image)
    assert (found.height, found.width, found.notes) == (12, 17, ())
    assert np.array_equal(found.pixels(), np.array(image.convert("RGB")))


@pytest.mark.parametrize("mode", ["RGBA", "LA", "PA", "RGBa", "La"])
def test_transparency_is_laid_on_white_and_opaque_pictures_are_as_they_are(mode):
    alpha = GENERATOR.integers(0, 256, (12, 17), dtype=np.uint8)
    image = Image.fromarray(np.dstack([RGB, alpha]), "RGBA")
    if mode == "PA":
        image = Image.frombytes("PA", (17, 12), np.dstack([RGB[:, :, 0], alpha]).tobytes())
        image.putpalette(GENERATOR.integers(0, 256, 768, dtype=np.uint8).tobytes())
    elif mode != "RGBA":
        between = "LA" if mode == "La" else "RGBA"
        image = image.convert(between).convert(mode)
    found = decode(image)
    assert found.notes == ("transparent",)
    whole = (image.convert("LA") if mode == "La" else image).convert("RGBA")
    white = Image.new("RGBA", whole.size, "white")
    expected = np.array(Image.alpha_composite(white, whole).convert("RGB")).astype(int)
    assert np.abs(found.pixels().astype(int) - expected).max() <= 1

    image = Image.fromarray(np.dstack([RGB, np.full((12, 17), 255, np.uint8)]), "RGBA")
    assert decode(image) == decode(RGB)
    assert decode(image).notes == ()


def test_colours_behind_full_transparency_are_not_seen():
    hidden = np.dstack([RGB, np.zeros((12, 17), np.uint8)])
    other = np.dstack([RGB[::-1], np.zeros((12, 17), np.uint8)])
    assert decode(Image.fromarray(hidden, "RGBA")) == decode(Image.fromarray(other, "RGBA"))
    assert (decode(hidden).pixels() == 255).all()


def test_a_palette_with_transparency_of_bytes_warns_of_nothing():
    image = Image.fromarray(RGB).quantize(8)
    image.info["transparency"] = bytes([0, 128, *[255] * 6])
    data = saved(image, transparency=bytes([0, 128, *[255] * 6]))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = decode(data)
    assert found.notes == ("transparent",)


@pytest.mark.parametrize("mode", ["I;16", "I;16B", "I;16L"])
def test_sixteen_bits_keep_their_upper_eight(mode):
    values = GENERATOR.integers(0, 65536, (9, 8), dtype=np.uint16)
    order = ">u2" if mode.endswith("B") else "<u2"
    image = Image.frombytes(mode, (8, 9), values.astype(order).tobytes())
    found = decode(image)
    assert found.notes == ("sixteen_bit",)
    assert np.array_equal(found.pixels(), (values >> 8).astype(np.uint8)[:, :, None].repeat(3, 2))
    png = decode(saved(Image.frombytes("I;16", (8, 9), values.astype("<u2").tobytes())))
    assert png == found


def test_pictures_of_32_bits_are_taken_within_a_known_range():
    small = Image.fromarray(np.arange(80, dtype=np.int32).reshape(8, 10))
    assert small.mode == "I"
    assert np.array_equal(decode(small).pixels()[:, :, 0], np.arange(80).reshape(8, 10))
    large = Image.fromarray((np.arange(80, dtype=np.int32) * 800).reshape(8, 10))
    assert decode(large).notes == ("sixteen_bit",)
    assert decode(large).pixels()[7, 9, 0] == 79 * 800 >> 8
    with pytest.raises(ImageError, match="expected 0 to 65,535"):
        decode(Image.fromarray(np.full((8, 8), 70_000, np.int32)))
    with pytest.raises(ImageError, match="32-bit floats"):
        decode(Image.fromarray(np.full((8, 8), 0.5, np.float32)))


@pytest.mark.parametrize("orientation", range(1, 9))
def test_orientation_is_applied(orientation):
    image = smooth()
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = saved(image, exif=exif)
    expected = ImageOps.exif_transpose(Image.open(io.BytesIO(data)))
    found = decode(data)
    assert np.array_equal(found.pixels(), np.array(expected))
    assert (found.height, found.width) == ((60, 80) if orientation < 5 else (80, 60))
    assert decode(Image.open(io.BytesIO(data))) == found


@pytest.mark.parametrize("kind", ["GIF", "PNG", "TIFF", "WEBP"])
def test_files_of_several_frames_give_the_first_and_objects_the_current_one(kind):
    frames = [Image.new("RGB", (20, 16), colour) for colour in ("red", "lime", "blue")]
    options = {"lossless": True} if kind == "WEBP" else {}
    data = saved(frames[0], kind, save_all=True, append_images=frames[1:], **options)
    found = decode(data)
    assert found.notes == ("animated",)
    assert tuple(found.pixels()[0, 0]) == (255, 0, 0)
    opened = Image.open(io.BytesIO(data))
    opened.seek(2)
    assert tuple(decode(opened).pixels()[0, 0]) == (0, 0, 255)
    assert opened.tell() == 2


def test_one_picture_is_one_content_whatever_it_comes_as(tmp_path):
    image = Image.fromarray(RGB)
    data = saved(image)
    path = tmp_path / "one.png"
    path.write_bytes(data)
    ways = [
        *(path, str(path), f"file://{path}", data, bytearray(data), memoryview(data)),
        *(io.BytesIO(data), image, RGB, RGB[:, :, :], torch.from_numpy(RGB).permute(2, 0, 1)),
        *({"bytes": data, "path": None}, {"bytes": None, "path": str(path)}),
        *({"image": image, "label": 3}, {"image": {"bytes": data, "path": "x.png"}}),
        *(RGB.astype(np.int64), RGB.astype(np.float32) / 255, RGB / 255, (RGB.astype("u2") * 257)),
        *((RGB.astype("u2") * 257).astype(">u2"), torch.from_numpy(RGB / 255).float()),
        *(np.asfortranarray(RGB), RGB[::-1][::-1], np.moveaxis(RGB, 2, 0).copy()),
        saved(image, "TIFF"),
        saved(image, "BMP"),
        saved(image, "WEBP", lossless=True),
    ]
    first = decode(RGB)
    with path.open("rb") as file:
        assert describe(file) == str(path)
        assert decode(file) == first
    for way in ways:
        found = decode(way)
        assert found == first, type(way)
        assert found.content == first.content
        assert isinstance(describe(way), str)
    assert decode(first) is first
    assert decode(RGB[::-1]) != first
    assert decode(RGB.reshape(17, 12, 3)) != first  # the same bytes in another size


def test_axes_that_fit_twice_are_channels_last_in_arrays_and_first_in_tensors():
    array = GENERATOR.integers(0, 256, (3, 4, 3), dtype=np.uint8)
    assert np.array_equal(decode(array).pixels(), array)
    assert np.array_equal(decode(torch.from_numpy(array)).pixels(), np.moveaxis(array, 0, 2))
    assert (decode(np.zeros((1, 40, 3), np.uint8)).height, 40) == (1, 40)
    assert np.array_equal(decode(np.full((5, 6), 7, np.uint8)).pixels(), np.full((5, 6, 3), 7))
    assert decode(np.full((9, 8, 1), 7, np.uint8)) == decode(np.full((1, 9, 8), 7, np.uint8))
    assert decode(torch.full((3, 9, 8), 0.5, dtype=torch.bfloat16)).pixels()[0, 0, 0] == 128


def test_pictures_hold_no_pixels_and_arrays_may_change_afterwards():
    array = RGB.copy()
    found = decode(array)
    array[:] = 0
    assert np.array_equal(found.pixels(), RGB)  # still at hand
    module._PIXELS._kept.clear()
    with pytest.raises(ImageError, match="has changed since it was first read"):
        found.pixels()
    with pytest.raises(ValueError, match="read-only"):
        decode(RGB).pixels()[0, 0, 0] = 1


def test_a_file_that_changes_is_noticed(tmp_path):
    path = tmp_path / "one.png"
    Image.fromarray(RGB).save(path)
    found = decode(path)
    module._PIXELS._kept.clear()
    assert np.array_equal(found.pixels(), RGB)
    Image.fromarray(RGB[::-1]).save(path)
    module._PIXELS._kept.clear()
    with pytest.raises(ImageError, match="has changed"):
        found.pixels()


JPEG = saved(smooth(), "JPEG", quality=90)
PNG = saved(smooth())


def png_header(width, height):
    ihdr = b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    chunk = struct.pack(">I", 13) + ihdr + struct.pack(">I", zlib.crc32(ihdr))
    return b"\x89PNG\r\n\x1a\n" + chunk + struct.pack(">I", 1000) + b"IDAT" + bytes(20)


BAD = {
    "half a jpeg": (JPEG[: len(JPEG) // 2], "truncated"),
    "a jpeg without its last two bytes": (JPEG[:-2], "truncated"),
    "four bytes": (b"abcd", "no picture of a known format"),
    "nothing": (b"", "empty"),
    "a head of png": (PNG[:20], "no picture|cannot be decoded"),
    "a head of bmp": (saved(smooth(), "BMP")[:20], "no picture|cannot be decoded"),
    "a head of webp": (saved(smooth(), "WEBP")[:20], "no picture|cannot be decoded"),
    "225 million pixels": (png_header(15_000, 15_000), "make the picture smaller"),
    "a line of 200 million": (png_header(1, 200_000_000), "smaller|line"),
    "no width": (png_header(0, 10), "no picture|cannot be decoded"),
    "an object of no size": (Image.new("RGB", (0, 0)), "there are none"),
    "a line": (np.zeros((1, 400, 3), np.uint8), "are a line"),
    "a line of jpeg": (saved(Image.new("RGB", (400, 1)), "JPEG"), "are a line"),
    "an empty array": (np.zeros((0, 5, 3), np.uint8), "has no pixels"),
    "two channels": (np.zeros((5, 5, 2), np.uint8), "no axis of 1, 3 or 4 channels"),
    "channels between": (np.zeros((50, 3, 50), np.uint8), "no axis of 1, 3 or 4 channels"),
    "a batch": (np.zeros((2, 3, 8, 8), np.uint8), r"pass list\(batch\)"),
    "a batch of tensors": (torch.zeros(2, 3, 8, 8), r"pass list\(batch\)"),
    "a vector": (np.zeros(9, np.uint8), "expected 2 or 3 axes"),
    "floats to 255": (RGB.astype(np.float32), "floats of a picture are 0 to 1; got"),
    "floats from -1": (RGB / 127.5 - 1, "floats of a picture are 0 to 1; got -1 to 1"),
    "a NaN": (np.full((9, 9, 3), np.nan), "got nan to nan"),
    "an infinity": (np.full((9, 9, 3), np.inf, np.float32), "got inf"),
    "booleans": (np.zeros((9, 9), bool), "an array of bool is no picture"),
    "complex": (np.zeros((9, 9), complex), "is no picture"),
    "integers beyond": (RGB.astype(np.int64) + 1, "0 to 255"),
    "below": (RGB.astype(np.int16) - 1, "0 to 255"),
    "an address": ("https://example.org/cat.png", "nothing is fetched"),
    "data in an address": ("data:image/png;base64,AAAA", "nothing is fetched"),
    "no file": ("nowhere/cat.png", "does not exist"),
    "a folder": (".", "is a folder"),
    "a row without": ({"label": 3}, "none of them"),
    "a row with two": ({"image": JPEG, "img": PNG}, "image and img"),
}


@pytest.mark.parametrize("name", BAD)
def test_what_is_no_picture_is_named(name):
    raw, words = BAD[name]
    with pytest.raises(ImageError, match=words):
        decode(raw)
    assert describe(raw)


@pytest.mark.parametrize("raw", [None, 3, 2.5, [1, 2], ("a", "b"), object(), io.StringIO("text")])
def test_what_cannot_hold_a_picture_is_another_error(raw):
    with pytest.raises(InputTypeError, match="is no picture; expected a path"):
        decode(raw)


def test_files_without_their_last_bytes_load_where_all_pixels_are_there():
    assert decode(PNG[:-2]) == decode(PNG)
    gif = saved(smooth().quantize(16), "GIF")
    assert decode(gif[:-2]) == decode(gif)


def test_a_large_header_is_taken_and_no_warning_escapes(monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 3000)  # 4,800 pixels: warned of, not refused
    before = list(warnings.filters)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert decode(PNG).width == 80
    assert warnings.filters == before
    assert Image.MAX_IMAGE_PIXELS == 3000


def test_every_damaged_file_is_an_image_error():
    files = [JPEG, PNG, *(saved(smooth(), k) for k in ("GIF", "BMP", "WEBP", "TIFF", "PPM"))]
    generator = random.Random(0)
    refused = 0
    for data in files:
        for _ in range(60):
            broken = bytearray(data)
            for _ in range(generator.choice((1, 3, 20))):
                broken[generator.randrange(len(broken))] = generator.randrange(256)
            cut = generator.choice((len(broken), generator.randrange(1, len(broken))))
            try:
                decode(bytes(broken[:cut]))
            except ImageError:
                refused += 1
    assert refused > 100


def test_threads_read_pictures_together():
    images = [saved(Image.fromarray(np.roll(RGB, i, 0))) for i in range(12)]
    expected = [decode(one).content for one in images]
    found = {}

    def run(place):
        module._PIXELS._kept.clear()
        found[place] = [decode(one).content for one in images]

    threads = [threading.Thread(target=run, args=(i,)) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all(found[i] == expected for i in range(4))


def test_memory_does_not_grow_with_the_number_of_pictures(monkeypatch):
    monkeypatch.setattr(module, "_PIXELS", module._Cache(4 * 2**20))
    base = np.asarray(smooth(300, 400))
    kept = []
    tracemalloc.start()
    for i in range(60):
        data = saved(Image.fromarray(np.roll(base, i, 1)), "JPEG")
        kept.append(decode(data))
        if i == 20:
            first = tracemalloc.get_traced_memory()[0]
    grown = tracemalloc.get_traced_memory()[0] - first
    tracemalloc.stop()
    assert len({one.content for one in kept}) == 60
    assert grown < 40 * 40_000  # their files, and no pixels: 360 kB each


def test_pictures_travel_between_processes_without_their_pixels(tmp_path):
    import copy
    import pickle

    path = tmp_path / "one.png"
    smooth(200, 300).save(path)
    found = decode(path)
    data = pickle.dumps(found)
    assert len(data) < 1000
    assert copy.copy(found) == found
    assert isinstance(found, Picture)


def test_a_missing_pillow_names_the_extra():
    code = (
        "import sys; sys.modules['PIL'] = None\n"
        "import numpy as np\n"
        "from fungi_hf.encoders.vision.pictures import decode\n"
        "decode(np.zeros((9, 9, 3), np.uint8))\n"
        "decode(b'abcd')\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert "OptionalDependencyError" in done.stderr
    assert "fungi-hf[vision]" in done.stderr
    assert OptionalDependencyError
