"""`fungi-hf tune --classifier` and `predict`: sources, formats, what is left out, wrong usage."""

from __future__ import annotations

import csv
import io
import json
import sys
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image

from fungi_hf import Activation, FungiClassifier, FungiConfig, FungiExtractor
from fungi_hf.cli import main
from fungi_hf.testing.vision_models import tiny_vision_model
from tests.classifier.kit import NEW, TRUTH, X, Y
from tests.cli.program import run
from tests.encoders.vision.kit import SETTINGS
from tests.tiny import saved_model

if TYPE_CHECKING:
    from pathlib import Path

CONFIG = FungiConfig(objectives=(Activation(),))


@pytest.fixture(scope="module")
def saved(tmp_path_factory) -> tuple[FungiClassifier, str]:
    model = saved_model(tmp_path_factory.mktemp("model"))
    classifier = FungiClassifier(str(model), CONFIG, n_neighbors=5).fit(X, Y)
    folder = tmp_path_factory.mktemp("saved") / "clf"
    classifier.save_pretrained(folder)
    return classifier, str(folder)


def write(folder: Path, name: str, texts: list[Any]) -> str:
    """A table with ids, texts and labels of the suffix's kind."""
    path = folder / name
    rows = [{"key": f"k{i}", "text": one, "label": Y[i % 2]} for i, one in enumerate(texts)]
    if path.suffix == ".jsonl":
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    elif path.suffix == ".parquet":
        pq.write_table(pa.Table.from_pylist(rows), path)
    elif path.suffix == ".csv":
        with path.open("w", newline="") as stream:
            writer = csv.DictWriter(stream, rows[0])
            writer.writeheader()
            writer.writerows(rows)
    else:
        path.write_text("".join(f"{one}\n" for one in texts))
    return str(path)


def lines(text: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in text.splitlines()]


@pytest.mark.parametrize("suffix", [".jsonl", ".csv", ".parquet", ".txt"])
def test_every_kind_of_file_is_labelled(capsys, saved, tmp_path, suffix) -> None:
    classifier, folder = saved
    place = write(tmp_path, f"new{suffix}", NEW)
    status, out, _ = run(capsys, "predict", folder, "--input", place)
    assert status == 0
    shares = classifier.predict_proba(NEW)
    assert lines(out) == [
        {"row": i, "input": NEW[i], "label": TRUTH[i], "probability": pytest.approx(max(shares[i]))}
        for i in range(len(NEW))
    ]


def test_stdin_is_labelled(capsys, saved, monkeypatch) -> None:
    monkeypatch.setattr(sys, "stdin", io.StringIO("\n".join(NEW)))
    status, out, _ = run(capsys, "predict", saved[1], "-")
    assert status == 0
    assert [one["label"] for one in lines(out)] == TRUTH


def test_probabilities_ids_and_formats(capsys, saved, tmp_path) -> None:
    classifier, folder = saved
    place = write(tmp_path, "new.csv", NEW)
    words = ["predict", folder, place, "--proba", "--id", "key"]
    status, out, _ = run(capsys, *words)
    assert status == 0
    shares = classifier.predict_proba(NEW)
    for i, one in enumerate(lines(out)):
        assert one["id"] == f"k{i}"
        assert one["probabilities"] == pytest.approx(
            dict(zip(classifier.classes_.tolist(), shares[i], strict=True))
        )
    for name in ("out.csv", "deep/out.CSV"):
        assert run(capsys, *words, "--output", str(tmp_path / name))[0] == 0
        with (tmp_path / name).open(newline="") as stream:
            rows = list(csv.DictReader(stream))
        assert list(rows[0]) == ["row", "id", "input", "label", "probability", "p(lost)", "p(pay)"]
        assert [row["label"] for row in rows] == TRUTH
        assert [row["input"] for row in rows] == NEW
        assert [float(row["p(pay)"]) for row in rows] == pytest.approx(shares[:, 1].tolist())
    status, out, err = run(capsys, "predict", folder, place, "--out", str(tmp_path / "out.jsonl"))
    assert (status, out) == (0, "")
    assert f"10 labels in {tmp_path / 'out.jsonl'}" in err
    labels = [one["label"] for one in lines((tmp_path / "out.jsonl").read_text())]
    assert labels == TRUTH
    out = run(capsys, "predict", folder, place, "--format", "csv")[1]
    assert out.splitlines()[0] == "row,input,label,probability"


