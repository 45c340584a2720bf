"""The recipe of Oxford and Paris, on generated landmarks seen in several lights."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from PIL import Image

from fungi_hf import KL, FungiConfig
from fungi_hf.errors import InputError
from fungi_hf.testing.vision_models import tiny_vision_model
from recipes.vision import landmarks
from tests.encoders.vision.kit import SETTINGS, pictures


@pytest.fixture
def place(tmp_path):
    """Six landmarks: an easy image, a hard one with its colours turned, a junk one, a query."""
    (tmp_path / "jpg").mkdir()
    names, queries = [], []
    generator = np.random.default_rng(0)
    for i, plain in enumerate(pictures(6, seed=3)):
        noisy = (plain + generator.normal(0, 4, plain.shape)).clip(0, 255).astype(np.uint8)
        made = {"easy": noisy, "hard": plain[:, :, ::-1], "junk": 255 - plain, "query": plain}
        for kind, pixels in made.items():
            Image.fromarray(np.ascontiguousarray(pixels)).save(tmp_path / "jpg" / f"{kind}_{i}.png")
        names += [f"{kind}_{i}" for kind in ("easy", "hard", "junk")]
        queries.append(f"query_{i}")
    truth = {
        "imlist": names,
        "qimlist": queries,
        "gnd": [{"easy": [3 * i], "hard": [3 * i + 1], "junk": [3 * i + 2]} for i in range(6)],
    }
    (tmp_path / "gnd.json").write_text(json.dumps(truth))
    model = tmp_path / "model"
    tiny_vision_model("vit", dtype=torch.float32).save_pretrained(model)
    (model / "preprocessor_config.json").write_text(json.dumps(SETTINGS))
    FungiConfig(objectives=(KL(latent_dim=8),), pooling="cls").save_pretrained(tmp_path / "config")
    return tmp_path


def test_every_level_is_written(place, capsys) -> None:
    words = ["--images", place, "--truth", place / "gnd.json", "--model", place / "model"]
    words += ["--config", place / "config", "--out", place / "out.json"]
    landmarks.main(list(map(str, words)))
    scores = json.loads((place / "out.json").read_text())["scores"]
    assert list(scores) == ["easy", "medium", "hard"]
    for rows in scores.values():
        assert list(rows) == ["embedding", "kl", "embedding+kl"]
        assert "PCA to 512 skipped" in rows["kl"]["notes"][0]
    assert scores["easy"]["embedding"]["map"] > 95  # the same picture with a little noise
    assert scores["hard"]["embedding"]["map"] < scores["easy"]["embedding"]["map"]
    assert "medium embedding+kl" in capsys.readouterr().out


def test_pictures_that_are_missing_are_named(place) -> None:
    (place / "jpg" / "hard_2.png").unlink()
    with pytest.raises(InputError, match=r"lacks 1 of 18 pictures, such as hard_2; download"):
        landmarks.judge(place, place / "gnd.json", str(place / "model"))
