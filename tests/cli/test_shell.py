"""Every command as a user types it: the installed program in a shell, from another folder."""

from __future__ import annotations

import json
import os
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import soundfile
import torch
from transformers import ASTConfig, ASTFeatureExtractor, ASTModel

from fungi_hf import FungiExtractor
from fungi_hf.features import FungiFeatures
from fungi_hf.testing import tiny_text_model
from tests.fake_hub import TOKEN, FakeHub

if TYPE_CHECKING:
    from collections.abc import Iterator

PROGRAM = Path(sys.executable).with_name("fungi-hf")
TEXTS = ["my card was lost", "how do you pay", "new café, «quoted»", 'say "help"', "please help me"]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with an encoder, tables of every kind, and clips."""
    folder = tmp_path_factory.mktemp("place with a space")
    model, tokenizer = tiny_text_model("roberta", dtype=torch.float32)
    for part in (model, tokenizer):
        part.save_pretrained(folder / "encoder")
    rows = [{"question": text, "label": f"class {i % 2}"} for i, text in enumerate(TEXTS)]
    lines = [json.dumps(row, ensure_ascii=False) for row in rows]
    (folder / "rows.jsonl").write_text("\n".join(lines), encoding="utf-8")
    import pandas as pd

    pd.DataFrame(rows).to_csv(folder / "rows.csv", index=False)
    pd.DataFrame(rows).to_parquet(folder / "rows.parquet")
    (folder / "rows.txt").write_text("\n".join(TEXTS), encoding="utf-8")
    (folder / "head.csv").write_text("question,label\n")
    for suffix in (".jsonl", ".csv", ".parquet", ".txt"):
        (folder / f"empty{suffix}").write_bytes(b"")
    (folder / "numbers.jsonl").write_text('{"question": 3}\n')
    return folder


def shell(folder: Path, command: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["bash", "-c", command.replace("fungi-hf", shlex.quote(str(PROGRAM)))],
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "HF_HUB_OFFLINE": "1", **environment},
    )


def good(folder: Path, command: str, **environment: str) -> str:
    done = shell(folder, command, **environment)
    assert done.returncode == 0, done.stderr
    return done.stdout


REFUSED = {
    "extract encoder rows.csv --column txt": "no column 'txt'; choose one of 'label', 'question'",
    "extract encoder empty.txt": "empty.txt holds no inputs",
    "extract encoder numbers.jsonl --column question": "input 0 must be a text (str); got int: 3",
}
MORE_REFUSED = {
    "extract encoder rows.csv": "no column 'text'; choose one of",
    "extract encoder head.csv --column question": "head.csv holds no rows",
    "extract encoder empty.csv --column question": "empty.csv holds no rows",
    "extract encoder empty.jsonl --column question": "empty.jsonl holds no rows",
    "extract encoder empty.parquet --column question": "empty.parquet is not a Parquet file",
    "extract encoder rows.txt --column question": "has no columns",
    "fit encoder empty.txt --out x": "empty.txt holds no inputs",
    "knn encoder --train rows.csv --test rows.csv --label y": "no column 'y'; choose one of",
    "info nowhere": "'nowhere' is neither a folder nor a repository that can be reached",
    "card nowhere": "'nowhere' is neither a folder nor a repository that can be reached",
    "push encoder a/b": "encoder holds no fungi_config.json",
    "convert-ssast nowhere.pth x": "nowhere.pth",
}


@pytest.mark.parametrize("cases", [REFUSED, pytest.param(MORE_REFUSED, marks=pytest.mark.slow)])
def test_what_is_refused_is_one_line(place: Path, cases: dict[str, str]) -> None:
    done = shell(place, "\n".join(f"fungi-hf {words}; echo $?" for words in cases))

    assert done.stdout.split() == ["1"] * len(cases)
    lines = done.stderr.splitlines()
    assert len(lines) == len(cases), done.stderr
    for line, (words, wanted) in zip(lines, cases.items(), strict=True):
        assert line.startswith("fungi-hf: error: "), words
        assert wanted in line, words


def test_doctor_names_what_is_broken_and_the_remedy_beside_it(tmp_path: Path) -> None:
    stubs = {
        "torchaudio": "raise OSError('Could not load this library: lib/_torchaudio.abi3.so')",
        "sentence_transformers": "import a_package_that_went_away",
        **dict.fromkeys(("datasets", "sklearn", "faiss", "openai"), ""),  # for speed
    }
    for name, code in stubs.items():
        (tmp_path / name).mkdir()
        (tmp_path / name / "__init__.py").write_text(code)
    done = shell(
        tmp_path,
        "fungi-hf doctor",
        PYTHONPATH=str(tmp_path),
        HF_HUB_OFFLINE="1",
        HF_DATASETS_OFFLINE="0",
        HF_ENDPOINT="http://127.0.0.1:9",
    )
    found = {line[:24].strip(): line[24:] for line in done.stdout.splitlines()}

    assert done.returncode == 1
    assert done.stderr == ""
    assert "_torchaudio.abi3.so" in found["torchaudio"]
    assert "pip uninstall torchaudio" in found["torchaudio"]
    assert "No module named 'a_package_that_went_away'" in found["sentence_transformers"]
    assert "; pip install a_package_that_went_away)" in found["sentence_transformers"]
    assert found["torch"] == torch.__version__.split("+")[0] or torch.__version__ in found["torch"]
    assert found["HF_HUB_OFFLINE"].endswith("to allow them: unset HF_HUB_OFFLINE)")
    assert found["HF_DATASETS_OFFLINE"] == "0 (downloads are allowed)"
    assert "unset it for huggingface.co" in found["HF_ENDPOINT"]
    assert found["devices"].startswith("cpu")
    assert found["result"] == "2 broken; see above"


@pytest.mark.slow
def test_doctor_names_the_root_and_old_versions(tmp_path: Path) -> None:
    reason = "raise OSError('Could not load this library: lib/_torchaudio.abi3.so')"
    for name in ("torchaudio", "sentence_transformers"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "__init__.py").write_text(reason)
    old = tmp_path / "datasets-1.0.0.dist-info"
    old.mkdir()
    (old / "METADATA").write_text("Metadata-Version: 2.1\nName: datasets\nVersion: 1.0.0\n")
    done = shell(tmp_path, "fungi-hf doctor", PYTHONPATH=str(tmp_path))
    found = {line[:24].strip(): line[24:] for line in done.stdout.splitlines()}

    assert done.returncode == 1
    assert found["sentence_transformers"].endswith("(broken by torchaudio; see there)")
    assert found["datasets"].startswith("1.0.0 (not supported; pip install 'datasets>=")
    whole = shell(tmp_path, "fungi-hf doctor")
    assert whole.returncode == 0, whole.stdout
    assert "nothing is broken" in whole.stdout


@pytest.mark.slow
def test_extract_from_and_to_every_kind(place: Path) -> None:
    wanted = FungiExtractor.from_pretrained(place / "encoder")(TEXTS)
    for source in ("rows.jsonl --column question", "rows.csv --column question",
                   "rows.parquet --column question", "rows.txt"):  # fmt: skip
        good(place, f"fungi-hf extract encoder {source} --out made.npy")
        np.testing.assert_allclose(np.load(place / "made.npy"), wanted.array, rtol=0, atol=1e-5)
    good(place, "fungi-hf extract encoder rows.txt --out 'out put'/made.parquet")
    table = pq.read_table(place / "out put" / "made.parquet")
    assert table["input"].to_pylist() == TEXTS
    np.testing.assert_allclose(table["features"].to_pylist(), wanted.array, rtol=0, atol=1e-5)
    good(place, "fungi-hf extract encoder rows.txt --out made.safetensors")
    made = FungiFeatures.load(place / "made.safetensors")
    assert (made.fingerprint, made.layout) == (wanted.fingerprint, wanted.layout)
    printed = good(place, "cat rows.txt | fungi-hf extract encoder - | sort -r | tail -n 5")
    assert sorted(json.loads(line)["input"] for line in printed.splitlines()) == sorted(TEXTS)
    assert good(place, "fungi-hf extract encoder rows.txt | head -c 1") == "{"


@pytest.mark.slow
def test_a_killed_extraction_goes_on(place: Path) -> None:
    (place / "many.txt").write_text("\n".join(TEXTS * 4000))
    words = [str(PROGRAM), "extract", "encoder", "many.txt", "--out", "k.npy", "--shard-rows", "50"]
    # A suite that runs in the background ignores SIGINT, and so would what it starts.
    hears = "import os, signal, sys; signal.signal(signal.SIGINT, signal.SIG_DFL); "
    process = subprocess.Popen(
        [sys.executable, "-c", hears + "os.execv(sys.argv[1], sys.argv[1:])", *words],
        cwd=place,
        stderr=subprocess.PIPE,
        env={**os.environ, "HF_HUB_OFFLINE": "1"},
    )
    parts = place / "k.npy.parts"
    while len(list(parts.glob("part-*.npy"))) < 2 and process.poll() is None:
        time.sleep(0.01)
    process.send_signal(signal.SIGINT)
    _, said = process.communicate()
    kept = len(list(parts.glob("part-*.npy")))

    assert process.returncode == 130, said
    assert said.decode().splitlines()[-1] == "fungi-hf: error: interrupted"
    assert 2 <= kept < 400
    done = shell(place, shlex.join(["fungi-hf", *words[1:]]))
    assert done.returncode == 0, done.stderr
    assert f"{50 * kept}/20000" in done.stderr
    assert np.load(place / "k.npy").shape[0] == 20_000
    assert not parts.exists()


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:At least one mel filter:UserWarning")
def test_extract_reads_a_folder_of_clips(place: Path) -> None:
    settings = ASTConfig(
        hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=32,
        max_length=128, frequency_stride=16, time_stride=16,
    )  # fmt: skip
    ASTModel(settings).save_pretrained(place / "ast")
    ASTFeatureExtractor(max_length=128).save_pretrained(place / "ast")
    (place / "clips" / "deep").mkdir(parents=True)
    for name, rate in (("b.wav", 16000), ("deep/ä c.flac", 22050)):
        soundfile.write(place / "clips" / name, np.sin(np.arange(rate) / 9) / 4, rate)
    (place / "silence").mkdir()

    good(place, "fungi-hf extract ast clips --out clips.parquet")

    table = pq.read_table(place / "clips.parquet")
    assert table["input"].to_pylist() == ["clips/b.wav", "clips/deep/ä c.flac"]
    paths = [str(place / path) for path in table["input"].to_pylist()]
    wanted = FungiExtractor.from_pretrained(place / "ast")(paths).array
    np.testing.assert_allclose(table["features"].to_pylist(), wanted, rtol=0, atol=1e-5)
    empty = shell(place, "fungi-hf extract ast silence --out x.npy")
    assert (empty.returncode, empty.stderr) == (1, "fungi-hf: error: silence holds no inputs\n")


@pytest.mark.slow
def test_fit_info_card_and_knn(place: Path) -> None:
    good(place, "fungi-hf fit encoder rows.csv --column question --objective kl --out saved")
    facts = json.loads(good(place, "fungi-hf info saved"))
    saved = FungiExtractor.from_pretrained(place / "saved")
    assert facts["fingerprint"] == saved.fingerprint
    results = [{"dataset": "D", "metric": "accuracy", "value": 0.5, "protocol": "1-NN"}]
    (place / "results.json").write_text(json.dumps(results))
    card = good(place, "fungi-hf card saved --results results.json")
    assert card.startswith("---\n")
    assert "| D (test) | 1-NN | accuracy |" in card
    line = good(
        place,
        "fungi-hf knn saved --train rows.csv --test rows.parquet --column question -k 1",
    )
    assert json.loads(line)["accuracy"] == 1.0
    lines = good(
        place, "fungi-hf knn saved --train rows.csv --test rows.txt --column question -k 1"
    )
    assert [json.loads(line)["label"] for line in lines.splitlines()][:2] == ["class 0", "class 1"]


@pytest.fixture
def hub() -> Iterator[FakeHub]:
    memory = FakeHub()
    server = memory.start()
    yield memory
    server.shutdown()
    server.server_close()


@pytest.mark.slow
def test_push_and_info_of_a_repository(place: Path, hub: FakeHub, tmp_path: Path) -> None:
    there: dict[str, Any] = {
        "HF_ENDPOINT": hub.url,
        "HF_HUB_OFFLINE": "0",
        "HF_HUB_DISABLE_XET": "1",
        "HF_HOME": str(tmp_path),
    }
    good(place, "fungi-hf fit encoder rows.txt --objective kl --out pushed")
    denied = shell(place, "fungi-hf push pushed owner/f", **there)
    assert denied.returncode == 1
    assert "needs token=" in denied.stderr.splitlines()[-1]
    url = good(place, "fungi-hf push pushed owner/f --private", HF_TOKEN=TOKEN, **there)
    assert url.startswith(f"{hub.url}/owner/f/commit/")
    assert hub.repos["owner/f"].private
    facts = json.loads(good(place, "fungi-hf info owner/f", HF_TOKEN=TOKEN, **there))
    assert facts["config"]["objectives"][0]["kind"] == "kl"


@pytest.mark.slow
def test_icl(place: Path) -> None:
    rows = [json.dumps({"text": text, "label": i % 2}) for i, text in enumerate(TEXTS)]
    (place / "examples.jsonl").write_text("\n".join(rows))
    (place / "labels.json").write_text(json.dumps(["class 0", "class 1"]))
    data = "--train examples.jsonl --test examples.jsonl --labels labels.json"
    printed = good(
        place, f"fungi-hf icl run {data} --strategy bm25 --k 1 --fake majority --out run"
    )
    assert printed.startswith("accuracy ")
    assert json.loads((place / "run" / "summary.json").read_text())["rows"] == len(TEXTS)
