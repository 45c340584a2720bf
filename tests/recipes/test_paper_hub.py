"""The paper's tables against a Hub on this machine, with a tiny stand-in of every set."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from filelock import FileLock
from transformers import ASTConfig, ASTFeatureExtractor, ASTModel

from fungi_hf.testing import tiny_text_model
from fungi_hf.testing.vision_models import tiny_vision_model
from recipes.paper.registry import SETS
from recipes.paper.tables import TABLES
from tests.encoders.vision.kit import SETTINGS
from tests.fake_hub import TOKEN
from tests.recipes.data_hub import DataHub
from tests.recipes.standins import CLASSES, N_TEST, N_TRAIN, all_repositories, labels_of, repository

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(__file__).parents[2]
GATED = "ILSVRC/imagenet-1k"
MODELS = {"vision": "vit", "text": "bert", "audio": "ast"}


def save_models(root: Path) -> None:
    """Write tiny models into a folder that results will be in, too."""
    root.mkdir(exist_ok=True)
    tiny_vision_model("vit", dtype=torch.float32).save_pretrained(root / "vit")
    (root / "vit" / "preprocessor_config.json").write_text(json.dumps(SETTINGS))
    model, tokenizer = tiny_text_model("bert", dtype=torch.float32)
    model.save_pretrained(root / "bert")
    tokenizer.save_pretrained(root / "bert")
    with torch.random.fork_rng(), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*all zero values.*")
        torch.manual_seed(0)
        sizes = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2}
        settings = ASTConfig(**sizes, intermediate_size=24, max_length=128, time_stride=16,
                             frequency_stride=16)  # fmt: skip
        ASTModel(settings).save_pretrained(root / "ast")
        ASTFeatureExtractor(max_length=128).save_pretrained(root / "ast")


@contextlib.contextmanager
def serving() -> Iterator[DataHub]:
    """Give a running Hub with a stand-in of every set, and odd branches of one."""
    memory = DataHub()
    running = memory.start()
    for name, revision, files in all_repositories():
        memory.put_data(name, files, revision)
    memory.gated.add(f"datasets/{GATED}")
    cifar, (_, files) = SETS["cifar10"], repository(SETS["cifar10"])
    train = next(files[path] for path in files if "train" in path)
    other = repository(SETS["food101"])[1]
    memory.put_data(cifar.hub, {"data/train-00000-of-00001.parquet": train}, "one-split")
    memory.put_data(cifar.hub, {p.replace("validation", "test"): f for p, f in other.items()},
                    "other-column")  # fmt: skip
    try:
        yield memory
    finally:
        running.shutdown()
        running.server_close()


def child(hub: DataHub, place: Path, sets: list[str], commands: dict[str, list[Any]],
          **more: str) -> dict[str, Any]:  # fmt: skip
    cases, out = place / "cases.json", place / "out.json"
    words = {name: [str(word) for word in own] for name, own in commands.items()}
    cases.write_text(json.dumps({"sets": sets, "commands": words, "token": TOKEN}))
    inherited = {name: value for name, value in os.environ.items() if name != "FUNGI_DATA"}
    settings = {
        "HF_ENDPOINT": hub.url,
        "HF_HOME": str(place / "home"),
        "HF_HUB_OFFLINE": "0",
        "HF_DATASETS_OFFLINE": "0",
        "HF_HUB_DISABLE_XET": "1",
        "HF_DATASETS_DISABLE_PROGRESS_BARS": "1",
    }
    words = [sys.executable, "-m", "tests.recipes.paper_child", str(cases), str(out)]
    done = subprocess.run(
        words,
        check=False,
        env=inherited | settings | more,
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(out.read_text("utf-8"))


def table(name: str, place: Path, *more: Any, model: str = "", out: str = "") -> list[Any]:
    words = ["--table", name, "--model", place / (model or MODELS[TABLES[name].modality])]
    return [*words, "--hub", *(["--out", place / out] if out else []), *more]


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    """Everything that the default tests look at, from one process, which workers share."""
    base = tmp_path_factory.getbasetemp()
    root = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "paper"
    written = root / "found.json"
    with FileLock(f"{root}.lock"):
        if not written.exists():
            save_models(root)
            with serving() as hub:
                told = child(hub, root, list(SETS), commands_of(root))
                told["commits"] = {name: list(repo.commits) for name, repo in hub.repos.items()}
                told["branches"] = {name: repo.branches for name, repo in hub.repos.items()}
                told["asked"] = hub.asked
            written.write_text(json.dumps(told))
    return json.loads(written.read_text()) | {"root": root}


def commands_of(place: Path) -> dict[str, list[Any]]:
    cifar = table("vision", place, "--sets", "cifar10", "--objectives", "kl")
    return {
        "text": table("text", place, "--objectives", "kl", "--sets", "trec", "tweet-eval",
                      "--rows", 21, 9, out="text.json"),
        "landmarks": table("landmarks", place, "--objectives", "kl", "--sets", "oxford",
                           out="landmarks.json"),
        "gated": table("vision", place, "--sets", "cifar10", "imagenet-1k"),
        "gated, left out": [*table("vision", place, "--sets", "imagenet-1k", "cifar10",
                                   "--objectives", "kl", "--skip-missing"),
                            "--out", place / "left.json"],
        "no revision": [*cifar, "--revision", "cifar10=nowhere"],
        "no split": [*cifar, "--revision", "cifar10=one-split"],
        "no column": [*cifar, "--revision", "cifar10=other-column"],
        "no model of texts": table("text", place, "--sets", "trec", model="vit"),
        "no model of images": table("vision", place, "--sets", "cifar10", model="bert"),
        "dry": table("text", place, "--dry"),
    }  # fmt: skip


@pytest.mark.parametrize("name", SETS)
def test_every_set_is_read_from_the_hub_by_its_row_of_the_registry(found, name):
    one, read = SETS[name], found["sets"][name]
    assert read["place"] == {
        "kind": "hub", "id": one.hub, "revision": one.revision,
        "resolved": found["branches"][f"datasets/{one.hub}"][one.revision],
    }  # fmt: skip
    assert read["megabytes"] > 0
    wanted = [N_TRAIN, N_TEST]
    if one.left_out:
        wanted = [n - n // 6 for n in wanted]  # every sixth row is silence
    assert read["rows"] == wanted
    kinds = {"audio": "RIFF", "vision": [32, 32, 3]}
    if one.modality == "text":
        assert read["inputs"] == [f"what is the new bank account {n}" for n in (23, 11)]
    else:
        assert read["inputs"] == [kinds[one.modality]] * 2
    if one.task == "classification":
        assert read["n_classes"] == 3
        assert set(read["labels"][1]) == ({0, 2, 4} if one.bins else {0, 1, 2})
        assert one.bins or one.left_out or read["names"] == CLASSES
    elif one.task == "segmentation":
        assert [np.array(mask).tolist() for mask in read["masks"]] == [
            labels_of(one, code).tolist() for code in (0, 1)
        ]
    else:
        assert read["easy"] == [[0, 9], [1, 10]]


def test_files_are_asked_for_by_the_commit_that_the_result_names(found):
    assert len(found["asked"]) > len(SETS)
    for repo, revision in found["asked"]:
        assert revision in found["commits"][repo]


def test_a_table_has_the_columns_of_the_paper_and_the_controls(found):
    assert found["commands"]["text"]["status"] == 0, found["commands"]["text"]["err"]
    record = json.loads((found["root"] / "text.json").read_text("utf-8"))
    assert record["model"]["id"] == "bert"
    assert record["missing"] == []
    assert [one["set"] for one in record["sets"]] == ["trec", "tweet-eval"]
    for one in record["sets"]:
        assert one["source"]["resolved"]
        assert one["rows"] == {"train": 21, "test": 9}
        assert one["config"]["pooling"] == "first"
        full, few = (one["results"][judge] for judge in ("full", "few-shot"))
        assert (full["protocol"], few["protocol"]) == ("paper", "paper-text-5-shot")
        assert [row["blocks"][1:] for row in full["rows"]] == [
            [], ["kl"], ["activation"], ["random"], ["repeated"]
        ]  # fmt: skip
        assert all("low" in row["against_first"] for row in full["rows"][1:])
        assert full["rows"][4]["against_first"]["difference"] == 0
        assert [row["blocks"] for row in one["results"]["linear"]["rows"]] == [["embedding"]]
    printed = found["commands"]["text"]["out"]
    assert "| + KL | + activation (control) | + random columns (control) |" in printed
    assert "| linear probe on the embedding |" in printed
    assert str(found["root"]) not in json.dumps(record)


def test_landmarks_are_judged_at_three_levels(found):
    assert found["commands"]["landmarks"]["status"] == 0, found["commands"]["landmarks"]["err"]
    (one,) = json.loads((found["root"] / "landmarks.json").read_text("utf-8"))["sets"]
    assert list(one["results"]) == ["easy", "medium", "hard"]
    assert one["notes"] == ["no classes: no linear probe"]
    assert one["results"]["easy"]["rows"][0]["metric"] == "map"


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("gated", "imagenet-1k: ImageNet-1k is gated: accept its terms on https://huggingface.co/"
                  "datasets/ILSVRC/imagenet-1k, then `hf auth login` or HF_TOKEN"),
        ("gated", "hf download ILSVRC/imagenet-1k --repo-type dataset --revision main --local-dir"),
        ("no revision", "cifar10: CIFAR-10 cannot be read from uoft-cs/cifar10 on the Hub"),
        ("no revision", "check the name and the revision"),
        ("no split", "cifar10: split 'test'; choose one of 'train'"),
        ("no column", "cifar10: column 'img'; choose one of 'image', 'label'"),
        ("no model of texts", "table 'text' takes an encoder of text"),
        ("no model of texts", "of vision: vision, segmentation, landmarks; of text: text"),
        ("no model of images", "table 'vision' takes an encoder of vision"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_said_with_what_is_allowed(found, name, words):
    one = found["commands"][name]
    assert one["status"] == 1
    assert words in one["err"]


def test_sets_that_are_not_at_hand_may_be_left_out(found):
    one = found["commands"]["gated, left out"]
    assert one["status"] == 0, one["err"]
    assert "missing: imagenet-1k: ImageNet-1k is gated" in one["out"]
    record = json.loads((found["root"] / "left.json").read_text("utf-8"))
    assert record["missing"] == ["imagenet-1k"]
    assert [own["set"] for own in record["sets"]] == ["cifar10"]


def test_a_dry_run_says_size_and_forward_passes(found):
    text = found["commands"]["dry"]["out"]
    # TREC: 5,952 texts with 12 views, and two views of 256 negatives.
    assert f"5,452 + 500 rows; {5952 * 13 + 512:,} forward passes" in text
    assert "download CogComp/trec@" in text


@pytest.mark.slow
@pytest.mark.parametrize("preset", ["paper", "fungi"])
def test_every_table_runs_whole(tmp_path, preset):
    save_models(tmp_path)
    commands = {
        name: table(name, tmp_path, "--preset", preset, "--skip-missing", out=f"{name}.json")
        for name in TABLES
    }
    commands["segmentation"] += ["--image-size", 64, 64]
    with serving() as hub:
        found = child(hub, tmp_path, [], commands)["commands"]
    for name, one in found.items():
        assert one["status"] == 0, one["err"]
        record = json.loads((tmp_path / f"{name}.json").read_text("utf-8"))
        wanted = [own.name for own in TABLES[name].sets if own.hub != GATED]
        assert [own["set"] for own in record["sets"]] == wanted
        for own in record["sets"]:
            assert own["results"]


@pytest.mark.slow
def test_what_was_read_before_is_read_offline(tmp_path):
    names = ["cifar10", "tweet-eval"]
    with serving() as hub:
        before = child(hub, tmp_path, names, {})["sets"]
    after = child(hub, tmp_path, names, {}, HF_HUB_OFFLINE="1", HF_DATASETS_OFFLINE="1")["sets"]
    for name in names:
        assert after[name]["labels"] == before[name]["labels"]
        assert after[name]["place"]["resolved"] == before[name]["place"]["resolved"]
