"""The recipe runner: arms, controls, comparisons, and a second call that sends nothing."""

from __future__ import annotations

import json
import socket

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from recipes.icl import run as recipe_run
from tests.icl.chat_kit import NAMES, task


def free_ports(count):
    """A port with free ones after it."""
    while True:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        if port + count < 65535:
            return port


@pytest.fixture
def folders(tmp_path):
    rng = np.random.default_rng(0)
    data, features = tmp_path / "data", tmp_path / "features"
    data.mkdir()
    features.mkdir()
    (data / "labels.json").write_text(json.dumps(NAMES))
    for side, examples in zip(("train", "test"), task(n_test=16, n_train=60), strict=True):
        table = {"text": list(examples.contents), "label": list(examples.targets)}
        pq.write_table(pa.table(table), data / f"{side}.parquet")
        vectors = np.eye(4)[list(examples.targets)] + rng.normal(0, 0.7, (len(examples), 4))
        np.savez(features / f"{side}.npz", features=vectors)
    recipe = json.loads((recipe_run.ROOT / "recipes/icl/sst5.json").read_text())
    recipe |= {"k": [1, 5], "control_k": 5, "policies": ["majority"]}
    (tmp_path / "recipe.json").write_text(json.dumps(recipe))
    return tmp_path


def test_a_recipe_runs_its_arms_and_controls_and_resumes(folders, capsys):
    words = [
        str(folders / "recipe.json"), f"--data={folders / 'data'}", f"--port={free_ports(2)}",
        f"--features={folders / 'features'}", f"--out={folders / 'runs'}",
        f"--results={folders / 'results'}",
    ]  # fmt: skip
    assert recipe_run.main(words) == 0
    (file,) = (folders / "results").glob("*.json")
    first = json.loads(file.read_text())
    assert list(first["runs"]) == [
        "embedding k=1", "embedding k=5", "fungi k=1", "fungi k=5",
        "control: no demonstrations", "control: random k=5",
        "control: fungi k=5, labels permuted",
    ]  # fmt: skip
    assert all(row["complete"] for row in first["runs"].values())
    for name in ("embedding k=5", "control: random k=5"):
        assert first["runs"][name]["accuracy"] == first["runs"][name]["vote_accuracy"]
    assert set(first["comparisons"]) == {f"fungi against embedding, k={k}" for k in (1, 5)}
    out = capsys.readouterr().out
    assert f"| embedding k=5 | {first['runs']['embedding k=5']['accuracy']:.4f} |" in out
    journals = sorted((folders / "runs").rglob("journal.jsonl"))
    before = [path.read_bytes() for path in journals]
    assert recipe_run.main(words) == 0
    assert [path.read_bytes() for path in journals] == before
    assert json.loads(file.read_text()) == first


def test_a_recipe_without_data_says_what_it_needs():
    with pytest.raises(SystemExit, match="icl-sst5 needs --data FOLDER"):
        recipe_run.main([str(recipe_run.ROOT / "recipes/icl/sst5.json")])
