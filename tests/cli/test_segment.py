"""`fungi-hf segment` on generated scenes: maps, page, scores, and every wrong folder."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from PIL import Image

from fungi_hf.cli import main
from fungi_hf.errors import ImageError, InputError
from fungi_hf.evaluation.segmentation.pictures import class_colours, read_class_names, read_mask
from fungi_hf.testing.vision_models import tiny_vision_model
from tests.encoders.vision.kit import SETTINGS

COLOURS = np.array([[200, 60, 60], [60, 200, 60], [60, 60, 200]], np.uint8)


def scene(seed, size=(48, 64)):
    """Three coloured regions in places that differ by picture: pixels [H, W, 3], labels [H, W]."""
    generator = np.random.default_rng(seed)
    labels = np.zeros(size, np.uint8)
    labels[generator.integers(16, 32) :] = 1
    left = generator.integers(0, 32)
    labels[8:40, left : left + 24] = 2
    pixels = COLOURS[labels].astype(float) + generator.normal(0, 6, (*size, 3))
    return pixels.clip(0, 255).astype(np.uint8), labels


def save_scenes(folder, seeds, *, masks=True):
    (folder / "images").mkdir(parents=True)
    if masks:
        (folder / "masks").mkdir()
    for seed in seeds:
        pixels, labels = scene(seed)
        Image.fromarray(pixels).save(folder / "images" / f"scene {seed}.png")
        if masks:
            mask = Image.fromarray(labels, "P")
            mask.putpalette([10, 20, 30, 40, 50, 60, 70, 80, 90])
            mask.save(folder / "masks" / f"scene {seed}.png")
    return folder


@pytest.fixture
def model(tmp_path):
    folder = tmp_path / "model"
    tiny_vision_model("vit", dtype=torch.float32).save_pretrained(folder)
    (folder / "preprocessor_config.json").write_text(json.dumps(SETTINGS))
    return str(folder)


@pytest.fixture
def train(tmp_path):
    return save_scenes(tmp_path / "train", range(6))


def config_of(tmp_path):
    path = tmp_path / "config.json"
    spec = {"kind": "dense_infonce", "n_support": 30}
    fields = {"objectives": [spec], "pooling": "cls", "image_size": [48, 64]}
    path.write_text(json.dumps({"config": fields}))
    return str(path)


def run(capsys, *words):
    status = main(["segment", *map(str, words)])
    said = capsys.readouterr()
    return status, said.out, said.err


def test_maps_page_and_scores(capsys, tmp_path, model, train) -> None:
    test = save_scenes(tmp_path / "test", (20, 21))
    out = tmp_path / "maps"
    names = tmp_path / "names.json"
    names.write_text('["sky", "grass", "house"]')
    status, said, err = run(
        capsys, model, train, test, "--config", config_of(tmp_path), "--names", names, "--out", out,
        "-k", 5,
    )  # fmt: skip
    assert status == 0, err
    summary = json.loads((out / "segment.json").read_text())
    scores = summary["scores"]
    assert json.loads(said) == scores
    assert list(scores) == ["plain tokens", "FUNGI (tokens + dense_infonce)"]
    assert summary["classes"] == ["sky", "grass", "house"]
    assert summary["bank_rows"] == 6 * 48
    for seed in (20, 21):
        labels, colours = read_mask(out / "labels" / f"scene {seed}.png")
        truth = scene(seed)[1]
        assert labels.shape == truth.shape
        assert (labels == truth).mean() > 0.8  # patches of 8 pixels, features of random weights
        assert colours[:3].tolist() == [[10, 20, 30], [40, 50, 60], [70, 80, 90]]
    found = scores["FUNGI (tokens + dense_infonce)"]
    hits = [
        (read_mask(out / "labels" / f"scene {seed}.png")[0] == scene(seed)[1]).mean()
        for seed in (20, 21)
    ]
    assert found["pixel_accuracy"] == pytest.approx(np.mean(hits))
    assert set(found["per_class"]) == {"sky", "grass", "house"}
    page = (out / "index.html").read_text()
    assert page.count("<figure>") == 8
    assert all(word in page for word in ("grass", "#0a141e", "plain tokens", "truth", "scene 20"))
    assert "http" not in page.replace("http-equiv", "")


def test_a_file_without_truth_and_the_model_as_an_option(capsys, tmp_path, model, train) -> None:
    save_scenes(tmp_path / "new", (9,), masks=False)
    picture = tmp_path / "new" / "images" / "scene 9.png"
    out = tmp_path / "maps"
    status, said, err = run(
        capsys, train, picture, "--model", model, "--objective", "activation", "--out", out, "-k", 3
    )
    assert status == 0, err
    assert said == ""
    assert [path.name for path in (out / "labels").iterdir()] == ["scene 9.png"]
    assert "not scored" not in (out / "index.html").read_text()


def test_unusable_pictures_are_raised_or_left_out(capsys, tmp_path, model, train) -> None:
    test = save_scenes(tmp_path / "test", (20, 21))
    (test / "images" / "broken.png").write_bytes(b"no picture")
    (train / "masks" / "scene 1.png").unlink()
    Image.fromarray(scene(2)[1][:, :32]).save(train / "masks" / "scene 2.png")
    words = (
        model,
        train,
        test,
        "--config",
        config_of(tmp_path),
        "--out",
        tmp_path / "maps",
        "-k",
        3,
    )
    status, _, err = run(capsys, *words)
    assert status == 1
    assert "scene 1.png has no mask; give one of its name as a PNG, or --on-error skip" in err
    status, _, err = run(capsys, *words, "--on-error", "skip")
    assert status == 0, err
    summary = json.loads((tmp_path / "maps" / "segment.json").read_text())
    errors = {one["file"].split("/")[-1]: one["error"] for one in summary["left_out"]}
    assert set(errors) == {"scene 1.png", "scene 2.png", "broken.png"}
    assert "is 32 x 48 pixels wide and high, its picture" in errors["scene 2.png"]
    assert summary["training_pictures"] == 4
    assert len(summary["pictures"]) == 2


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("TRAIN", "TEST"), "segment takes a model, a folder of labelled pictures and pictures"),
        (("MODEL", "nowhere", "TEST"), "there is no file or folder nowhere"),
        (("MODEL", "TRAIN", "nowhere"), "there is no file or folder nowhere"),
        (("MODEL", "EMPTY", "TEST"), "holds no pictures"),
        (("MODEL", "BARE", "TEST"), "holds no picture with a mask; it needs images/ and masks/"),
        (("MODEL", "TRAIN", "TEST", "--masks", "nowhere"), "no folder of masks nowhere"),
        (("MODEL", "TRAIN", "TEST", "--names", "nowhere"), "class names nowhere cannot be read"),
        (("MODEL", "TRAIN", "TEST", "--ignore", "void"), "no label and none of the classes' names"),
        (("MODEL", "TRAIN", "TEST", "--image-size", "4y5"), "HEIGHTxWIDTH; got 4y5"),
        (("MODEL", "TRAIN", "TEST", "--image-size", "33"), "not whole patches of 8 x 8"),
        (("MODEL", "TRAIN", "TEST", "--protocol", "best"), "protocol"),
        (("MODEL", "TRAIN", "TEST", "-k", "0"), "n_neighbors"),
        (("MODEL", "TRAIN", "TEST", "--objective", "kl"), "kl has one loss an input"),
        (
            ("MODEL", "TRAIN", "TEST", "--names", "TWO"),
            "labels that are no class: 2 (768 pixels); classes are 0 to 1",
        ),
    ],
)
def test_wrong_use_is_named(capsys, tmp_path, model, train, words, message) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "two.json").write_text('["a", "b"]')
    places = {
        "MODEL": model,
        "TRAIN": train,
        "TEST": save_scenes(tmp_path / "test", (20,)),
        "EMPTY": tmp_path / "empty",
        "BARE": save_scenes(tmp_path / "bare", (1,), masks=False),
        "TWO": tmp_path / "two.json",
    }
    status, said, err = run(capsys, *(places.get(w, w) for w in words), "--out", tmp_path / "maps")
    assert status == 1
    assert said == ""
    assert message in err
    assert not (tmp_path / "maps").exists()


def test_masks_that_hold_colours_or_nothing(tmp_path) -> None:
    path = tmp_path / "mask.png"
    Image.fromarray(np.zeros((4, 4, 3), np.uint8)).save(path)
    with pytest.raises(ImageError, match=r"holds colours \(RGB\); give labels as a PNG"):
        read_mask(path)
    path.write_bytes(b"nothing")
    with pytest.raises(ImageError, match=r"mask.png cannot be read"):
        read_mask(path)
    wide = np.array([[0, 300], [65_535, 7]], np.uint16)
    Image.fromarray(wide).save(path)
    assert read_mask(path)[0].tolist() == wide.tolist()
    Image.fromarray(np.array([[False, True]])).save(path)
    assert read_mask(path)[0].tolist() == [[0, 1]]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "are not JSON"),
        ("3", "must hold a list of texts"),
        ("[]", "must hold a list of texts"),
        ('["a", 1]', "must hold a list of texts"),
        ('["a", "b", "a"]', "several classes 'a'"),
        ('{"0": "a", "2": "b"}', "name every one from 0 to 1"),
    ],
)
def test_class_names_that_are_refused(tmp_path, text, message) -> None:
    path = tmp_path / "names.json"
    path.write_text(text)
    with pytest.raises(InputError, match=message):
        read_class_names(path)


def test_class_names_and_colours(tmp_path) -> None:
    path = tmp_path / "names.json"
    path.write_text('{"1": "b", "0": "a"}')
    assert read_class_names(path) == ["a", "b"]
    # Pascal VOC's: background, aeroplane, bicycle, bird, boat, bottle.
    assert class_colours(6).tolist() == [
        [0, 0, 0], [128, 0, 0], [0, 128, 0], [128, 128, 0], [0, 0, 128], [128, 0, 128],
    ]  # fmt: skip
    assert class_colours(22)[21].tolist() == [128, 64, 128]
