"""Batch files: written out, answered elsewhere, read back; the run is that of a live one."""

from __future__ import annotations

import json
import random
import urllib.request

import pytest

from fungi_hf.cli import main
from fungi_hf.errors import InputError
from fungi_hf.icl.batch import AnsweredLLM, read_batch, write_batch
from fungi_hf.icl.plan import make_plan
from fungi_hf.icl.run import Run, run_here
from fungi_hf.icl.server.fake_server import FakeOpenAIServer
from tests.icl.chat_kit import NAMES, chat, task
from tests.icl.evaluate_kit import setup


@pytest.fixture
def files(tmp_path):
    """Files of a run with repeated queries, whose requests are equal."""
    train, test = task(n_test=12)
    for name, examples in (("train", train), ("test", test)):
        rows = zip(examples.contents, examples.targets, strict=True)
        lines = [json.dumps({"text": text, "label": NAMES[label]}) for text, label in rows]
        lines += lines[:3] if name == "test" else []
        (tmp_path / f"{name}.jsonl").write_text("\n".join(lines))
    (tmp_path / "labels.json").write_text(json.dumps(NAMES))
    return tmp_path


def words(files, command, url, *more):
    return [
        *("icl", command, *more, "--train", str(files / "train.jsonl")),
        *("--test", str(files / "test.jsonl"), "--labels", str(files / "labels.json")),
        *("--strategy", "bm25", "--k", "4", "--base-url", url, "--model", "fake"),
        *("--concurrency", "1"),
    ]


def answered(path, url, *, fail=()):
    """What a provider gives back: the answers, in another order."""
    lines = []
    for number, line in enumerate(path.read_text().splitlines()):
        asked = json.loads(line)
        assert (asked["method"], asked["url"]) == ("POST", "/v1/chat/completions")
        if number in fail:
            response = {"status_code": 500, "body": {"error": {"message": "lost"}}}
        else:
            data = json.dumps(asked["body"]).encode()
            with urllib.request.urlopen(f"{url}/chat/completions", data) as sent:  # noqa: S310
                response = {"status_code": 200, "body": json.load(sent)}
        answer = {"id": "x", "custom_id": asked["custom_id"], "response": response, "error": None}
        lines.append(json.dumps(answer))
    random.Random(0).shuffle(lines)
    return "\n".join(lines) + "\n"


def totals(folder):
    summary = json.loads((folder / "summary.json").read_text())
    return {name: value for name, value in summary.items() if name != "written"}


def test_a_batch_gives_the_bytes_of_a_live_run(files, capsys):
    batch, answers = files / "batch.jsonl", files / "answers.jsonl"
    with FakeOpenAIServer("majority") as server:
        url = server.url
        once = ["--cache", str(files / "answers.sqlite")]  # equal requests are sent once
        assert main(words(files, "run", url, "--out", str(files / "live"), *once)) == 0
        assert main(words(files, "export-batch", url, str(batch))) == 0
        assert "12 requests in" in capsys.readouterr().err  # 15 rows, three of them equal
        answers.write_text(answered(batch, url))
    command = words(files, "import-batch", url, str(answers), "--out", str(files / "batch"))
    assert main(command) == 0
    live, own = (files / name / "results.jsonl" for name in ("live", "batch"))
    assert live.read_bytes() == own.read_bytes()
    assert totals(files / "live") == totals(files / "batch")
    assert "accuracy" in capsys.readouterr().out


def test_rows_without_an_answer_are_exported_again(files, capsys):
    batch, answers = files / "batch.jsonl", files / "answers.jsonl"
    with FakeOpenAIServer("majority") as server:
        url = server.url
        assert main(words(files, "export-batch", url, str(batch))) == 0
        lines = answered(batch, url, fail=(0, 4)).splitlines()
        answers.write_text("\n".join(lines[:-1]))
        out = ["--out", str(files / "run")]
        assert main(words(files, "import-batch", url, str(answers), *out)) == 1
        assert "INCOMPLETE" in capsys.readouterr().out
        assert main(words(files, "export-batch", url, str(batch), *out)) == 0
        rest = batch.read_text().splitlines()
        assert 2 <= len(rest) <= 3
        more = files / "more.jsonl"
        more.write_text(answered(batch, url))
        assert main(words(files, "import-batch", url, str(answers), str(more), *out)) == 0
        assert main(words(files, "run", url, "--out", str(files / "live"))) == 0
    live, whole = files / "live" / "results.jsonl", files / "run" / "results.jsonl"
    assert live.read_bytes() == whole.read_bytes()


def test_the_provider_s_file_of_errors_is_read_too(tmp_path):
    selector, builder, queries = setup(n_test=3)
    with FakeOpenAIServer() as server:
        llm = chat(server)
        plan = make_plan(selector, builder, llm, queries)
        assert write_batch(tmp_path / "b.jsonl", llm, plan.prompts, plan.labels) == 3
    keys = [
        json.loads(line)["custom_id"] for line in (tmp_path / "b.jsonl").read_text().splitlines()
    ]
    assert all(len(key) == 64 for key in keys)
    errors = [{"custom_id": key, "response": None, "error": {"message": "expired"}} for key in keys]
    (tmp_path / "e.jsonl").write_text("\n".join(map(json.dumps, errors)))
    answers = AnsweredLLM(llm, read_batch([tmp_path / "e.jsonl"]))
    result = run_here(Run(make_plan(selector, builder, answers, queries)))
    assert result.statuses == {"failed": 3}


def test_other_files_are_no_answers(tmp_path):
    (tmp_path / "a.jsonl").write_text('{"text": "x"}\n')
    with pytest.raises(InputError, match="row 0 has no custom_id"):
        read_batch([tmp_path / "a.jsonl"])
