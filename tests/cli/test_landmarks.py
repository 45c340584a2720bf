"""`fungi-hf evaluate --task retrieval --judgements truth.json`: landmarks at three levels."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

from fungi_hf.evaluation import evaluate_landmarks, read_landmarks
from fungi_hf.evaluation.report.documents import read_documents
from fungi_hf.features import FungiFeatures, make_layout
from fungi_hf.testing.vision_models import tiny_vision_model
from tests.cli.program import run
from tests.encoders.vision.kit import SETTINGS, pictures
from tests.feature_files import write_parquet

IMAGES = [f"view_{number}" for number in range(12)]
QUERIES = ["ask_0", "ask_1", "ask_2"]
TRUTH = {
    "images": IMAGES,
    "queries": [
        {
            "image": name,
            "easy": [4 * place, f"view_{4 * place + 1}"],
            "hard": [4 * place + 2],
            "junk": [4 * place + 3],
        }
        for place, name in enumerate(QUERIES)
    ],
}
LEVELS = ["easy", "medium", "hard"]


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> SimpleNamespace:
    """A ground truth, and features: plain in its order, and with names in another."""
    folder = tmp_path_factory.mktemp("landmarks")
    (folder / "truth.json").write_text(json.dumps(TRUTH))
    rng = np.random.default_rng(3)
    places = SimpleNamespace(folder=folder, truth=str(folder / "truth.json"))
    for side, names in (("train", IMAGES), ("test", QUERIES)):
        array = rng.standard_normal((len(names), 6)).astype(np.float32)
        np.save(folder / f"{side}.npy", array)
        extra = [f"photos/{name}.jpg" for name in [*names, "further"]][::-1]
        rows = np.concatenate([array, array[:1]])[::-1]
        layout = make_layout({"embedding": 4, "kl": 2})
        found = FungiFeatures(np.ascontiguousarray(rows), "one", layout)
        write_parquet(folder / f"{side}.parquet", found, extra)
        setattr(places, side, FungiFeatures(array, "one", layout))
    return places


def words(files: SimpleNamespace, suffix: str = ".parquet") -> list[str]:
    sides = [(f"--{side}", str(files.folder / f"{side}{suffix}")) for side in ("train", "test")]
    judged = ["--task", "retrieval", "--judgements", files.truth]
    return ["evaluate", *(word for pair in sides for word in pair), *judged]


def test_all_levels_are_judged_by_the_published_protocol(
    capsys: pytest.CaptureFixture[str], files: SimpleNamespace, tmp_path: Path
) -> None:
    out, html = tmp_path / "results.json", tmp_path / "report.html"
    status, stdout, stderr = run(capsys, *words(files), "--out", str(out))
    assert status == 0
    document = read_documents([out])
    wanted = evaluate_landmarks(files.train, files.test, read_landmarks(files.truth))
    # The files' rows stand in another order, with one more.
    assert json.loads(out.read_text())["results"] == [json.loads(one.to_json()) for one in wanted]
    assert document.source["judgements"] == files.truth
    names = [f"paper-landmarks-{level}" for level in LEVELS]
    assert list(dict.fromkeys(one.protocol for one in document.results)) == names
    for name in names:
        assert f"retrieval, protocol {name}: 12 training and 3 test rows, percent" in stdout
    assert "retrieval, paper-landmarks: 3 combinations in" in stderr
    assert "9 records in" in stderr
    assert run(capsys, "report", str(out), "--out", str(html))[0] == 0
    page = html.read_text(encoding="utf-8")
    assert all(f"Retrieval, protocol {name}" in page for name in names)


def test_levels_protocols_and_combinations_are_chosen(
    capsys: pytest.CaptureFixture[str], files: SimpleNamespace
) -> None:
    more = ["--level", "hard", "--level", "easy", "--protocol", "fungi", "--combination", "kl"]
    status, stdout, _ = run(capsys, *words(files), *more, "--json")
    assert status == 0
    found = json.loads(stdout)["results"]
    assert [(one["protocol"], one["settings"]["level"], one["blocks"]) for one in found] == [
        ("fungi-hard", "hard", ["kl"]),
        ("fungi-easy", "easy", ["kl"]),
    ]
    plain = json.loads(run(capsys, *words(files, ".npy"), "--level", "medium", "--json")[1])
    named = json.loads(
        run(capsys, *words(files), "--level", "medium", "--combination", "embedding+kl", "--json")[
            1
        ]
    )
    assert plain["results"][0]["metrics"] == named["results"][0]["metrics"]


def test_a_model_ranks_the_pictures_of_one_folder(
    capsys: pytest.CaptureFixture[str], files: SimpleNamespace, tmp_path: Path
) -> None:
    model, photos = tmp_path / "vit", tmp_path / "photos"
    photos.mkdir()
    tiny_vision_model("vit", dtype=torch.float32).save_pretrained(model)
    (model / "preprocessor_config.json").write_text(json.dumps(SETTINGS))
    names = [*QUERIES, "further", *IMAGES[::-1]]
    for name, pixels in zip(names, pictures(len(names)), strict=True):
        Image.fromarray(pixels).save(photos / f"{name}.png")
    place = str(photos)
    more = ["--train", place, "--test", place, "--task", "retrieval", "--judgements", files.truth]
    status, stdout, stderr = run(
        capsys, "evaluate", str(model), "--objective", "kl", *more, "--json"
    )
    assert status == 0, stderr
    found = json.loads(stdout)["results"]
    assert len(found) == 9
    assert {(one["n_train"], one["n_test"]) for one in found} == {(12, 3)}
    (photos / "view_7.png").unlink()
    status, _, stderr = run(capsys, "evaluate", str(model), *more)
    assert status == 1
    assert f"{place}, judged by {files.truth}: 1 of the 12 images of the database have no" in stderr
    assert "'view_7'" in stderr


WRONG: dict[str, tuple[list[str], str]] = {
    "level": (["PLAIN", "--level", "hard"], "--level hard is of landmarks; name their .json file"),
    "level of lines": (
        ["PLAIN", "--task", "retrieval", "--judgements", "lines.jsonl", "--level", "easy"],
        "--level easy is of landmarks",
    ),
    "task": (
        ["PLAIN", "--judgements", "TRUTH"],
        "--judgements is of retrieval, the tasks are knn, linear; add --task retrieval",
    ),
    "tasks": (
        ["ALL", "--task", "linear"],
        "judges retrieval alone, the tasks are retrieval, linea",
    ),
    "all": (["PLAIN", "--task", "all", "--judgements", "TRUTH"], "judges retrieval alone"),
    "rows": (["ALL", "--test-rows", "2"], "--test-rows cannot be used with"),
    "labels": (["ALL", "--train-labels", "a.csv"], "--train-labels cannot be used with"),
    "protocol": (["ALL", "--protocol", "paper"], "unknown protocol of retrieval: 'paper'; choose"),
    "pickle": (["PLAIN", "--task", "retrieval", "--judgements", "a.pkl"], "a.pkl is a pickle"),
    "missing": (["PLAIN", "--task", "retrieval", "--judgements", "a.json"], "a.json cannot be rea"),
    "damaged": (
        ["PLAIN", "--task", "retrieval", "--judgements", "bad.json"],
        "the file lacks 'ima",
    ),
    "table": (
        ["PLAIN", "--task", "retrieval", "--judgements", "a.yaml"],
        "there is no file a.yaml",
    ),
    "order": (
        ["SWAPPED", "--task", "retrieval", "--judgements", "TRUTH"],
        "test.npy has 3 rows without names, ",
    ),
    "names": (
        ["SAME", "--task", "retrieval", "--judgements", "TRUTH"],
        "3 of the 3 query images have no row among 13: 'ask_0', 'ask_1', 'ask_2'",
    ),
}


@pytest.mark.parametrize("name", WRONG)
def test_wrong_use_is_one_line(
    capsys: pytest.CaptureFixture[str],
    files: SimpleNamespace,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    name: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("lines.jsonl").write_text('{"relevant": [1]}\n' * 3)
    Path("bad.json").write_text("{}")
    whole, plain = words(files)[1:], words(files, ".npy")[1:5]
    places = {
        "ALL": whole,
        "PLAIN": plain,
        "SWAPPED": [plain[0], plain[3], plain[2], plain[1]],
        "SAME": [*whole[:2], "--test", whole[1]],
        "TRUTH": [files.truth],
    }
    arguments, match = WRONG[name]
    given = [one for word in arguments for one in places.get(word, [word])]
    status, stdout, stderr = run(capsys, "evaluate", *given)
    errors = [line for line in stderr.splitlines() if line.startswith("fungi-hf: error: ")]
    assert (status, stdout) == (1, "")
    assert len(errors) == 1
    assert match in errors[0]
