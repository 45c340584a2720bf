"""Slices of every kind of input are the rows that reading it whole gives."""

from __future__ import annotations

import copy
import csv
import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fungi_hf.errors import InputError, StorageError
from fungi_hf.shards import ShardPlan, sources
from fungi_hf.shards.columns import ParquetSource
from fungi_hf.shards.sources import ListSource, PathSource, source_of
from fungi_hf.tables import read_lines, read_rows

ANY = st.characters(blacklist_characters="\x00", blacklist_categories=["Cs"])
INLINE = st.characters(blacklist_characters="\n\r\x00", blacklist_categories=["Cs"])
LINES = st.lists(st.text(INLINE, max_size=6), min_size=1, max_size=30)
QUICK = settings(
    max_examples=50, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


def cut(source, step):
    starts = range(0, source.n_rows, step)
    return [one for start in starts for one in source.read(start, min(start + step, source.n_rows))]


@QUICK
@given(
    lines=LINES,
    end=st.sampled_from(["\n", "\r\n", "\r"]),
    last=st.booleans(),
    mark=st.booleans(),
    step=st.integers(1, 9),
    stride=st.sampled_from([1, 2, 5, 1024]),
)
def test_lines(tmp_path_factory, lines, end, last, mark, step, stride) -> None:
    path = tmp_path_factory.mktemp("lines") / "in.txt"
    text = end.join(lines) + (end if last else "")
    path.write_bytes((b"\xef\xbb\xbf" if mark else b"") + text.encode())
    expected = read_lines(path)
    if not expected:
        with pytest.raises(InputError, match="holds no inputs"):
            source_of(path)
        return
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sources, "_STEP", stride)
        source = source_of(path)
        assert source.n_rows == len(expected)
        assert cut(source, step) == expected
        assert source.read(source.n_rows - 1, source.n_rows) == expected[-1:]


@QUICK
@given(
    values=st.lists(st.text(ANY, max_size=8), min_size=1, max_size=20),
    end=st.sampled_from(["\n", "\r\n"]),
    step=st.integers(1, 7),
    stride=st.sampled_from([1, 3, 1024]),
)  # fmt: skip
def test_csv_and_jsonl(tmp_path_factory, values, end, step, stride) -> None:
    folder = tmp_path_factory.mktemp("tables")
    with (folder / "in.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator=end, quoting=csv.QUOTE_ALL)
        writer.writerows([["label", "text"], *(["x", value] for value in values)])
    lines = [json.dumps({"text": value, "label": 1}, ensure_ascii=False) for value in values]
    (folder / "in.jsonl").write_bytes((end + end).join(lines).encode())
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sources, "_STEP", stride)
        for name in ("in.csv", "in.jsonl"):
            expected = [row["text"] for row in read_rows(folder / name)]
            source = source_of(folder / name)
            assert cut(source, step) == expected == source.read(0, source.n_rows)


@QUICK
@given(n=st.integers(1, 60), group=st.integers(1, 25), step=st.integers(1, 30))
def test_parquet_by_groups(tmp_path_factory, n, group, step) -> None:
    path = tmp_path_factory.mktemp("parquet") / "in.parquet"
    values = [f"row {i}" for i in range(n)]
    wide = np.zeros((n, 4)).tolist()
    pq.write_table(pa.table({"text": values, "vector": wide}), path, row_group_size=group)
    source = source_of(path)
    assert source.n_rows == n
    assert cut(source, step) == values
    again = copy.deepcopy(source)  # by the same two methods it goes to a worker
    assert again.read(n - 1, n) == values[-1:]
    assert again.digest == source.digest


def test_only_the_column_is_read(tmp_path, monkeypatch) -> None:
    path = tmp_path / "in.parquet"
    pq.write_table(pa.table({"text": ["a", "b"], "vector": [[1.0], [2.0]]}), path)
    seen = []
    read = pq.ParquetFile.iter_batches

    def watched(self, *args, **options):
        seen.append(options["columns"])
        return read(self, *args, **options)

    monkeypatch.setattr(pq.ParquetFile, "iter_batches", watched)
    assert source_of(path).read(0, 2) == ["a", "b"]
    assert seen == [["text"]]


