"""Stored evaluations: read back as they were, and refused by name where something is missing."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

from fungi_hf.cli import main
from fungi_hf.errors import StateError, StorageError
from fungi_hf.evaluation import block_cka, evaluate_knn
from fungi_hf.evaluation.records import SweepResult
from fungi_hf.evaluation.report.documents import EvaluationDocument, read_documents
from tests.evaluation.blocks import labelled

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

WIDTHS = {"embedding": 6, "kl": 4}
ROWS: dict[str, tuple[dict[str, Any], ...]] = {
    "layers": (
        {"layer": "", "block": None, "part": "", "features": "embedding", "accuracy": 0.5},
        {"layer": "a.1.b", "block": 1, "part": "b", "features": "kl", "accuracy": 0.6},
    ),
    "sketches": (
        {"kind": "exact", "width": 9, "rank": None, "cosine_rmse": 0.0, "accuracy": 0.6},
        {"kind": "gaussian", "width": 4, "rank": None, "cosine_rmse": 0.1, "accuracy": 0.5},
    ),
    "temperature": (
        {"temperature": None, "features": "embedding", "accuracy": 0.5},
        {"temperature": 15.0, "features": "kl", "accuracy": 0.6},
    ),
}


@pytest.fixture(scope="module")
def good() -> dict[str, Any]:
    """The JSON of a document with something in every field."""
    train, y = labelled(60, WIDTHS, seed=0, noise=1.5)
    test, truth = labelled(40, WIDTHS, seed=1, noise=1.5)
    names, values = block_cka(test)
    results = evaluate_knn(train, y, test, truth)
    document = EvaluationDocument(
        results=tuple(results),
        similarity=(tuple(names), tuple(map(tuple, values.tolist()))),
        costs={one.name: 1.0 for one in results},
        sweeps=tuple(SweepResult(kind=kind, rows=rows) for kind, rows in ROWS.items()),
    )
    plain: dict[str, Any] = json.loads(document.to_json())
    return plain


def test_a_document_is_read_back(good: dict[str, Any], tmp_path: Path) -> None:
    path = tmp_path / "good.json"
    path.write_text(json.dumps(good))
    assert json.loads(read_documents([path]).to_json()) == good
    assert main(["report", str(path), "--out", str(tmp_path / "good.html")]) == 0


def _without(*place: str | int) -> Callable[[Any], None]:
    def change(document: Any) -> None:
        for key in place[:-1]:
            document = document[key]
        del document[place[-1]]

    return change


def _set(value: Any, *place: str | int) -> Callable[[Any], None]:
    def change(document: Any) -> None:
        for key in place[:-1]:
            document = document[key]
        document[place[-1]] = value

    return change


DAMAGES: dict[str, tuple[Callable[[Any], None], str]] = {
    "metric": (
        _without("results", 1, "metrics", "accuracy"),
        "the record knn, fungi, kl is damaged: 'metrics' lacks 'accuracy'; it has",
    ),
    "no metrics": (_set([], "results", 0, "metrics"), "'metrics' must be an object; got []"),
    "a text": (
        _set("high", "results", 0, "metrics", "accuracy"),
        "'metrics' 'accuracy' must be a number; got 'high'",
    ),
    "test": (_without("results", 1, "against_baseline", "p"), "'against_baseline' lacks 'p'"),
    "interval": (
        _set([0.1], "results", 0, "intervals", "accuracy"),
        "the interval of 'accuracy' must be 2 numbers; got [0.1]",
    ),
    "intervals": (_set([], "results", 0, "intervals"), "the evaluation is damaged: "),
    "record": (_set(3, "results", 0), "the evaluation is damaged: "),
    "key": (_without("results", 0, "notes"), "missing or unknown keys: notes"),
    "results": (_without("results"), "missing or unknown keys: results"),
    "similarity": (_set([[1.0]], "linear_cka", "values"), "'linear_cka' must hold 2 rows"),
    "costs": (_set(None, "costs", "kl"), "'costs' 'kl' must be a number; got None"),
    "layers": (
        _without("sweeps", 0, "rows", 1, "accuracy"),
        "the sweep 'layers' is damaged: row 1 lacks 'accuracy'; it has layer, block",
    ),
    "sketches": (_without("sweeps", 1, "rows", 0, "rank"), "row 0 lacks 'rank'"),
    "option": (_without("sweeps", 2, "rows", 1, "temperature"), "row 1 lacks 'temperature'"),
    "cell": (_set("x", "sweeps", 2, "rows", 1, "p"), "row 1 'p' must be a number; got 'x'"),
}


@pytest.mark.parametrize("name", DAMAGES)
def test_what_is_missing_is_named_with_its_file(
    name: str, good: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    damage, words = DAMAGES[name]
    document = json.loads(json.dumps(good))
    damage(document)
    path = tmp_path / "bad.json"
    path.write_text(json.dumps(document))
    with pytest.raises(StateError) as caught:
        read_documents([path])
    assert str(caught.value).startswith(f"{path}: ")
    assert words in str(caught.value)
    assert main(["report", str(path), "--out", str(tmp_path / "bad.html")]) == 1
    assert f"fungi-hf: error: {path}: " in capsys.readouterr().err
    assert not (tmp_path / "bad.html").exists()


@pytest.mark.parametrize("content", [b"\xff\xfe{}", b"{", b"[" * 100_000])
def test_what_is_no_json_is_refused(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "bad.json"
    path.write_bytes(content)
    with pytest.raises(StorageError, match=r"bad\.json is not JSON"):
        read_documents([path])
