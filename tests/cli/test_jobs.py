"""`fungi-hf extract` into folders and files: workers, parts of a job, status, what is left out."""

from __future__ import annotations

import io
import json
import warnings

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from fungi_hf import FungiConfig, FungiExtractor
from fungi_hf.cli import main
from fungi_hf.cli.doctor import advice
from fungi_hf.errors import StorageError
from fungi_hf.features import FungiFeatures
from tests.tiny import ROUNDING, TRAIN, saved_model

ROWS = TRAIN * 3


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return str(saved_model(tmp_path_factory.mktemp("model")))


@pytest.fixture(scope="module")
def wanted(model):
    return FungiExtractor.from_pretrained(model, FungiConfig())(ROWS)


@pytest.fixture
def source(tmp_path):
    path = tmp_path / "in.jsonl"
    path.write_text("".join(json.dumps({"text": row, "other": 1}) + "\n" for row in ROWS))
    return str(path)


def run(capsys, *words):
    status = main(["extract", *map(str, words)])
    said = capsys.readouterr()
    return status, said.out, said.err


def test_a_folder_of_shards(capsys, tmp_path, model, source, wanted) -> None:
    out = tmp_path / "features"
    words = (model, source, "--out", out, "--shard-rows", 10)
    status, said, _ = run(capsys, *words, "--status")
    assert (status, said) == (3, f"nothing is there: {out} has no plan\n")
    assert not out.exists()
    status, _, err = run(capsys, *words)
    assert status == 0, err
    assert f"36 vectors in {out}" in err
    features = FungiFeatures.load(out)
    assert np.abs(features.array - wanted.array).max() < ROUNDING
    assert features.fingerprint == wanted.fingerprint
    (out / "part-00001-of-00004.parquet").unlink()
    status, said, _ = run(capsys, *words, "--status")
    assert (status, said) == (3, "3 of 4 shards are done\nmissing: part-00001-of-00004.parquet\n")
    assert run(capsys, *words)[0] == 0
    assert run(capsys, *words, "--status")[:2] == (0, "4 of 4 shards are done\n")
    status, _, err = run(capsys, *words, "--shard", "5/3")  # also where nothing is left to do
    assert status == 1
    assert "--shard must be I/N" in err
    labels = tmp_path / "labels.txt"
    labels.write_text("\n".join(str(i % 2) for i in range(36)))
    both = ("--train-labels", str(labels), "--test-labels", str(labels))
    assert main(["evaluate", "--train", str(out), "--test", str(out), *both, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["results"][0]["n_test"] == 36


def test_parts_of_a_job(capsys, tmp_path, model, source, wanted) -> None:
    out = tmp_path / "features"
    words = (model, source, "--out", out, "--shard-rows", 5, "--format", "npy")
    status, _, err = run(capsys, *words, "--shard", "1/3")
    assert status == 0
    assert "3 shards done; others are still missing" in err
    assert sorted(p.name for p in out.glob("*.npy")) == [
        f"part-0000{k}-of-00008.npy" for k in (1, 4, 7)
    ]
    assert not (out / "manifest.json").exists()
    assert run(capsys, *words, "--shard", "0/3")[0] == 0
    assert run(capsys, *words, "--shard", "2/3")[0] == 0
    assert json.loads((out / "manifest.json").read_text())["rows"] == 36
    rows = np.concatenate([np.load(path) for path in sorted(out.glob("*.npy"))])
    assert np.abs(rows - wanted.array).max() < ROUNDING


@pytest.mark.slow
def test_workers(capsys, tmp_path, model, source, wanted) -> None:
    digests = []
    for number in (1, 2):
        out = tmp_path / f"features-{number}"
        words = (model, source, "--out", out, "--shard-rows", 6, "--threads", 1)
        status, _, err = run(capsys, *words, "--workers", number)
        assert status == 0, err
        digests.append(json.loads((out / "manifest.json").read_text())["digest"])
    assert digests[0] == digests[1]
    features = FungiFeatures.load(tmp_path / "features-2")
    assert np.abs(features.array - wanted.array).max() < ROUNDING


@pytest.mark.parametrize("suffix", [".parquet", ".npy", ".safetensors"])
def test_inputs_that_are_left_out(capsys, tmp_path, model, suffix) -> None:
    path = tmp_path / "in.jsonl"
    lines = [json.dumps({"text": row}) for row in TRAIN]
    lines[7] = '{"text": "\\ud800"}'
    path.write_text("\n".join(lines))
    out = tmp_path / f"out{suffix}"
    words = (model, path, "--out", out, "--shard-rows", 5)
    status, _, err = run(capsys, *words)
    assert status == 1
    assert "input 7 has a lone surrogate" in err
    assert not out.exists()
    status, _, err = run(capsys, *words, "--on-error", "skip")
    assert status == 0, err
    assert f"1 inputs were left out, see {out}.failures.jsonl" in err
    (failure,) = (tmp_path / f"out{suffix}.failures.jsonl").read_text().splitlines()
    assert json.loads(failure)["index"] == 7
    if suffix == ".npy":
        rows = np.load(out)
        assert np.isnan(rows[7]).all()
        assert np.isfinite(np.delete(rows, 7, axis=0)).all()
    if suffix == ".parquet":
        with pytest.raises(StorageError, match=r"1 rows have no features.*first at \[7\]"):
            FungiFeatures.load(out)
    assert not list(tmp_path.glob("*.parts"))


def test_notes_are_summed(capsys, tmp_path, model) -> None:
    path = tmp_path / "in.txt"
    long = " ".join(["money"] * 200)
    path.write_text("\n".join([long, *TRAIN[:4]] * 4))
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        status, _, err = run(capsys, model, path, "--out", tmp_path / "o.npy", "--shard-rows", 5)
    assert status == 0
    assert err.count("were truncated") == 1
    assert "4 of the texts are longer" in err


def test_columns_are_read_alone(capsys, tmp_path, model, wanted) -> None:
    path = tmp_path / "in.parquet"
    wide = pa.array([[0.0] * 8] * len(ROWS))
    pq.write_table(pa.table({"question": ROWS, "vector": wide}), path, row_group_size=7)
    out = tmp_path / "out.npy"
    status, _, err = run(capsys, model, path, "--column", "question", "--out", out,
                         "--shard-rows", 10)  # fmt: skip
    assert status == 0, err
    assert np.abs(np.load(out) - wanted.array).max() < ROUNDING


def test_stdin_goes_to_a_file_and_to_stdout(capsys, tmp_path, model, wanted, monkeypatch) -> None:
    text = "\n".join(ROWS) + "\n"
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(text.encode())))
    out = tmp_path / "out.npy"
    assert run(capsys, model, "-", "--out", out)[0] == 0
    assert np.abs(np.load(out) - wanted.array).max() < ROUNDING
    monkeypatch.setattr("sys.stdin", io.StringIO(text))
    status, said, _ = run(capsys, model, "-", "--shard-rows", 7)
    lines = [json.loads(line) for line in said.splitlines()]
    assert status == 0
    assert [line["row"] for line in lines] == list(range(36))
    found = np.array([line["features"] for line in lines])
    assert np.abs(found - wanted.array).max() < ROUNDING


