"""The commands `sweep` and `report`: rows, pages and errors."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pytest

from tests.cli.program import run

SWEEPS: dict[str, tuple[list[str], int]] = {
    # embedding, then 18 layers x (activation, kl, each also beside the embedding)
    "layers": ([], 1 + 18 * 4),
    "sketches": (["--values", "4", "8", "--rank", "1", "--sketch", "khatri_rao",
                  "--sketch", "gaussian", "--sketch-seeds", "2"], 1 + 4),
    "temperature": (["--values", "1", "15"], 1 + 4),
    "head-width": (["--values", "8", "16"], 1 + 4),
    "views": (["--objective", "simclr", "--values", "2", "3"], 1 + 4),
    "negatives": (["--objective", "simclr", "--values", "3", "6"], 1 + 4),
}  # fmt: skip


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*distinct training inputs:UserWarning")
@pytest.mark.parametrize("what", SWEEPS)
def test_sweeps_write_rows_and_a_page(
    capsys: pytest.CaptureFixture[str], model: str, table: str, tmp_path: Path, what: str
) -> None:
    words, n_rows = SWEEPS[what]
    shots = ["--train", table, "--test", table, "--protocol", "fungi-3-shot"]
    for suffix in (".json", ".csv"):
        out = tmp_path / f"sweep{suffix}"
        arguments = ("sweep", what, model, *shots, *words, "--out", str(out))
        status, stdout, _ = run(capsys, *arguments)
        assert status == 0
        assert len([line for line in stdout.splitlines() if line[:5] != "note:"]) == n_rows + 2
    sweep = json.loads((tmp_path / "sweep.json").read_text())
    rows = list(csv.DictReader((tmp_path / "sweep.csv").read_text().splitlines()))
    assert len(sweep["rows"]) == len(rows) == n_rows
    first, last = sweep["rows"][-1], rows[-1]
    assert float(last["accuracy"]) == first["accuracy"]
    html = str(tmp_path / "page.html")
    assert run(capsys, "report", str(tmp_path / "sweep.json"), "--out", html)[0] == 0
    assert "data:image/svg+xml" in Path(html).read_text(encoding="utf-8")


def test_sweep_and_report_errors_are_one_line(
    capsys: pytest.CaptureFixture[str], model: str, table: str, tmp_path: Path
) -> None:
    both = ["--train", table, "--test", table]
    cases = {
        "the suffix must be .json or .csv": ["sweep", "layers", model, *both, "--out", "a.xls"],
        "a layer sweep has no --values": ["sweep", "layers", model, *both, "--values", "1"],
        "a layer sweep has no --sketch, --rank, --sketch-seeds, --block; its options are --layer, "
        "--memory-mb": [
            *["sweep", "layers", model, *both, "--rank", "3", "--sketch", "gaussian"],
            *["--block", "kl", "--sketch-seeds", "3"],
        ],
        "a sketch sweep has no --block": ["sweep", "sketches", model, *both, "--block", "simclr"],
        "a temperature sweep has no --layer, --memory-mb; its options are --values, --block": [
            *["sweep", "temperature", model, *both, "--layer", "a.b", "--memory-mb", "9"],
        ],
        "--rank is of khatri_rao sketches, --sketch names gaussian": [
            *["sweep", "sketches", model, *both, "--rank", "2", "--sketch", "gaussian"],
        ],
        "judged by cosines alone": ["sweep", "sketches", model, *both, "--protocol", "paper"],
        "must be whole numbers above 0; got 1.5": [
            "sweep",
            "views",
            model,
            *both,
            "--values",
            "1.5",
        ],
        "none of the objectives kl can vary n_views": ["sweep", "views", model, *both],
        "no usable linear layer 'a.b'": ["sweep", "layers", model, *both, "--layer", "a.b"],
        "n_neighbors is 20, but there are 12": ["sweep", "temperature", model, *both],
        "cannot read nowhere.json": ["report", "nowhere.json", "--out", "x.html"],
        "is not JSON": ["report", table, "--out", "x.html"],
        "not a fungi-hf-evaluation-set of version 1: record is None": [
            "report",
            f"{model}/config.json",
            "--out",
            "x.html",
        ],
    }
    for match, arguments in cases.items():
        status, stdout, stderr = run(capsys, *arguments)
        assert (status, stdout) == (1, ""), arguments
        errors = [line for line in stderr.splitlines() if line.startswith("fungi-hf: error: ")]
        assert len(errors) == 1
        assert match in errors[0]
