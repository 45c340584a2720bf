"""`fungi-hf evaluate`, `sweep` and `report`: tables and JSON, on feature files and on models."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from fungi_hf import FungiConfig, FungiExtractor, SimCLR
from fungi_hf.cli import build_parser
from fungi_hf.evaluation import evaluate_knn, evaluate_linear
from fungi_hf.evaluation.report.documents import read_documents
from fungi_hf.features import FungiFeatures
from tests.cli.program import run
from tests.evaluation.blocks import labelled
from tests.tiny import TRAIN

PROGRAM = str(Path(sys.executable).with_name("fungi-hf"))
WIDTHS = {"embedding": 6, "kl": 4}
NAMES = ["lost", "new", "old", "paid"]  # ties go to the smallest label


def stored(array: Any, layout: dict[str, slice]) -> FungiFeatures:
    return FungiFeatures(array=array, layout=layout, fingerprint="one")


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> SimpleNamespace:
    """Feature files of two blocks, with their labels as numbers and as words."""
    folder = tmp_path_factory.mktemp("files")
    places = SimpleNamespace(folder=folder)
    for side, n, seed in (("train", 160, 0), ("test", 60, 1)):
        features, labels = labelled(n, WIDTHS, seed=seed, noise=1.5)
        stored(features.array, features.layout).save(folder / f"{side}.safetensors")
        np.save(folder / f"{side}.npy", features.array)
        (folder / f"{side}.txt").write_text("\n".join(NAMES[i] for i in labels))
        rows = "\n".join(f"{i},{NAMES[label]}" for i, label in enumerate(labels))
        (folder / f"{side}.csv").write_text(f"row,label\n{rows}\n")
        setattr(places, side, (features, labels))
    return places


def sides(files: SimpleNamespace, suffix: str = ".safetensors", labels: str = ".csv") -> list[str]:
    return [
        word
        for side in ("train", "test")
        for word in (
            f"--{side}",
            str(files.folder / f"{side}{suffix}"),
            f"--{side}-labels",
            str(files.folder / f"{side}{labels}"),
        )
    ]


def test_feature_files_give_the_records_of_the_library(
    capsys: pytest.CaptureFixture[str], files: SimpleNamespace, tmp_path: Path
) -> None:
    out = tmp_path / "results.json"
    status, stdout, stderr = run(
        capsys, "evaluate", *sides(files), "--task", "knn", "--out", str(out)
    )
    assert status == 0
    document = read_documents([out])
    (train, y), (test, truth) = files.train, files.test
    wanted = evaluate_knn(train, y, test, truth)
    got = [one for one in document.results if (one.task, one.protocol) == ("knn", "fungi")]
    assert [one.blocks for one in got] == [("embedding",), ("kl",), ("embedding", "kl")]
    for one, other in zip(got, wanted, strict=True):
        assert one.metrics == pytest.approx(dict(other.metrics))
        assert one.against_baseline == pytest.approx(dict(other.against_baseline))
    few = [one for one in document.results if one.protocol == "fungi-5-shot"]
    assert few[0].seeds == (42, 43, 44, 45, 46)
    assert few[0].n_train == 20
    assert document.similarity[0] == ("embedding", "kl")
    assert document.source["fingerprint"] == "one"
    assert "knn, protocol fungi: 160 training and 60 test rows, percent" in stdout
    line = next(line for line in stdout.splitlines() if line.startswith("embedding+kl"))
    assert f"{100 * wanted[2].metrics['accuracy']:.1f} [" in line
    assert "7 records in" in stderr  # and the linear probe on the embedding
    again = run(capsys, "evaluate", *sides(files, labels=".txt"), "--task", "knn", "--json")
    assert json.loads(again[1])["results"] == json.loads(out.read_text())["results"]


def test_a_linear_probe_stands_beside_by_default(
    capsys: pytest.CaptureFixture[str], files: SimpleNamespace
) -> None:
    status, stdout, stderr = run(capsys, "evaluate", *sides(files), "--json")
    assert status == 0
    (train, y), (test, truth) = files.train, files.test
    names = [["embedding"], ["embedding", "kl"]]
    wanted = evaluate_linear(train, y, test, truth, combinations=names)
    got = [one for one in json.loads(stdout)["results"] if one["task"] == "linear"]
    assert [one["blocks"] for one in got] == names
    shares = [one["metrics"]["accuracy"] for one in got]
    assert shares == pytest.approx([one.metrics["accuracy"] for one in wanted])
    assert "linear, fungi: 2 combinations" in stderr


@pytest.mark.parametrize(
    "words",
    [
        ["--task", "knn"],
        ["--protocol", "fungi-5-shot", "--protocol", "paper-vision-5-shot"],
        ["--combination", "kl", "--shots", "3"],
        ["--task", "knn", "--task", "clustering"],
        [],
    ],
)
def test_the_probe_on_the_embedding_is_the_last_line_of_each_table_of_neighbours(
    capsys: pytest.CaptureFixture[str], files: SimpleNamespace, words: list[str], tmp_path: Path
) -> None:
    out, html = str(tmp_path / "results.json"), tmp_path / "report.html"
    status, stdout, stderr = run(capsys, "evaluate", *sides(files), *words, "--out", out)
    assert status == 0
    (train, y), (test, truth) = files.train, files.test
    (probe,) = evaluate_linear(train, y, test, truth, combinations=[["embedding"]])
    tables = [one for one in stdout.split("\n\n") if one.startswith("knn, ")]
    assert tables
    for one in tables:
        few = "" if one.startswith("knn, protocol fungi:") else " (160 rows)"
        last = [line for line in one.splitlines() if not line.startswith("note: ")][-1]
        shown = " ".join(last.split())
        assert shown.startswith(f"linear probe, embedding{few} {_shown(probe)} ")
        assert "note: linear probe: strength " in one
    # It is told again only where other probes stand beside it.
    assert ("linear, protocol fungi" in stdout) == (not words)
    assert ("linear, fungi: 1 combination in" in stderr) == bool(words)
    assert run(capsys, "report", out, "--out", str(html))[0] == 0
    page = html.read_text(encoding="utf-8")
    assert page.count("A linear probe on embedding alone, fitted on 160 rows: ") == len(tables)
    assert page.count("<td>linear probe, embedding") == len(tables)


def _shown(one: Any) -> str:
    return f"{100 * one.metrics['accuracy']:.1f}"


@pytest.mark.parametrize("words", [[], ["--task", "knn"], ["--task", "all"], ["--shots", "2"]])
def test_the_probe_can_be_left_out(
    capsys: pytest.CaptureFixture[str], files: SimpleNamespace, words: list[str]
) -> None:
    status, stdout, _ = run(capsys, "evaluate", *sides(files), *words, "--no-probe")
    assert status == 0
    assert "knn, protocol" in stdout
    assert "linear" not in stdout


def test_an_array_without_blocks_has_its_probe(
    capsys: pytest.CaptureFixture[str], files: SimpleNamespace
) -> None:
    words = sides(files, suffix=".npy")
    words += ["--protocol", "fungi", "--protocol", "paper"]
    status, stdout, _ = run(capsys, "evaluate", *words)
    assert status == 0
    assert stdout.count("linear probe, features ") == 2
    assert "linear, protocol paper" in stdout  # it stands in no table of neighbours
    status, stdout, _ = run(capsys, "evaluate", *words, "--json")
    found = [(one["task"], one["protocol"]) for one in json.loads(stdout)["results"]]
    assert found == [("knn", "fungi"), ("knn", "paper"), ("linear", "fungi"), ("linear", "paper")]


def test_where_no_probe_can_be_fitted_a_line_says_so(
    capsys: pytest.CaptureFixture[str], files: SimpleNamespace, tmp_path: Path
) -> None:
    labels = [f"class {i}" for i in range(160)]  # none can be held out to choose by
    (tmp_path / "train.txt").write_text("\n".join(labels))
    words = sides(files)
    words[words.index("--train-labels") + 1] = str(tmp_path / "train.txt")
    words[words.index("--test-labels") + 1] = str(tmp_path / "test.txt")
    (tmp_path / "test.txt").write_text("\n".join(labels[:60]))
    status, stdout, stderr = run(capsys, "evaluate", *words, "--protocol", "fungi", "--json")
    assert status == 0
    assert {one["task"] for one in json.loads(stdout)["results"]} == {"knn"}
    assert "no linear probe beside knn: no class has two rows" in stderr
    status, _, stderr = run(capsys, "evaluate", *words, "--task", "linear")
    assert status == 1
    assert "no class has two rows" in stderr


def test_every_task_and_named_protocols(
    capsys: pytest.CaptureFixture[str], files: SimpleNamespace
) -> None:
    words = ["--task", "all", "--protocol", "paper", "--protocol", "paper-text-10-shot"]
    words += ["--combination", "embedding", "--combination", "kl+embedding", "--seed", "7"]
    status, stdout, _ = run(capsys, "evaluate", *sides(files), *words, "--json")
    assert status == 0
    found = [(one["task"], one["protocol"], one["blocks"]) for one in json.loads(stdout)["results"]]
    blocks = [["embedding"], ["embedding", "kl"]]
    wanted = [("knn", "paper"), ("knn", "paper-text-10-shot"), ("linear", "paper"),
              ("clustering", "fungi"), ("retrieval", "fungi")]  # fmt: skip
    assert found == [(task, name, some) for task, name in wanted for some in blocks]
    few = json.loads(stdout)["results"][2]
    assert (few["n_train"], few["seeds"]) == (40, [7])
    assert few["settings"]["sampling"] == "proportional"


def test_numbers_override_the_protocol(
    capsys: pytest.CaptureFixture[str], files: SimpleNamespace
) -> None:
    words = ["--shots", "3", "--draws", "2", "-k", "1", "--seed", "9", "--combination", "kl"]
    _, stdout, _ = run(capsys, "evaluate", *sides(files), *words, "--json", "--test-rows", "20")
    one, probe = json.loads(stdout)["results"]
    assert (probe["task"], probe["blocks"], probe["seeds"]) == ("linear", ["embedding"], [9])
    assert one["protocol"] == "fungi-3-shot"
    assert (one["seeds"], one["settings"]["n_neighbors"]) == ([9, 10], 1)
    assert (one["n_train"], one["n_test"]) == (12, 20)


def test_given_judgements_replace_labels(
    capsys: pytest.CaptureFixture[str], files: SimpleNamespace, tmp_path: Path
) -> None:
    place = tmp_path / "judgements.jsonl"
    lines = [{"relevant": {str(i): 2, str(i + 1): 1}, "junk": [5]} for i in range(60)]
    place.write_text("\n".join(map(json.dumps, lines)))
    words = sides(files)
    words = words[:2] + words[4:6]  # no labels at all
    status, stdout, _ = run(
        capsys, "evaluate", *words, "--task", "retrieval", "--judgements", str(place), "--json"
    )
    assert status == 0
    assert {"map", "mp@5", "ndcg@10"} <= set(json.loads(stdout)["results"][0]["metrics"])


def test_a_model_is_fitted_evaluated_timed_and_reported(
    capsys: pytest.CaptureFixture[str], model: str, table: str, tmp_path: Path
) -> None:
    config = FungiConfig(objectives=("kl", SimCLR(n_views=2, n_negatives=4), "activation"))
    config.save_pretrained(tmp_path)
    out, html = tmp_path / "results.json", tmp_path / "report.html"
    words = ["--train", table, "--test", table, "-k", "3", "--protocol", "fungi", "--cost", "4"]
    words += ["--config", str(tmp_path), "--out", str(out)]
    status, _stdout, _ = run(capsys, "evaluate", model, *words)
    assert status == 0
    document = read_documents([out])
    assert len(document.results) == 15 + 2  # and the linear probe of the embedding and of all
    probes = [one for one in document.results if one.task == "linear"]
    assert [len(one.blocks) for one in probes] == [1, 4]
    assert set(document.costs) == {one.name for one in document.results}
    assert document.costs["embedding"] == 1
    extractor = FungiExtractor.from_pretrained(model, config)
    features = extractor.fit_transform(TRAIN)
    labels = ["pay" if "pa" in text else "card" for text in TRAIN]
    rule = evaluate_knn(features, labels, features, labels, protocol=_three())
    accuracies = [one.metrics["accuracy"] for one in document.results if one.task == "knn"]
    assert accuracies == pytest.approx([one.metrics["accuracy"] for one in rule])
    assert "auc" in document.results[0].metrics
    assert run(capsys, "report", str(out), "--out", str(html), "--title", "A & B")[0] == 0
    page = html.read_text(encoding="utf-8")
    for words_shown in ("A &amp; B", "Accuracy against cost", "Similarity of blocks"):
        assert words_shown in page


def _three() -> Any:
    from fungi_hf.evaluation import KNNProtocol

    return KNNProtocol(n_neighbors=3)


def test_extracted_parquet_files_are_read_with_their_blocks(
    capsys: pytest.CaptureFixture[str], model: str, table: str, tmp_path: Path
) -> None:
    results = {}
    for suffix in (".parquet", ".safetensors"):
        out = str(tmp_path / f"features{suffix}")
        assert run(capsys, "extract", model, table, "--out", out)[0] == 0
        words = ["--train", out, "--train-labels", table, "--test", out, "--test-labels", table]
        status, stdout, _ = run(capsys, "evaluate", *words, "-k", "3", "--shots", "2", "--json")
        assert status == 0
        results[suffix] = json.loads(stdout)["results"]
    assert results[".parquet"] == results[".safetensors"]
    blocks = [one["blocks"] for one in results[".parquet"] if one["task"] == "knn"]
    assert blocks[-1] == ["embedding", "kl"]
    exact = str(tmp_path / "exact.parquet")
    FungiConfig(sketch="none").save_pretrained(tmp_path)
    assert run(capsys, "extract", model, table, "--config", str(tmp_path), "--out", exact)[0] == 0
    words = ["--train", exact, "--train-labels", table, "--test", exact, "--test-labels", table]
    status, _, stderr = run(capsys, "evaluate", *words, "-k", "3")
    assert status == 1
    assert "exact gradient factors" in stderr


BAD: dict[str, tuple[list[str], str]] = {
    "protocol": (
        ["FILES", "--protocol", "papr"],
        "unknown protocol of knn, linear: 'papr'; choose one of",
    ),
    "landmarks": (["FILES", "--protocol", "paper-landmarks"], "unknown protocol of knn, linear"),
    "labels": (["BARE"], "--train-labels is needed: the file of features has no labels"),
    "block": (
        ["FILES", "--combination", "embedding+kk"],
        "no block 'kk'; choose one of 'embedding', 'kl'",
    ),
    "k": (["FILES", "-k", "161", "--protocol", "fungi"], "n_neighbors is 161, but there are 160"),
    "shots": (["FILES", "--shots", "41"], "41-shot needs 41 rows of each class; 4 of 4 classes"),
    "cost": (["FILES", "--cost", "5"], "--cost 5 needs a model"),
    "probe": (
        ["FILES", "--task", "knn", "--task", "linear", "--no-probe"],
        "--no-probe leaves out the linear probe, which --task linear asks for; leave out one",
    ),
    "rows": (["FILES", "--train-rows", "0"], "--train-rows must be an integer >= 1; got 0"),
    "swapped": (["SWAPPED"], "train labels has 60 labels for 160 rows"),
    "kind": (["--train", "a.txt", "--test", "b.txt"], "features have suffix '.txt'; choose one of"),
    "missing": (["--train", "a.npy", "--test", "b.npy"], "there is no file a.npy"),
    "empty": (["EMPTY"], "1 rows have no label in 'label': rows 2"),
    "nan": (["NAN"], "test has 1 of 60 rows with NaN"),
    "judgements": (["FILES", "--task", "retrieval", "--judgements", "j.jsonl"], "line 1 is {"),
    "task": (
        ["FILES", "--task", "knn", "--judgements", "j.jsonl"],
        "--judgements is of retrieval, the tasks are knn; add --task retrieval",
    ),
}


@pytest.mark.parametrize(
    "line",
    [
        {"relevant": [0.7]},
        {"relevant": "12"},
        {"relevant": [True]},
        {"relevant": ["1"]},
        {"relevant": {"0.7": 1}},
        {"relevant": {"1_0": 1}},
        {"relevant": {"1": "2"}},
        {"relevant": {"1": True}},
        {"relevant": None},
        {"relevant": [1], "junk": [0.5]},
        {"relevant": [1], "junk": "12"},
    ],
)
def test_judgements_that_name_no_rows_are_refused(
    capsys: pytest.CaptureFixture[str], files: SimpleNamespace, tmp_path: Path, line: dict[str, Any]
) -> None:
    place = tmp_path / "j.jsonl"
    place.write_text("\n".join([json.dumps({"relevant": [1]}), *[json.dumps(line)] * 59]))
    words = ["--task", "retrieval", "--judgements", str(place)]
    status, stdout, stderr = run(capsys, "evaluate", *sides(files), *words)
    assert (status, stdout) == (1, "")
    assert f"line 2 is {json.dumps(line)}; it must be" in stderr


@pytest.mark.parametrize("name", BAD)
def test_errors_are_one_line(
    capsys: pytest.CaptureFixture[str],
    files: SimpleNamespace,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    name: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    words = sides(files)
    holed = files.test[0].array.copy()
    holed[3, 2] = np.nan
    np.save("nan.npy", holed)
    Path("j.jsonl").write_text('{"rows": [1]}\n')
    Path("empty.csv").write_text("row,label\n0,a\n1,b\n2,\n")
    places = {
        "FILES": words,
        "BARE": words[:2] + words[4:6],
        "SWAPPED": [*words[:3], words[7], *words[4:]],
        "EMPTY": [*words[:3], "empty.csv", *words[4:]],
        "NAN": ["--train", str(files.folder / "train.npy"), *words[2:5], "nan.npy", *words[6:]],
    }
    arguments, match = BAD[name]
    given = [one for word in arguments for one in places.get(word, [word])]
    status, stdout, stderr = run(capsys, "evaluate", *given)
    errors = [line for line in stderr.splitlines() if line.startswith("fungi-hf: error: ")]
    assert (status, stdout) == (1, "")
    assert len(errors) == 1
    assert match in errors[0]


def test_the_commands_show_examples(capsys: pytest.CaptureFixture[str]) -> None:
    for command in ("evaluate", "report", "sweep"):
        with pytest.raises(SystemExit) as stop:
            build_parser().parse_args([command, "--help"])
        assert stop.value.code == 0
        assert f"  fungi-hf {command} " in capsys.readouterr().out


@pytest.mark.slow
def test_the_installed_program_evaluates_and_reports(
    files: SimpleNamespace, tmp_path: Path
) -> None:
    def shell(*words: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [PROGRAM, *words],
            capture_output=True,
            text=True,
            check=False,
            cwd=tmp_path,
            env={**os.environ, "HF_HUB_OFFLINE": "1"},
        )

    good = shell("evaluate", *sides(files), "--out", "results.json")
    assert good.returncode == 0
    assert good.stdout.startswith("knn, protocol fungi: 160 training")
    assert "combinations in" in good.stderr
    assert shell("report", "results.json", "--out", "report.html").returncode == 0
    assert (tmp_path / "report.html").stat().st_size > 20_000
    bad = shell("evaluate", *sides(files), "-k", "0")
    assert bad.returncode == 1
    assert (
        bad.stderr.strip()
        .splitlines()[-1]
        .startswith("fungi-hf: error: KNNProtocol.n_neighbors must be an integer >= 1; got 0")
    )
    assert shell("evaluate", "--task", "nonsense").returncode == 2
