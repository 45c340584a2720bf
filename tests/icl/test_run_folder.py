"""Run folders: what is on disk, what is asked again, and the same bytes however it went."""

from __future__ import annotations

import json
import shutil
import warnings

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fungi_hf.errors import LLMAuthError, LLMError
from fungi_hf.icl import FakeOpenAIServer
from fungi_hf.icl.llm import Limits, Sampling
from fungi_hf.icl.results import RowResult
from fungi_hf.icl.run import EvalResult
from fungi_hf.icl.server.fake_server import Fault
from tests.icl.chat_kit import FastClock
from tests.icl.evaluate_kit import results_bytes, run

SECRET = "sk-very-secret-0123456789"


def test_a_failed_row_makes_the_result_incomplete_and_is_tried_again(tmp_path):
    def faults(number, body):
        return 500 if "question 7" in body["messages"][-1]["content"] else None

    limits = Limits(max_attempts=3, clock=FastClock())
    with FakeOpenAIServer(faults=faults) as server:
        result = run(server, out=tmp_path / "run", limits=limits)
        assert result.statuses == {"ok": 19, "failed": 1}
        assert not result.complete
        assert str(result).startswith("INCOMPLETE: 1 rows failed, 0 not asked")
        assert result.requests == 22
        assert result.accuracy == sum(row.correct for row in result.rows) / 20
        assert not EvalResult.load(tmp_path / "run").complete
        server.faults = None
        again = run(server, out=tmp_path / "run", limits=limits)
        assert (again.requests, again.complete) == (1, True)
        assert again.usage.input_tokens == server.prompt_tokens
    with FakeOpenAIServer() as other:
        assert run(other, limits=limits).rows == again.rows


def test_the_second_run_sends_nothing_and_writes_the_same_bytes(tmp_path):
    with FakeOpenAIServer() as server:
        first = run(server, out=tmp_path / "run")
        before = results_bytes(tmp_path / "run")
        again = run(server, out=tmp_path / "run")
        assert (first.requests, again.requests, len(server.log)) == (20, 0, 20)
    assert results_bytes(tmp_path / "run") == before
    assert again.rows == first.rows == EvalResult.load(tmp_path / "run").rows
    assert again.usage == first.usage
    lines = [json.loads(line) for line in before.splitlines()]
    assert [line["id"] for line in lines] == list(range(20))
    assert set(lines[0]) == {
        "id", "gold", "status", "label", "correct", "answer", "demonstrations", "dropped",
        "input_tokens", "covered", "vote",
    }  # fmt: skip
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert summary["accuracy"] == first.accuracy
    assert summary["usage"]["input_tokens"] == server.prompt_tokens


def test_bytes_do_not_depend_on_the_order_of_completion_nor_on_faults(tmp_path):
    rng = np.random.default_rng(0)
    delays = rng.uniform(0, 0.03, 200)

    def slow(number, _):
        return Fault(status=500 if number % 5 == 0 else 200, delay_s=delays[number])

    limits = Limits(concurrency=12, clock=FastClock())
    with FakeOpenAIServer() as calm:
        run(calm, out=tmp_path / "calm", n_test=40, limits=Limits(concurrency=1))
        port = calm._port
    with FakeOpenAIServer(faults=slow, port=port) as wild:
        run(wild, out=tmp_path / "wild", n_test=40, limits=limits)
        assert wild.max_in_flight > 1
    assert results_bytes(tmp_path / "calm") == results_bytes(tmp_path / "wild")


def test_statuses_can_be_asked_again_on_request(tmp_path):
    with FakeOpenAIServer("empty") as server:
        assert run(server, out=tmp_path / "run").statuses == {"empty": 20}
        assert run(server, out=tmp_path / "run").requests == 0
        again = run(server, out=tmp_path / "run", limits=Limits(ask_again=("empty",)))
        assert again.requests == 20


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"k": 4}, r"selector\.k \(5 there, 4 here\)"),
        ({"output": "text"}, r"llm\.output"),
        ({"sampling": Sampling(seed=3)}, r"llm\.sampling\.seed"),
        ({"n_test": 19}, "queries"),
        ({"repeats": 2}, r"repeats \(1 there, 2 here\)"),
    ],
)
def test_another_config_is_refused_naming_the_fields(changes, field, tmp_path):
    from fungi_hf.errors import RunMismatchError

    with FakeOpenAIServer() as server:
        run(server, out=tmp_path / "run")
        before = (tmp_path / "run" / "run.json").read_bytes()
        with pytest.raises(RunMismatchError, match=field):
            run(server, out=tmp_path / "run", **changes)
        assert (tmp_path / "run" / "run.json").read_bytes() == before
        assert len(server.log) == 20


def test_a_journal_cut_in_the_middle_of_a_line_is_continued(tmp_path):
    with FakeOpenAIServer() as server:
        run(server, out=tmp_path / "whole")
        run(server, out=tmp_path / "cut")
        path = tmp_path / "cut" / "journal.jsonl"
        lines = path.read_bytes().splitlines(keepends=True)
        path.write_bytes(b"".join(lines[:12]) + lines[12][:50])
        (tmp_path / "cut" / "results.jsonl").unlink()
        partial = EvalResult.load(tmp_path / "cut")
        assert len(partial.rows) == 12
        assert not partial.complete
        assert str(partial).startswith("INCOMPLETE: 0 rows failed, 8 not asked")
        assert run(server, out=tmp_path / "cut").requests == 8
    assert results_bytes(tmp_path / "cut") == results_bytes(tmp_path / "whole")
    assert run_lines(path) == 20


