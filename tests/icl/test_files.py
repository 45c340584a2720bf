"""Files that people have: marks, encodings, suffixes, odd line ends, other columns and mappings."""

from __future__ import annotations

import json
import sqlite3

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from fungi_hf.cli import main
from fungi_hf.errors import CacheError, InputError, LabelError, StorageError
from fungi_hf.icl.cache import AnswerCache
from fungi_hf.icl.sources import load_examples, load_labels
from fungi_hf.storage.files import replace_file
from fungi_hf.tables import read_lines, read_rows

ROWS = [
    {"text": "my card\u2028was lost", "label": "lost"},
    {"text": "pay\x0cnow", "label": "pay"},
    {"text": "  größe \u0085 ", "label": "pay"},
]
NAMES = ["lost", "pay", "größe"]


def lines(rows=ROWS) -> str:
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)


@pytest.mark.parametrize("suffix", [".jsonl", ".JSONL", ".Jsonl"])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-32"])
@pytest.mark.parametrize("end", ["", "\n", "\n\n  \n"])
def test_jsonl_of_every_form(tmp_path, suffix, encoding, end):
    path = tmp_path / f"rows{suffix}"
    path.write_bytes((lines() + end).encode(encoding))
    assert read_rows(path) == ROWS
    assert load_examples(path).contents == tuple(row["text"] for row in ROWS)


@pytest.mark.parametrize("newline", ["\n", "\r\n"])
def test_windows_line_ends(tmp_path, newline):
    path = tmp_path / "rows.jsonl"
    path.write_bytes(lines().replace("\n", newline).encode("utf-8-sig"))
    assert read_rows(path) == ROWS
    text = tmp_path / "rows.txt"
    text.write_bytes(f"one{newline}two \u2028 half{newline}".encode("utf-8-sig"))
    assert read_lines(text) == ["one", "two \u2028 half"]


@pytest.mark.parametrize("suffix", [".csv", ".CSV"])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_csv(tmp_path, suffix, encoding):
    path = tmp_path / f"rows{suffix}"
    path.write_bytes('text,label\n"a, b",x\n"two\nlines",y\n'.encode(encoding))
    examples = load_examples(path)
    assert examples.contents == ("a, b", "two\nlines")
    assert examples.targets == ("x", "y")


def test_another_encoding_is_named(tmp_path):
    for name in ("rows.jsonl", "rows.csv", "labels.json", "labels.txt"):
        path = tmp_path / name
        path.write_bytes("größe".encode("latin-1"))
        read = load_labels if name.startswith("labels") else load_examples
        with pytest.raises(StorageError, match=r"is not UTF-8 .* save it as UTF-8, or with a byte"):
            read(path)


@pytest.mark.parametrize("suffix", [".json", ".JSON"])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
@pytest.mark.parametrize(
    "value",
    [
        NAMES,
        {"id2label": {"0": "lost", "1": "pay", "2": "größe"}},
        {"2": "größe", "0": "lost", "1": "pay"},
        {"label2id": {"x": 0}, "id2label": {"1": "pay", "0": "lost", "2": "größe"}},
        {"lost": 0, "größe": 2, "pay": 1},
    ],
    ids=["list", "id2label", "mapping", "config", "label2id"],
)
def test_labels_of_every_form(tmp_path, suffix, encoding, value):
    path = tmp_path / f"labels{suffix}"
    path.write_bytes(json.dumps(value, ensure_ascii=False).encode(encoding))
    assert list(load_labels(path).names) == NAMES


def test_labels_from_lines_and_tables(tmp_path):
    (tmp_path / "a.txt").write_text("lost\npay\n\ngröße\n", "utf-8")
    (tmp_path / "a.csv").write_text("text,intent\nx,lost\ny,pay\nz,lost\nw,größe\n", "utf-8")
    pq.write_table(pa.table({"label": ["lost", "pay", "größe"]}), tmp_path / "a.parquet")
    assert list(load_labels(tmp_path / "a.txt").names) == NAMES
    assert list(load_labels(tmp_path / "a.csv", "intent").names) == NAMES
    assert list(load_labels(tmp_path / "a.parquet").names) == NAMES


@pytest.mark.parametrize(
    "value", [{"0": "a", "2": "b"}, {"x": "y"}, 3, "a", None, {"0": "a", "1": 2}]
)
def test_other_json_is_no_list_of_labels(tmp_path, value):
    path = tmp_path / "labels.json"
    path.write_text(json.dumps(value))
    with pytest.raises((StorageError, LabelError, ValueError, TypeError)) as caught:
        load_labels(path)
    assert "label" in str(caught.value) or "names" in str(caught.value)


def test_columns_can_be_named(tmp_path):
    path = tmp_path / "rows.csv"
    path.write_text("question,intent\na,x\nb,y\n")
    examples = load_examples(path, column="question", label="intent")
    assert (examples.contents, examples.targets) == (("a", "b"), ("x", "y"))
    with pytest.raises(InputError, match="no column 'questoin'; choose one of 'question'"):
        load_examples(path, column="questoin", label="intent")


def test_the_command_line_reads_them(tmp_path, capsys):
    (tmp_path / "train.CSV").write_text("question,intent\n" + "my card,lost\npay it,pay\n" * 3)
    (tmp_path / "test.csv").write_text("question,intent\nwhere is my card,lost\npay,pay\n")
    (tmp_path / "labels.txt").write_text("lost\npay\n")
    command = [
        *("icl", "run", "--train", str(tmp_path / "train.CSV"), "--column", "question"),
        *("--test", str(tmp_path / "test.csv"), "--label", "intent", "--strategy", "bm25"),
        *("--labels", str(tmp_path / "labels.txt"), "--k", "2", "--fake", "majority"),
    ]
    assert main(command) == 0
    assert "accuracy        1.0000" in capsys.readouterr().out


def test_places_where_no_cache_can_be(tmp_path):
    (tmp_path / "file").write_text("x")
    for place in (tmp_path / "file" / "a.sqlite", tmp_path, "/proc/none/a.sqlite"):
        with pytest.raises(CacheError, match="the answer cache"):
            AnswerCache(place)


def test_a_file_that_another_process_is_making_is_waited_for(tmp_path, monkeypatch):
    path = tmp_path / "a.sqlite"
    other = sqlite3.connect(path, isolation_level=None)
    other.execute("CREATE TABLE answers (key TEXT PRIMARY KEY, reply TEXT, created REAL)")
    seen = []

    def later(_):
        seen.append(1)
        if len(seen) == 2:
            other.execute(f"PRAGMA application_id = {0x46554E47}")
            other.execute("PRAGMA user_version = 2")

    monkeypatch.setattr("fungi_hf.icl.cache.time.sleep", later)
    with AnswerCache(path) as cache:
        cache.write("k", {"a": 1}).result()
        assert cache.read("k").result() == {"a": 1}
    assert len(seen) == 2
    other.close()


def test_a_full_disk_leaves_nothing_behind(tmp_path, monkeypatch):
    from pathlib import Path

    def full(*_):
        raise OSError(28, "No space left on device")

    target = tmp_path / "results.jsonl"
    target.write_text("old")
    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(OSError, match="No space"):
        replace_file(target, b"new")
    assert [path.name for path in tmp_path.iterdir()] == ["results.jsonl"]
    assert target.read_text() == "old"