def test_unusable_inputs_are_raised_or_left_out(capsys, saved, tmp_path) -> None:
    place = write(tmp_path, "new.jsonl", [NEW[0], 3, NEW[1], None])
    status, out, err = run(capsys, "predict", saved[1], place)
    assert status == 1
    assert "input 1 must be a text" in err
    assert not out
    words = ["predict", saved[1], place, "--on-error", "skip", "--id", "key"]
    status, out, err = run(capsys, *words)
    assert status == 0
    assert [(one["row"], one["id"], one["label"]) for one in lines(out)] == [
        (0, "k0", "lost"), (2, "k2", "pay")
    ]  # fmt: skip
    assert "left out: input 1 must be a text" in err
    assert "2 inputs were left out" in err
    target = tmp_path / "out.csv"
    assert run(capsys, *words, "--out", str(target))[0] == 0
    failures = lines((tmp_path / "out.csv.failures.jsonl").read_text())
    assert [one["index"] for one in failures] == [1, 3]
    nothing = write(tmp_path, "bad.jsonl", [1, 2])
    status, out, err = run(capsys, "predict", saved[1], nothing, "--on-error", "skip")
    assert (status, out) == (0, "")
    assert "2 inputs were left out" in err


def test_what_fails_leaves_no_file(capsys, saved, tmp_path) -> None:
    place = write(tmp_path, "new.jsonl", [NEW[0], 3])
    assert run(capsys, "predict", saved[1], place, "--out", str(tmp_path / "out.jsonl"))[0] == 1
    assert [path.name for path in tmp_path.iterdir()] == ["new.jsonl"]


def test_parts_are_labelled_as_a_whole(capsys, saved, tmp_path, monkeypatch) -> None:
    monkeypatch.setattr("fungi_hf.cli.jobs._LINES", 3)
    place = write(tmp_path, "new.parquet", NEW)
    out = run(capsys, "predict", saved[1], place, "--id", "key", "--batch-size", "2")[1]
    assert [(one["row"], one["id"]) for one in lines(out)] == [(i, f"k{i}") for i in range(10)]
    assert [one["label"] for one in lines(out)] == TRUTH


WRONG: list[tuple[list[str], str]] = [
    (["predict", "{clf}"], "name the inputs once"),
    (["predict", "{clf}", "{new}", "--input", "{new}"], "name the inputs once"),
    (["predict", "{clf}", "nothing.txt"], "there is no file or folder nothing.txt"),
    (["predict", "{clf}", "{new}", "--column", "txet"], "no column 'txet'; choose one of 'text'"),
    (["predict", "{clf}", "{new}", "--id", "kee"], "no column 'kee'; choose one of 'key'"),
    (["predict", "{clf}", "-", "--id", "key"], "--id names a column of a table; - has none"),
    (["predict", "{clf}", "{new}", "--out", "a.xml"], "a.xml has suffix '.xml'; choose one of"),
    (["predict", "{clf}", "{new}", "--out", "a.csv", "--format", "jsonl"], "is not that of a.csv"),
    (["predict", "{clf}", "{new}", "--batch-size", "0"], "--batch-size must be an integer >= 1"),
    (["predict", "{tmp}", "{new}"], "holds no classifier: there is no classifier.json"),
    (["predict", "{clf}", "{new}", "--model", "{tmp}"], "cannot load an encoder from"),
    (["predict", "{clf}", "{tmp}/empty"], "holds no inputs"),
    (["predict", "{clf}", "{tmp}/photo.png"], "holds sounds or pictures; this classifier takes"),
    (["predict", "{clf}", "{new}", "--out", "{new}/out.csv"], "cannot write to"),
]  # fmt: skip