def test_the_first_line_is_printed_before_the_last_is_read(capsys, model, monkeypatch) -> None:
    printed = []

    class Slow(io.StringIO):
        def __next__(self):
            printed.append(capsys.readouterr().out.count("\n"))
            return super().__next__()

    monkeypatch.setattr("sys.stdin", Slow("\n".join(ROWS) + "\n"))
    assert run(capsys, model, "-", "--shard-rows", 6)[0] == 0
    assert sum(printed[:12]) >= 6


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--workers", "2"), "need --out"),
        (("--status",), "need --out"),
        (("--out", "OUT", "--workers", "0"), "--workers must be"),
        (("--out", "OUT", "--shard", "3/3"), "--shard must be I/N with I from 0 to N - 1; got 3/3"),
        (("--out", "OUT", "--shard", "x"), "--shard must be I/N"),
        (("--out", "OUT.xls"), "unknown kind of file '.xls'"),
        (("--out", "nowhere://x"), "nowhere://x cannot be opened"),
    ],
)
def test_wrong_use_is_named(capsys, tmp_path, model, source, words, message) -> None:
    words = [word.replace("OUT", str(tmp_path / "o")) for word in words]
    status, _, err = run(capsys, model, source, *words)
    assert status == 1
    assert message in err


def test_another_job_is_refused(capsys, tmp_path, model, source) -> None:
    out = tmp_path / "features"
    assert run(capsys, model, source, "--out", out)[0] == 0
    status, _, err = run(capsys, model, source, "--out", out, "--dtype", "float16")
    assert status == 1
    assert "belongs to another dtype" in err
    assert (out / "manifest.json").exists()


@pytest.mark.parametrize(
    ("cores", "devices", "memory", "words"),
    [
        (1, 0, 8.0, "--workers 1 --threads 1 (there is one core)"),
        (2, 0, 24.0, "--workers 2 --threads 1 (a thread of its own does more"),
        (16, 0, 8.0, "--workers 5 --threads 3 (8 GB have room for 5 copies"),
        (8, 0, None, "--workers 8 --threads 1 (a thread"),
        (8, 1, 64.0, "--workers 1 (one worker keeps the device busy)"),
        (8, 2, 64.0, "--devices cuda:0,cuda:1 (one worker for each device)"),
    ],
)
def test_the_doctor_says_how_many_workers(cores, devices, memory, words) -> None:
    assert advice(cores, devices, memory).startswith(words)
