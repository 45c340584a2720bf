"""The audio recipes and their demonstration on the shipped sounds, with a tiny random encoder."""

import json
from pathlib import Path

import numpy as np
import pyarrow.parquet
import pytest

from fungi_hf.config import FungiConfig
from fungi_hf.extractor import FungiExtractor
from recipes.audio.run import Sounds, against, columns, extract, read, run, score, table
from recipes.demo_audio import demonstrate
from tests.encoders.audio_models import build

ROOT = Path(__file__).parents[2]
DIGITS = ROOT / "recipes/data/fsdd/fsdd.parquet"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("wav2vec2")
    model, processor = build("wav2vec2")
    model.save_pretrained(path)
    processor.save_pretrained(path)
    return str(path)


def test_demonstration_prints_a_table_and_neighbours(folder):
    text = demonstrate(folder, clips=30)
    assert "Wav2Vec2Model, encoder.layers.1.attention.out_proj, pooling mean" in text
    assert "30 clips" in text
    assert text.count("nearest is") == 4
    assert "| embedding + KL gradient |" in text


def test_negatives_of_a_fold_come_from_its_training_clips(folder, tmp_path):
    sounds = read(DIGITS, "speaker")
    rows = np.flatnonzero(np.isin(sounds.folds, ["george", "jackson", "lucas"]))[::10]
    files = [sounds.files[row] for row in rows]
    some = Sounds(files, sounds.labels[rows], sounds.folds[rows])
    objectives = [
        {"kind": "kl", "latent_dim": 8},
        {"kind": "simclr", "n_views": 2, "n_negatives": 4, "negative_views": 1, "latent_dim": 8},
    ]
    config = FungiConfig.from_dict({"objectives": objectives})
    found = extract(some, folder, config, tmp_path)
    assert np.array_equal(extract(some, folder, config, tmp_path).array, found.array)
    assert len(list(tmp_path.iterdir())) == 1
    names = ["simclr_george", "simclr_jackson", "simclr_lucas"]
    assert list(found.layout) == ["embedding", "kl", *names]
    # One fold the plain way: its own extractor, fitted on its training clips.
    (spec,) = [spec for spec in config.objectives if spec.kind == "simclr"]
    alone = config.replace(
        objectives=(
            type(spec)(n_views=2, n_negatives=4, negative_views=1, latent_dim=8, name=names[1]),
        )
    )
    extractor = FungiExtractor.from_pretrained(folder, alone)
    extractor.fit([f for f, s in zip(files, some.folds, strict=True) if s != "jackson"])
    expected = extractor(files).block(names[1])
    assert np.allclose(found.block(names[1]), expected, atol=1e-5)
    assert columns(found, ["embedding", "simclr"], "lucas").shape == (len(files), 64)


@pytest.mark.parametrize("name", ["fsdd_sample", "fsdd", "fsdd_kl", "esc10", "esc10_kl"])
def test_recipes_are_valid_and_their_arms_name_blocks(name):
    recipe = json.loads((ROOT / f"recipes/audio/{name}.json").read_text("utf-8"))
    config = FungiConfig.from_dict(recipe["config"])
    blocks = {"embedding", *(spec.name for spec in config.objectives)}
    assert {block for arm in recipe["arms"].values() for block in arm} <= blocks
    assert recipe["name"] == f"audio_{name}"
    assert recipe["data"] is None or (ROOT / recipe["data"]).is_file()


def test_scores_of_a_perfect_feature_and_of_a_table():
    labels = np.repeat(np.arange(3), 8)
    folds = np.tile(["a", "b"], 12)
    sounds = Sounds([b""] * 24, labels, folds)
    recipe = {"neighbors": [1, 5], "shots": 2, "draws": 3}
    perfect = np.eye(3, dtype=np.float32)[labels]
    found, right = score(perfect, sounds, "a", recipe)
    assert found == {"full k=1": 100, "full k=5": 100, "2-shot k=2": 100}
    wrong = np.eye(3, dtype=np.float32)[(labels + (folds == "a")) % 3]
    missed, none = score(wrong, sounds, "a", recipe)
    assert missed["full k=1"] == 0
    counts = against([none], [right])
    assert counts == {"full k=1": {"gained": 0, "lost": 12}, "full k=5": {"gained": 0, "lost": 12}}
    assert against([right, right], [none, right])["full k=5"] == {"gained": 12, "lost": 0}
    assert table({"mean": {"x": {"full k=1": 12.34}}}).endswith("| x | 12.3 |")


def test_a_recipe_runs_from_files(folder, tmp_path):
    table = pyarrow.parquet.read_table(DIGITS)
    pyarrow.parquet.write_table(table.take(list(range(0, 300, 5))), tmp_path / "some.parquet")
    recipe = {
        "name": "tiny",
        "fold_column": "speaker",
        "neighbors": [1],
        "shots": 1,
        "draws": 2,
        "config": {"objectives": []},
        "arms": {"embedding": ["embedding"]},
    }
    result = run(recipe, folder, tmp_path / "some.parquet")
    assert result["clips"] == 60
    assert set(result["by_fold"]["embedding"]) == set(result["folds"])
    assert len(result["folds"]) == 6
    assert 0 <= result["mean"]["embedding"]["full k=1"] <= 100