@pytest.mark.parametrize(("words", "expected"), WRONG, ids=[one[1] for one in WRONG])
def test_wrong_usage_is_one_line(capsys, saved, tmp_path, monkeypatch, words, expected) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").mkdir()
    Image.new("RGB", (4, 4)).save(tmp_path / "photo.png")
    names = {"clf": saved[1], "new": write(tmp_path, "new.csv", NEW), "tmp": str(tmp_path)}
    status, out, err = run(capsys, *(word.format(**names) for word in words))
    assert (status, out) == (1, "")
    (line,) = err.splitlines()
    assert line.startswith("fungi-hf: error: ")
    assert expected in line
    assert not (tmp_path / "a.csv").exists()


@pytest.mark.parametrize("head", ["neighbors", "linear"])
def test_tuning_writes_a_classifier(capsys, tmp_path, head) -> None:
    model = str(saved_model(tmp_path / "model"))
    train, test = write(tmp_path, "train.csv", X), write(tmp_path, "test.csv", NEW)
    where = str(tmp_path / "clf")
    words = ["tune", model, train, "--classifier", where, "--head", head, "--test", test]
    words += ["-k", "3", "--no-gradients", "--out", str(tmp_path / "tuned")]
    status, out, err = run(capsys, *words)
    assert status == 0
    assert f"saved in {tmp_path / 'tuned'} and {where}" in err
    classifier = FungiClassifier.from_pretrained(where)
    assert classifier.head == head
    tuned = FungiExtractor.from_pretrained(tmp_path / "tuned")
    assert tuned.fingerprint == classifier.extractor_.fingerprint
    assert {one.rows for one in classifier.results_} == {"training rows", "test.csv"}
    for one in classifier.results_:
        assert f"{one.who}, {one.rows}: {one.n_right} of {one.n_rows} right" in out
    assert "(chosen)" in out
    assert "| test.csv |" in (tmp_path / "clf" / "README.md").read_text()
    assert run(capsys, "predict", where, test)[0] == 0


def test_tuning_keeps_groups_apart(capsys, tmp_path) -> None:
    model = str(saved_model(tmp_path / "model"))
    train = write(tmp_path, "train.csv", X)
    where = str(tmp_path / "clf")
    words = ["tune", model, train, "--classifier", where, "--group", "key", "-k", "3"]
    assert run(capsys, *words, "--no-gradients")[0] == 0
    record = FungiClassifier.from_pretrained(where).record()
    assert (record.head, record.n_groups) == ("neighbors", 24)


def test_a_place_is_asked_for(capsys, tmp_path) -> None:
    for words in ([], ["--out", "a", "--head", "linear"], ["--out", "a", "--test", "b.csv"]):
        with pytest.raises(SystemExit) as ended:
            main(["tune", "model", "train.csv", *words])
        assert ended.value.code == 2
    err = capsys.readouterr().err
    assert "one of the arguments --out, --classifier is required" in err
    assert "--head and --test are of a --classifier" in err


def test_a_folder_of_pictures_is_labelled(capsys, tmp_path) -> None:
    model = tmp_path / "vit"
    tiny_vision_model("vit", dtype=torch.float32).save_pretrained(model)
    (model / "preprocessor_config.json").write_text(json.dumps(SETTINGS))
    for side, n in (("train", 6), ("new", 2)):
        for name, level in (("dark", 20), ("light", 230)):
            folder = tmp_path / side / name
            folder.mkdir(parents=True)
            for i in range(n):
                shade = (level, level, (level + i) % 256)
                Image.new("RGB", (32, 32), shade).save(folder / f"{i}.png")
    where = str(tmp_path / "clf")
    words = ["tune", str(model), str(tmp_path / "train"), "--classifier", where]
    assert run(capsys, *words, "-k", "3", "--no-gradients")[0] == 0
    (tmp_path / "new" / "light" / "broken.png").write_bytes(b"no picture")
    words = ["predict", where, str(tmp_path / "new"), "--on-error", "skip"]
    status, out, err = run(capsys, *words)
    assert status == 0
    assert [one["label"] for one in lines(out)] == ["dark", "dark", "light", "light"]
    assert lines(out)[0]["input"] == str(tmp_path / "new" / "dark" / "0.png")
    assert "1 inputs were left out" in err
