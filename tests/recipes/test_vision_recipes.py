"""The image recipes and their demonstration on the shipped tiles, with a tiny random encoder."""

import hashlib
import json
from pathlib import Path

import pytest
import torch

from fungi_hf.encoders.vision.pictures import decode
from fungi_hf.testing.vision_models import tiny_vision_model
from recipes.demo_vision import demonstrate
from recipes.vision import run
from recipes.vision.data import load
from tests.encoders.vision.kit import SETTINGS

ROOT = Path(__file__).parents[2]
RECIPES = sorted((ROOT / "recipes/vision").glob("*.json"))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("vit")
    tiny_vision_model("vit", dtype=torch.float32).save_pretrained(path)
    (path / "preprocessor_config.json").write_text(json.dumps(SETTINGS))
    return str(path)


def test_the_tiles_are_two_hundred_small_pictures():
    train, test = load("tiles", "train"), load("tiles", "test")
    assert (len(train), len(test)) == (100, 100)
    assert len({hashlib.sha256(file).digest() for file in train.files + test.files}) == 200
    assert {decode(file).pixels().shape for file in train.files + test.files} == {(64, 64, 3)}
    assert [train.labels.tolist().count(k) for k in range(10)] == [10] * 10
    table = (ROOT / "recipes/data/vision/tiles/README.md").read_text("utf-8")
    assert all(f"| {name} |" in table for name in train.names)


def test_the_demonstration_prints_a_table_and_neighbours(folder):
    text = demonstrate(folder, per_class=5)
    assert "ViTModel, layers.2.attention.o_proj, pooling cls, 4 x 4 patches" in text
    assert "100 pictures -> 48 numbers each" in text
    assert text.count("nearest is one of") == 4
    assert "| embedding + KL gradient |" in text


SMALL = [
    {
        "kind": "blocks",
        "config": {"objectives": ["kl", {"kind": "deepcluster", "prototypes": [5, 5]}]},
        "combinations": ["embedding", "kl", "embedding+kl+deepcluster"],
    },
    {"kind": "patches", "config": {}, "numbers": [4], "n_negatives": 2, "negative_views": 4},
    {"kind": "layers", "config": {"objectives": ["kl"]}},
    {
        "kind": "sketches",
        "config": {"objectives": ["kl"]},
        "options": {"kinds": ["khatri_rao"], "widths": [8], "ranks": [1], "n_seeds": 1},
    },
]


@pytest.mark.parametrize("recipe", SMALL, ids=lambda recipe: recipe["kind"])
def test_every_kind_of_recipe_runs(recipe, folder):
    recipe = {"name": "small", "data": "tiles", "per_class": {"train": 6, "test": 3}, **recipe}
    kinds = {"blocks": run.blocks, "patches": run.patches}
    found = kinds.get(recipe["kind"], run.swept)(recipe, folder)
    assert json.loads(json.dumps(found)) is not None
    if recipe["kind"] == "blocks":
        assert found["rows"] == {"train": 60, "test": 30}
        scores = found["scores"]["embedding+kl+deepcluster"]
        assert {"knn", "few", "pca", "linear", "nmi", "clustering"} <= set(scores)
        assert set(found["change_per_class"]["kl"]) <= set(load("tiles", "test").names)


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_every_recipe_is_named_as_its_file_and_is_a_config(path):
    recipe = json.loads(path.read_text("utf-8"))
    assert recipe["name"] == path.stem
    config = run.FungiConfig.from_dict(recipe["config"])
    known = {"embedding", *(spec.name for spec in config.objectives)}
    for combination in recipe.get("combinations", ()):
        assert set(combination.split("+")) <= known
