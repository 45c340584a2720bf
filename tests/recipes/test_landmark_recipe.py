"""The landmark recipe on thirty generated pictures, with a tiny random encoder."""

import json
import sys

import numpy as np
import pytest
import torch
from PIL import Image

from fungi_hf.errors import InputError
from fungi_hf.testing.vision_models import tiny_vision_model
from recipes.vision import landmarks
from tests.encoders.vision.kit import SETTINGS, pictures

SCENES = 5


@pytest.fixture(scope="module")
def places(tmp_path_factory):
    """A model, and a folder with a query, two easy, one hard and one junk view of each scene."""
    root = tmp_path_factory.mktemp("landmarks")
    tiny_vision_model("vit", dtype=torch.float32).save_pretrained(root / "vit")
    (root / "vit" / "preprocessor_config.json").write_text(json.dumps(SETTINGS))
    (root / "jpg").mkdir()
    rng = np.random.default_rng(0)
    images, queries = [], []

    def view(name, pixels, noise):
        grainy = pixels + rng.normal(0, noise, pixels.shape)
        Image.fromarray(grainy.clip(0, 255).astype(np.uint8)).save(root / "jpg" / f"{name}.png")

    for scene, pixels in enumerate(pictures(SCENES, seed=5, sizes=((40, 40),))):
        height, width, _ = pixels.shape
        view(f"{scene}_query", pixels, 4)
        for name in ("a", "b"):
            view(f"{scene}_easy_{name}", pixels, 8)
        view(f"{scene}_hard", pixels[: height // 2, : width // 2] * 0.7, 8)
        view(f"{scene}_junk", pixels[height // 2 :], 8)
        view(f"{scene}_other", rng.uniform(0, 255, pixels.shape), 0)
        own = [f"{scene}_{name}" for name in ("easy_a", "easy_b", "hard", "junk", "other")]
        images += own[::-1]
        queries.append(
            {"image": f"{scene}_query", "easy": own[:2], "hard": own[2:3], "junk": own[3:4]}
        )
    (root / "truth.json").write_text(json.dumps({"images": images, "queries": queries}))
    return root


def test_the_recipe_judges_three_levels(places, tmp_path, monkeypatch, capsys):
    out = tmp_path / "result.json"
    words = ["--images", places / "jpg", "--truth", places / "truth.json"]
    words += ["--model", places / "vit", "--out", out, "--objective", "kl", "--objective", "dino"]
    monkeypatch.setattr(sys, "argv", ["landmarks", *map(str, words)])
    landmarks.main()
    result = json.loads(out.read_text("utf-8"))
    assert result["rows"] == {"database": 25, "queries": 5}
    assert list(result["levels"]) == ["easy", "medium", "hard"]
    for level in result["levels"].values():
        assert list(level) == ["embedding", "embedding+kl", "embedding+kl+dino"]
        assert all(set(landmarks.SHOWN) <= set(row) for row in level.values())
        assert "against_embedding" in level["embedding+kl"]
    # The two easy views are nearly the query.
    assert result["levels"]["easy"]["embedding"]["map"] > 80
    assert result["levels"]["easy"]["embedding+kl+dino"]["map"] > 80
    assert result["config"]["reduction"] is None
    assert result["notes"][0] == "paper-landmarks-easy: PCA to 512 skipped: 25 rows, width 16"
    printed = capsys.readouterr().out
    assert "| features | easy: mAP | easy: mP@10 | medium: mAP |" in printed
    assert "| embedding+kl+dino | " in printed


def test_a_missing_image_is_named(places, tmp_path):
    truth = json.loads((places / "truth.json").read_text())
    truth["images"].append("gate")
    (tmp_path / "more.json").write_text(json.dumps(truth))
    sides = (places / "jpg", tmp_path / "more.json", str(places / "vit"))
    with pytest.raises(InputError, match=r"1 of the 26 images .* have no row among 30: 'gate'"):
        landmarks.judge(*sides, landmarks.chosen(["kl"]))


def test_the_preset_has_the_objectives_of_the_paper():
    assert landmarks.OBJECTIVES == ("kl", "dino", "simclr")
    assert [spec.name for spec in landmarks.chosen(["dino"]).objectives] == ["dino"]