def test_several_files_and_urls(tmp_path) -> None:
    for i in range(3):
        table = pa.table({"question": [f"{i} a", f"{i} b"]})
        pq.write_table(table, tmp_path / f"in-{i}.parquet")
    expected = [f"{i} {letter}" for i in range(3) for letter in "ab"]
    source = source_of(f"file://{tmp_path}/in-*.parquet", "question")
    assert cut(source, 4) == expected
    one = source_of(f"file://{tmp_path}/in-1.parquet", "question")
    assert one.read(0, 2) == ["1 a", "1 b"]
    with pytest.raises(InputError, match="no file matches"):
        source_of(f"file://{tmp_path}/no-*.parquet")
    places = [str(tmp_path / "in-0.parquet"), str(tmp_path / "in-2.parquet")]
    assert ParquetSource(places, "question").n_rows == 4


def test_utf_16_is_read_whole(tmp_path) -> None:
    path = tmp_path / "in.txt"
    path.write_text("eins\nzwei\n", encoding="utf-16")
    assert cut(source_of(path), 1) == ["eins", "zwei"]
    path = tmp_path / "in.csv"
    path.write_text("text\neins\n", encoding="utf-16")
    assert cut(source_of(path), 1) == ["eins"]


def test_d15_a_file_that_is_replaced_is_another_input(tmp_path) -> None:
    paths = [tmp_path / f"{i}.wav" for i in range(3)]
    for path in paths:
        path.write_bytes(b"abc")
    before = PathSource(paths, "clips")
    assert before.read(1, 3) == [str(paths[1]), str(paths[2])]
    paths[1].write_bytes(b"abcd")
    assert PathSource(paths, "clips").digest != before.digest


def test_lists_are_known_by_their_contents() -> None:
    given = ["a", b"b", np.arange(3), (np.zeros(2), 16_000), {"bytes": b"x", "path": None}, 3]
    one = ListSource(given)
    assert one.digest == ListSource(list(given)).digest
    for place, other in enumerate(["b", b"c", np.arange(1, 4), (np.ones(2), 16_000),
                                   {"bytes": b"y", "path": None}, 4]):  # fmt: skip
        changed = [*given]
        changed[place] = other
        assert ListSource(changed).digest != one.digest
    assert one.read(1, 3)[0] == b"b"


@pytest.mark.parametrize(
    ("name", "data", "column", "message"),
    [
        ("in.xls", b"x", None, "unknown kind of file '.xls'"),
        ("in.txt", b"", None, "holds no inputs"),
        ("in.txt", b"a", "text", "plain text, one input a line: it has no columns"),
        ("in.txt", "caf\xe9".encode("latin-1"), None, "is not UTF-8"),
        ("in.jsonl", b"{", None, "row 0 is not JSON"),
        ("in.jsonl", b"[1]", None, "row 0 is not an object"),
        ("in.jsonl", b'{"a": 1}', None, "has no column 'text'"),
        ("in.csv", b"a,b\n1,2\n", "c", "has no column 'c'"),
        ("in.csv", b"a,b\n1,2,3\n", "a", "row 0 has more fields than the header"),
        ("in.csv", b"text\n", None, "holds no rows"),
        ("in.parquet", b"PAR1", None, "is not a Parquet file"),
    ],
)
def test_wrong_files_are_named(tmp_path, name, data, column, message) -> None:
    (tmp_path / name).write_bytes(data)
    with pytest.raises((InputError, StorageError), match=message):
        source_of(tmp_path / name, column)


def test_what_is_missing(tmp_path) -> None:
    with pytest.raises(InputError, match="there is no file or folder nowhere"):
        source_of("nowhere")
    (tmp_path / "in.jsonl").write_text('{"text": "a"}\n{"other": 1}\n')
    source = source_of(tmp_path / "in.jsonl")
    with pytest.raises(InputError, match="row 1 has no column 'text'"):
        source.read(0, 2)


@given(n=st.integers(1, 10**7), rows=st.integers(1, 10**5))
def test_a_plan_cuts_every_row_once(n, rows) -> None:
    plan = ShardPlan(
        n_rows=n, shard_rows=rows, inputs="i", fingerprint="f", widths={"a": 2}, factors={}
    )
    assert plan.shard(0).start == 0
    assert plan.shard(plan.n_shards - 1).stop == n
    middle = plan.n_shards // 2
    if middle + 1 < plan.n_shards:
        assert plan.shard(middle).stop == plan.shard(middle + 1).start
    assert len(plan.shard(0).name) == len(plan.shard(plan.n_shards - 1).name)
    assert ShardPlan.from_json(plan.to_json(), "") == plan