def run_lines(path):
    count = 0
    for line in path.read_bytes().splitlines():
        try:
            json.loads(line)
            count += 1
        except json.JSONDecodeError:
            continue
    return count


@pytest.mark.parametrize(
    ("fault", "error"),
    [
        (Fault(status=429, code="insufficient_quota", message="no credit left"), LLMError),
        (Fault(status=401, message="key revoked"), LLMAuthError),
    ],
    ids=["quota", "401"],
)
def test_a_fatal_answer_stops_at_once_and_keeps_what_is_done(fault, error, tmp_path):
    def faults(number, _):
        return fault if number > 15 else None

    with FakeOpenAIServer(faults=faults, latency=0.01) as server:
        with pytest.raises(error, match=fault.message) as caught:
            run(server, n_test=60, out=tmp_path / "run", limits=Limits(concurrency=4))
        kept = len(caught.value.partial.rows)
        assert 15 - 3 <= kept <= 15  # up to three others were in flight
        assert f"{kept} rows are finished and kept in" in caught.value.__notes__[0]
        assert len(results_bytes(tmp_path / "run").splitlines()) == kept
        server.faults = None
        done = run(server, n_test=60, out=tmp_path / "run", limits=Limits(concurrency=4))
        assert (done.complete, done.requests) == (True, 60 - kept)
    assert len(server.log) <= 15 + 4 + done.requests


def test_answers_are_shared_between_runs_through_the_cache(tmp_path):
    cache = tmp_path / "answers.sqlite"
    with FakeOpenAIServer() as server:
        first = run(server, cache=cache, out=tmp_path / "a")
        again = run(server, cache=cache, out=tmp_path / "b")
        assert (first.requests, again.requests) == (20, 0)
        assert again.usage.total_tokens == 0
    assert results_bytes(tmp_path / "a") == results_bytes(tmp_path / "b")


def test_the_key_is_in_no_file_of_a_run(tmp_path):
    with FakeOpenAIServer(api_key=SECRET) as server:
        run(server, api_key=SECRET, out=tmp_path / "run", cache=tmp_path / "answers.sqlite")
    for path in tmp_path.rglob("*"):
        if path.is_file():
            data = path.read_bytes()
            assert SECRET.encode() not in data, path
            assert b"Bearer" not in data
            assert b"uthorization" not in data


def test_loading_what_is_no_run_is_an_error(tmp_path):
    from fungi_hf.errors import StorageError

    with pytest.raises(StorageError, match=r"there is no run in .* \(no run\.json\)"):
        EvalResult.load(tmp_path)
    (tmp_path / "run.json").write_text("[]")
    with pytest.raises(StorageError, match="does not hold a JSON object"):
        EvalResult.load(tmp_path)
    (tmp_path / "file").write_text("x")
    with FakeOpenAIServer() as server, pytest.raises(StorageError, match="cannot write to"):
        run(server, out=tmp_path / "file" / "run")


def test_rows_survive_json():
    row = RowResult(
        id="x", gold="a", status="ok", label="a", answer="é\ud83d", demonstrations=(3, 1),
        label_scores=(-0.1, -2.3000000000000003), repeat=2,
    )  # fmt: skip
    assert RowResult.from_dict(json.loads(json.dumps(row.to_dict()))) == row


def test_a_changed_byte_never_changes_a_result(tmp_path):
    """Whatever byte of a finished run is another one, its row is asked again or as it was."""
    with FakeOpenAIServer() as server:
        run(server, out=tmp_path / "run")
        wanted = results_bytes(tmp_path / "run")
        before = (tmp_path / "run" / "journal.jsonl").read_bytes()

        @settings(max_examples=25, deadline=None, database=None)
        @given(st.integers(0, len(before) - 1), st.integers(1, 255))
        def changed(place, change):
            folder = tmp_path / f"{place}-{change}"
            shutil.copytree(tmp_path / "run", folder, dirs_exist_ok=True)
            words = bytearray(before)
            words[place] ^= change
            (folder / "journal.jsonl").write_bytes(words)
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                assert run(server, out=folder).complete
            assert results_bytes(folder) == wanted

        changed()


def test_an_altered_row_is_said_and_asked_again(tmp_path):
    folder = tmp_path / "run"
    with FakeOpenAIServer() as server:
        run(server, out=folder)
        wanted, path = results_bytes(folder), folder / "journal.jsonl"
        lines = path.read_bytes().splitlines(keepends=True)
        row = json.loads(lines[3])
        label = row["result"]["label"]
        lines[3] = lines[3].replace(f'"{label}"'.encode(), f'"{label[::-1]}"'.encode())
        path.write_bytes(b"".join(lines))
        with pytest.warns(UserWarning, match=r"1 lines of .* are not as they were written"):
            assert run(server, out=folder).requests == 1
    assert results_bytes(folder) == wanted
