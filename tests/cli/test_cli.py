"""The installed program: data on stdout, the rest on stderr, exit statuses, one line per error."""

from __future__ import annotations

import csv
import io
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch

from fungi_hf import FungiConfig, FungiExtractor
from fungi_hf.cli import build_parser, main
from fungi_hf.cli.rows import read_inputs
from fungi_hf.errors import StorageError
from fungi_hf.features import FungiFeatures
from tests.tiny import ROUNDING, saved_model

TEXTS = ["my card was lost", "how do you pay", "what is the new account", "please help me"]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("tiny")
    return str(saved_model(folder))


@pytest.fixture(scope="module")
def wanted(model: str) -> Any:
    return FungiExtractor.from_pretrained(model)(TEXTS).array


def run(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    capsys.readouterr()
    status = main(arguments)
    out, err = capsys.readouterr()
    return status, out, err


def write(folder: Path, suffix: str, rows: list[dict[str, Any]]) -> str:
    path = folder / f"rows{suffix}"
    if suffix == ".jsonl":
        path.write_text("\n".join(json.dumps(row) for row in rows) + "\n")
    elif suffix == ".csv":
        lines = [",".join(rows[0]), *(",".join(map(str, row.values())) for row in rows)]
        path.write_text("\n".join(lines) + "\n")
    elif suffix == ".parquet":
        import pyarrow as pa

        pq.write_table(pa.Table.from_pylist(rows), path)
    else:
        path.write_text("\n".join(row["text"] for row in rows) + "\n")
    return str(path)


ROWS = [{"text": text, "label": i % 2} for i, text in enumerate(TEXTS)]


@pytest.mark.parametrize("suffix", [".jsonl", ".csv", ".parquet", ".txt"])
def test_extract_reads_every_kind_of_file(
    capsys: pytest.CaptureFixture[str], model: str, wanted: Any, tmp_path: Path, suffix: str
) -> None:
    out = tmp_path / "out.npy"
    status, stdout, stderr = run(
        capsys, "extract", model, write(tmp_path, suffix, ROWS), "--out", str(out)
    )
    assert (status, stdout) == (0, "")
    assert "4 vectors in" in stderr
    np.testing.assert_allclose(np.load(out), wanted, rtol=0, atol=ROUNDING)


def test_odd_files_are_read_as_they_are_meant(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    odd = ["line\u2028separator \x0c and \x85", 'quo"ted, new\nline', "word " * 40_000]
    (tmp_path / "mark.CSV").write_text("text,label\nmy card,a\n", encoding="utf-8-sig")
    (tmp_path / "dos.txt").write_bytes(b"\xef\xbb\xbfone\r\ntwo \x0c three\r\n")
    lines = [json.dumps({"text": text}, ensure_ascii=False) for text in odd]
    (tmp_path / "odd.jsonl").write_text("\n\n".join(lines), encoding="utf-8")
    with (tmp_path / "odd.csv").open("w", newline="", encoding="utf-8") as stream:
        csv.writer(stream).writerows([["text"], *([text] for text in odd)])

    assert read_inputs(str(tmp_path / "mark.CSV"), None) == ["my card"]
    assert read_inputs(str(tmp_path / "dos.txt"), None) == ["one", "two \x0c three"]
    assert read_inputs(str(tmp_path / "odd.jsonl"), "text") == odd
    assert read_inputs(str(tmp_path / "odd.csv"), "text") == odd
    (tmp_path / "ragged.csv").write_text("text,label\nmy card, please,a\n")
    with pytest.raises(StorageError, match="row 0 has more fields than the header; quote commas"):
        read_inputs(str(tmp_path / "ragged.csv"), None)
    for name in ("latin.txt", "latin.csv", "latin.jsonl"):
        (tmp_path / name).write_bytes("text\ncafé".encode("latin-1"))
        status, _, stderr = run(capsys, "extract", "nowhere", str(tmp_path / name))
        assert status == 1
        assert f"{name} is not UTF-8 (" in stderr


def test_extract_writes_every_kind_of_file(
    capsys: pytest.CaptureFixture[str], model: str, wanted: Any, tmp_path: Path
) -> None:
    source = write(tmp_path, ".txt", ROWS)
    for suffix in (".parquet", ".safetensors"):
        out = tmp_path / f"out{suffix}"
        assert run(capsys, "extract", model, source, "--out", str(out), "--shard-rows", "3")[0] == 0
        assert {path.name for path in tmp_path.glob("out*")} >= {out.name}
        assert not list(tmp_path.glob("*.parts"))
    table = pq.read_table(tmp_path / "out.parquet")
    np.testing.assert_allclose(table["features"].to_pylist(), wanted, rtol=0, atol=ROUNDING)
    assert table["input"].to_pylist() == TEXTS
    features = FungiFeatures.load(tmp_path / "out.safetensors")
    assert features.fingerprint == table.schema.metadata[b"fungi_fingerprint"].decode()
    assert list(features.layout) == ["embedding", "kl"]


def test_extract_prints_json_lines(
    capsys: pytest.CaptureFixture[str],
    model: str,
    wanted: Any,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(sys, "stdin", io.StringIO("\n".join(TEXTS)))
    status, stdout, _ = run(capsys, "extract", model, "-")
    lines = [json.loads(line) for line in stdout.splitlines()]
    assert status == 0
    assert [line["input"] for line in lines] == TEXTS
    assert [line["row"] for line in lines] == [0, 1, 2, 3]
    np.testing.assert_allclose([line["features"] for line in lines], wanted, rtol=0, atol=ROUNDING)


def test_an_interrupted_extraction_goes_on(
    capsys: pytest.CaptureFixture[str],
    model: str,
    wanted: Any,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    out = str(tmp_path / "out.npy")
    source = write(tmp_path, ".txt", ROWS)
    command = ("extract", model, source, "--out", out, "--shard-rows", "1")
    call, seen = FungiExtractor.collect, []

    def dying(self: FungiExtractor, inputs: Any, *rest: Any, **options: Any) -> Any:
        if len(seen) == 2:
            raise KeyboardInterrupt
        seen.extend(inputs)
        return call(self, inputs, *rest, **options)

    monkeypatch.setattr(FungiExtractor, "collect", dying)
    assert run(capsys, *command)[0] == 130
    assert not Path(out).exists()

    def watching(self: FungiExtractor, inputs: Any, *rest: Any, **options: Any) -> Any:
        seen.extend(inputs)
        return call(self, inputs, *rest, **options)

    monkeypatch.setattr(FungiExtractor, "collect", watching)
    status, _, stderr = run(capsys, "extract", model, source, "--out", out, "--objective", "kl",
                            "--shard-rows", "2")  # fmt: skip
    assert status == 1
    assert "belongs to another shard_rows (1, here 2); remove it, or choose another" in stderr
    assert run(capsys, *command)[0] == 0
    assert seen == TEXTS
    np.testing.assert_allclose(np.load(out), wanted, rtol=0, atol=ROUNDING)


def test_fit_info_card_and_knn(
    capsys: pytest.CaptureFixture[str], model: str, tmp_path: Path
) -> None:
    train = write(tmp_path, ".csv", ROWS)
    saved = str(tmp_path / "saved")
    FungiConfig(center=True).save_pretrained(tmp_path / "config")
    config = str(tmp_path / "config")
    status, stdout, _ = run(capsys, "fit", model, train, "--config", config, "--out", saved)
    assert (status, stdout) == (0, "")

    status, stdout, _ = run(capsys, "info", saved)
    facts = json.loads(stdout)
    assert status == 0
    assert facts["fitted"]
    assert facts["config"]["center"]
    assert facts["fingerprint"] == FungiExtractor.from_pretrained(saved).fingerprint
    assert list(facts["layout"]) == ["embedding", "kl"]

    status, stdout, _ = run(capsys, "card", saved)
    assert status == 0
    assert stdout.startswith("---\n")
    assert "library_name: fungi-hf" in stdout

    status, stdout, _ = run(capsys, "knn", saved, "--train", train, "--test", train, "-k", "1")
    assert json.loads(stdout) == {"accuracy": 1.0, "n_test": 4, "n_train": 4, "k": 1}
    queries = tmp_path / "queries.txt"
    queries.write_text("\n".join(TEXTS))
    _, stdout, _ = run(capsys, "knn", saved, "--train", train, "--test", str(queries), "-k", "1")
    assert [json.loads(line)["label"] for line in stdout.splitlines()] == ["0", "1", "0", "1"]


BAD: dict[str, tuple[list[str], str]] = {
    "column": (["extract", "MODEL", "CSV", "--column", "txt"], "no column 'txt'; choose one of 't"),
    "file": (["extract", "MODEL", "nowhere.csv"], "there is no file or folder nowhere.csv"),
    "kind": (["extract", "MODEL", "XLS"], "unknown kind of file '.xls'"),
    "out": (["extract", "MODEL", "CSV", "--out", "a.xls"], "--out a.xls: unknown kind of file"),
    "empty": (["extract", "MODEL", "EMPTY"], "holds no inputs"),
    "types": (["extract", "MODEL", "NUMBERS"], "input 1 must be a text (str); got int: 3"),
    "json": (["extract", "MODEL", "BROKEN"], "row 1 is not JSON"),
    "model": (["extract", "no-such-model", "CSV"], "'no-such-model' is neither a folder nor"),
    "objective": (
        ["extract", "MODEL", "CSV", "--objective", "kll"],
        "unknown objective 'kll'; choo",
    ),
    "both": (
        ["fit", "MODEL", "CSV", "--config", "c", "--objective", "kl", "--out", "o"],
        "leave out",
    ),
    "batch": (
        ["extract", "MODEL", "CSV", "--batch-size", "0"],
        "--batch-size must be an integer >= 1; got 0",
    ),
    "label": (["knn", "MODEL", "--train", "CSV", "--test", "CSV", "--label", "y"], "no column 'y'"),
    "k": (
        ["knn", "MODEL", "--train", "CSV", "--test", "CSV", "-k", "9"],
        "-k must be within 1 and 4",
    ),
    "info": (["info", "MODEL"], "holds no fungi_config.json"),
    "push": (["push", "MODEL", "a/b"], "holds no fungi_config.json"),
    "clips": (["extract", "MODEL", "CLIPS"], "holds sounds or pictures; this encoder takes"),
    "fit clips": (
        ["fit", "MODEL", "CLIPS", "--out", "o"],
        "holds sounds or pictures; this encoder",
    ),
    "device": (["extract", "MODEL", "CSV", "--device", "warp"], "cannot use device='warp': "),
    "ssast": (["convert-ssast", "nowhere.pth", "x"], "nowhere.pth"),
}


@pytest.mark.parametrize("name", BAD)
def test_errors_are_one_line(
    capsys: pytest.CaptureFixture[str],
    model: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    name: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    places = {
        "MODEL": model,
        "CSV": write(tmp_path, ".csv", ROWS),
        "XLS": str(tmp_path / "a.xls"),
        "CLIPS": str(tmp_path / "clips"),
        "EMPTY": str(tmp_path / "empty.txt"),
        "NUMBERS": str(tmp_path / "numbers.jsonl"),
        "BROKEN": str(tmp_path / "broken.jsonl"),
    }
    (tmp_path / "a.xls").write_text("x")
    (tmp_path / "clips").mkdir()
    (tmp_path / "clips" / "a.wav").write_bytes(b"")
    (tmp_path / "empty.txt").write_text("")
    (tmp_path / "numbers.jsonl").write_text('{"text": "a"}\n{"text": 3}\n')
    (tmp_path / "broken.jsonl").write_text('{"text": "a"}\n{"text": \n')
    arguments, match = BAD[name]
    status, stdout, stderr = run(capsys, *(places.get(word, word) for word in arguments))

    errors = [line for line in stderr.splitlines() if line.startswith("fungi-hf: error: ")]
    assert (status, stdout) == (1, "")
    assert len(errors) == 1
    assert match in errors[0]
    assert "Traceback" not in stderr


def test_every_command_shows_examples(capsys: pytest.CaptureFixture[str]) -> None:
    commands = ("extract", "fit", "knn", "info", "card", "push", "convert-ssast", "doctor")
    for command in commands:
        with pytest.raises(SystemExit) as stop:
            build_parser().parse_args([command, "--help"])
        assert stop.value.code == 0
        assert f"  fungi-hf {command} " in capsys.readouterr().out + " "
    with pytest.raises(SystemExit) as stop:
        main(["nonsense"])
    assert stop.value.code == 2


@pytest.mark.filterwarnings("ignore:At least one mel filter:UserWarning")
def test_extract_reads_a_folder_of_clips(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    import soundfile
    from transformers import ASTConfig, ASTFeatureExtractor, ASTModel

    settings = ASTConfig(
        hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=32,
        max_length=128, frequency_stride=16, time_stride=16,
    )  # fmt: skip
    with torch.random.fork_rng():
        ASTModel(settings).save_pretrained(tmp_path / "ast")
    ASTFeatureExtractor(max_length=128).save_pretrained(tmp_path / "ast")
    clips = tmp_path / "clips"
    clips.mkdir()
    tones = {name: np.sin(np.arange(n) / 9) / 4 for name, n in (("b", 16000), ("a", 12000))}
    for name, tone in tones.items():
        soundfile.write(clips / f"{name}.wav", tone, 16000)
    (clips / "notes.md").write_text("not a clip")
    out = tmp_path / "out.npy"

    assert run(capsys, "extract", str(tmp_path / "ast"), str(clips), "--out", str(out))[0] == 0

    extractor = FungiExtractor.from_pretrained(tmp_path / "ast")
    wanted = extractor([str(clips / "a.wav"), str(clips / "b.wav")]).array
    np.testing.assert_allclose(np.load(out), wanted, rtol=0, atol=ROUNDING)
    one = ("extract", str(tmp_path / "ast"), str(clips / "b.wav"), "--out", str(out))
    assert run(capsys, *one)[0] == 0
    np.testing.assert_allclose(np.load(out), wanted[1:], rtol=0, atol=ROUNDING)
