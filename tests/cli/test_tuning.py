"""`fungi-hf tune`: whatever is wrong with labels, groups and --out is said before any work."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from fungi_hf import FungiExtractor
from fungi_hf.cli import main
from tests.tiny import TRAIN, saved_model

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(saved_model(tmp_path_factory.mktemp("tiny")))


def table(folder: Path, *, label: str = "", group: str = "") -> str:
    """A CSV of two classes and three groups; what is given stands in the rows 1, 4 and 7."""
    lines = ["text,intent,speaker"]
    for row, text in enumerate(TRAIN):
        odd = row in (1, 4, 7)
        own = label if odd and label != "-" else "ab"[row % 2]
        whose = group if odd and group != "-" else f"s{row % 3}"
        lines.append(f'"{text}",{own},{whose}')
    path = folder / "train.csv"
    path.write_text("\n".join(lines) + "\n")
    return str(path)


def refused(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    """Give the one line of the error."""
    capsys.readouterr()
    assert main(["tune", *arguments, "--label", "intent", "-k", "2", "--no-gradients"]) == 1
    out, err = capsys.readouterr()
    (line,) = err.splitlines()
    assert not out
    return line.removeprefix("fungi-hf: error: ")


@pytest.fixture
def idle(monkeypatch: pytest.MonkeyPatch) -> None:
    """No model may be loaded."""

    def load(*_: object, **__: object) -> None:
        pytest.fail("a model was loaded")

    monkeypatch.setattr(FungiExtractor, "from_pretrained", load)


@pytest.mark.usefixtures("idle")
def test_empty_labels_and_groups_are_no_class(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = str(tmp_path / "tuned")
    train = table(tmp_path, group="-")
    assert refused(capsys, "m", train, "--out", out) == (
        f"{train}: 3 rows have no label in 'intent': rows 1, 4, 7"
    )
    train = table(tmp_path, label="-")
    assert refused(capsys, "m", train, "--out", out, "--group", "speaker") == (
        f"{train}: 3 rows have no group in 'speaker': rows 1, 4, 7"
    )
    assert "no column 'spaeker'; choose one of 'speaker'" in refused(
        capsys, "m", train, "--out", out, "--group", "spaeker"
    )


@pytest.mark.usefixtures("idle")
@pytest.mark.parametrize("command", ["tune", "fit"])
def test_a_place_that_cannot_be_written_is_named_first(
    command: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    train = table(tmp_path, label="-", group="-")
    file = tmp_path / "file"
    file.write_text("mine")
    for out in (file, file / "below"):
        assert main([command, "m", train, "--out", str(out)]) == 1
        assert f"cannot write to {out}: {file} is no folder" in capsys.readouterr().err
    assert file.read_text() == "mine"

    def closed(**_: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("tempfile.TemporaryFile", closed)
    out = tmp_path / "no" / "such"
    assert main([command, "m", train, "--out", str(out)]) == 1
    assert f"cannot write to {out}: {tmp_path}: Permission denied" in capsys.readouterr().err
    assert not out.parent.exists()


def test_a_table_without_gaps_is_tuned(
    model: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    train, out = table(tmp_path, label="-", group="-"), tmp_path / "new" / "tuned"
    words = ["--label", "intent", "--group", "speaker", "-k", "2", "--no-gradients"]
    assert main(["tune", model, train, "--out", str(out), *words]) == 0
    assert f"saved in {out}" in capsys.readouterr().err
    report = FungiExtractor.from_pretrained(out).tuning
    assert report is not None
    assert (report.n_groups, report.classes) == (3, {"a": 6, "b": 6})
