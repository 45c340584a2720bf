"""The icl commands with --answers text: files in, scores out, and options that do not fit."""

from __future__ import annotations

import json

import pytest

from fungi_hf.cli import main
from fungi_hf.icl.results import EvalResult
from fungi_hf.icl.server.fake_server import FakeOpenAIServer
from tests.icl.chat_kit import NAMES, task
from tests.icl.evaluate_kit import results_bytes
from tests.icl.kill_program import as_texts
from tests.icl.test_batch import answered


@pytest.fixture
def files(tmp_path):
    for name, examples in zip(("train", "test"), map(as_texts, task(n_test=12)), strict=True):
        rows = zip(examples.contents, examples.targets, strict=True)
        lines = [json.dumps({"question": text, "answers": target}) for text, target in rows]
        (tmp_path / f"{name}.jsonl").write_text("\n".join(lines))
    (tmp_path / "labels.json").write_text(json.dumps(NAMES))
    return tmp_path


def words(files, command, *more):
    return [
        *("icl", command, *more, f"--train={files / 'train.jsonl'}"),
        *(f"--test={files / 'test.jsonl'}", "--column=question", "--label=answers"),
        *("--strategy=bm25", "--k=3"),
    ]


def free(files, command, *more):
    return words(files, command, *more, "--answers=text")


def test_runs_controls_and_comparisons(files, capsys):
    scores = {}
    for control in ("", "none", "random", "permuted"):
        out = files / f"run-{control}"
        more = [f"--control={control}"] if control else []
        command = free(files, "run", *more, "--metric=f1", "--fake=nearest", f"--out={out}")
        assert main(command) == 0
        scores[control] = EvalResult.load(out).score
        assert capsys.readouterr().out.startswith(f"f1              {scores[control]:.4f}")
    assert scores[""] == 1
    assert scores["none"] == 0
    assert max(scores["random"], scores["permuted"]) < 0.7
    assert main(["icl", "compare", str(files / "run-"), str(files / "run-random")]) == 0
    graded = capsys.readouterr().out
    assert "f1          1.0000 against" in graded
    assert "two-sided" in graded
    folders = [str(files / "run-"), str(files / "run-random")]
    assert main(["icl", "compare", *folders, "--metric=exact"]) == 0
    exact = capsys.readouterr().out
    assert "exact       1.0000 against" in exact
    assert "McNemar     p = " in exact


def test_dry_run_and_preview(files, capsys):
    assert main(free(files, "dry-run")) == 0
    assert "requests        12\n" in capsys.readouterr().out
    assert main(free(files, "preview", "--style=block")) == 0
    out = capsys.readouterr().out
    assert "\nAnswer: the card arrival\n" in out
    assert "Label" not in out


def test_batch_files_give_the_results_of_a_live_run(files, capsys):
    batch, answers = files / "batch.jsonl", files / "answers.jsonl"
    with FakeOpenAIServer("nearest") as server:
        url = f"--base-url={server.url}"
        assert main(free(files, "run", url, f"--out={files / 'live'}")) == 0
        exported = free(files, "export-batch", str(batch), url, f"--out={files / 'run'}")
        assert main(exported) == 0
        answers.write_text(answered(batch, server.url))
        imported = free(files, "import-batch", str(answers), url, f"--out={files / 'run'}")
        assert main(imported) == 0
    assert "normalised      1.0000" in capsys.readouterr().out
    assert results_bytes(files / "run") == results_bytes(files / "live")


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--answers=text", "--labels=LABELS"], "--answers text does not go with --labels"),
        (["--answers=text", "--output=enum"], "does not go with --output enum"),
        (["--answers=text", "--top-logprobs=5"], "does not go with --top-logprobs"),
        (["--answers=text", "--repair=1", "--fake=first_label"], "--repair, --fake first_label"),
        (["--labels=LABELS", "--metric=f1"], "--metric f1 scores texts; it needs --answers text"),
        ([], "--labels is missing; tasks without labels take --answers text"),
        (["--labels=LABELS"], "are accepted texts, and a label is an id or a name"),
    ],
)
def test_options_that_do_not_fit(more, message, files, capsys):
    more = [word.replace("LABELS", str(files / "labels.json")) for word in more]
    assert main(words(files, "dry-run", *more)) != 0
    assert message in capsys.readouterr().err


def test_another_metric_is_another_run(files, capsys):
    shared = free(files, "run", "--fake=nearest", f"--out={files / 'run'}")
    assert main(shared) == 0
    assert main([*shared, "--metric=f1"]) != 0
    assert 'metric ("normalised" there, "f1" here)' in capsys.readouterr().err
