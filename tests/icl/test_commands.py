"""The icl commands: files in, tables and run folders out."""

from __future__ import annotations

import argparse
import contextlib
import json

import numpy as np
import pytest
from safetensors.numpy import save_file

from fungi_hf.cli import icl as commands
from fungi_hf.errors import ConfigError, FeatureError, FungiError, InputError, StorageError
from fungi_hf.icl.limits import Limits
from fungi_hf.icl.run import EvalResult
from fungi_hf.icl.server.fake_server import FakeOpenAIServer, Fault
from fungi_hf.icl.sources import Vectors, load_examples, load_labels, load_vectors
from tests.icl.chat_kit import NAMES, task


@pytest.fixture
def files(tmp_path):
    """Train and test as .jsonl, vectors as .safetensors with two blocks, labels as .json."""
    rng = np.random.default_rng(0)
    (tmp_path / "labels.json").write_text(json.dumps(NAMES))
    for name, examples in zip(("train", "test"), task(n_test=12), strict=True):
        lines = [
            json.dumps({"text": text, "label": label, "id": f"{name}{i}"})
            for i, (text, label) in enumerate(zip(examples.contents, examples.targets, strict=True))
        ]
        (tmp_path / f"{name}.jsonl").write_text("\n".join(lines))
        classes = np.eye(4)[list(examples.targets)]
        vectors = np.hstack([rng.normal(size=(len(lines), 3)), classes]).astype("float32")
        header = {
            "layout": json.dumps({"embedding": [0, 3], "kl": [3, 7]}),
            "fingerprint": "abc",
            "factors": "{}",
        }
        save_file({"features": vectors}, tmp_path / f"{name}.safetensors", metadata=header)
    return tmp_path


def arguments(files, command, *more, strategy="bm25"):
    paths = [f"--{name}={files / name}.jsonl" for name in ("train", "test")]
    labels = f"--labels={files / 'labels.json'}"
    return ["icl", command, *paths, labels, f"--strategy={strategy}", "--k=5", *map(str, more)]


def parsed(*words):
    parser = argparse.ArgumentParser()
    commands.add_parsers(parser.add_subparsers())
    return parser.parse_args([*words])


def call(*words):
    options = parsed(*words)
    return options.run(options) or 0


def test_a_run_prints_totals_and_leaves_its_folder(files, capsys):
    status = call(*arguments(files, "run", "--fake=majority", f"--out={files / 'run'}"))
    out, err = capsys.readouterr()
    assert status == 0
    result = EvalResult.load(files / "run")
    assert out.startswith(f"accuracy        {result.accuracy:.4f}")
    assert "12/12" in err
    assert "failed=0" in err
    assert f"tokens={result.usage.total_tokens}" in err
    assert "row/s" in err
    assert result.rows[0].id == "test0"
    lines = (files / "run" / "results.jsonl").read_text().splitlines()
    assert len(lines) == 12
    assert json.loads((files / "run" / "summary.json").read_text())["rows"] == 12


def test_the_same_command_continues(files, capsys):
    def faults(number, _):
        return Fault(status=429, code="insufficient_quota") if number > 7 else None

    with FakeOpenAIServer(faults=faults) as server:
        command = arguments(
            files, "run", f"--base-url={server.url}", f"--out={files / 'run'}", "--concurrency=1"
        )
        assert call(*command) == 1
        out, err = capsys.readouterr()
        assert out == ""
        assert "stopped: the server answered 429: planned failure (insufficient_quota)" in err
        assert "7 rows are finished and kept in" in err
        server.faults = None
        assert call(*command) == 0
        assert "12/12" in capsys.readouterr().err
        assert len(server.log) == 8 + 5
        assert call(*command) == 0
        assert len(server.log) == 13


def test_failed_rows_give_status_1(files, capsys):
    with FakeOpenAIServer(faults=lambda *_: 500) as server:
        command = arguments(files, "run", f"--base-url={server.url}", "--max-attempts=1")
        assert call(*command, "--stop-after=none") == 1
        out, err = capsys.readouterr()
        assert out.startswith("INCOMPLETE: 12 rows failed")
        assert "failed=12" in err
        assert call(*command) == 1
    assert "the last 10 rows failed alike, so the run stops" in capsys.readouterr().err


def test_a_dry_run_prints_what_would_be_sent(files, capsys, monkeypatch):
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    assert call(*arguments(files, "dry-run")) == 0
    out = capsys.readouterr().out
    assert "requests        12\n" in out
    assert "(estimated)" in out
    assert "coverage        " in out


def test_a_preview_shows_the_prompt_and_what_was_dropped(files, capsys):
    assert call(*arguments(files, "preview", "--row=3", "--max-input-tokens=120")) == 0
    out = capsys.readouterr().out
    assert "[user]\nlost stolen gone question 3\n" in out
    assert '{"label": "lost card"}' in out
    assert "dropped: " in out
    assert "budget 120" in out
    with pytest.raises(InputError, match="row is 12; the queries have rows 0 to 11"):
        call(*arguments(files, "preview", "--row=12"))


def features(files):
    return [f"--{n}-features={files / n}.safetensors" for n in ("train", "test")]


def test_two_runs_are_compared(files, capsys):
    shared = [*features(files), "--fake=majority"]
    for name, blocks in (("fungi", ["embedding", "kl"]), ("plain", ["embedding"])):
        words = arguments(
            files, "run", *shared, f"--out={files / name}", "--blocks", *blocks, strategy="knn"
        )
        assert call(*words) == 0
    capsys.readouterr()
    assert call("icl", "compare", str(files / "fungi"), str(files / "plain")) == 0
    out = capsys.readouterr().out
    fungi, plain = (EvalResult.load(files / name) for name in ("fungi", "plain"))
    assert fungi.accuracy > plain.accuracy
    assert f"accuracy    {fungi.accuracy:.4f} against {plain.accuracy:.4f}" in out
    assert "McNemar" in out
    for name in ("fungi", "plain"):
        recorded = json.loads((files / name / "run.json").read_text())["config"]["selector"]
        assert (
            recorded["fingerprint"] == f"abc:{'embedding+kl' if name == 'fungi' else 'embedding'}"
        )


def run(files, *more, fake="majority", out="run"):
    words = arguments(files, "run", f"--fake={fake}", f"--out={files / out}", *more)
    assert call(*words) == 0
    return EvalResult.load(files / out)


def parts(files, *more):
    return commands.read_parts(parsed(*arguments(files, "run", *more)))


def test_controls_show_what_they_say(files):
    none = run(files, "--control=none", fake="first_label")
    assert {row.demonstrations for row in none.rows} == {()}


def test_random_and_permuted_controls(files):
    chance = run(files, "--control=random", *features(files))
    drawn, _, _ = parts(files, "--control=random", *features(files))
    assert drawn.pool.features is None, "similarity would order the random rows"
    assert chance.config["selector"]["strategy"] == "random"
    permuted = run(files, "--control=permuted", out="permuted")
    selector, _, _ = parts(files, "--control=permuted", *features(files))
    plain, _, _ = parts(files, *features(files))
    assert sorted(selector.pool.targets) == sorted(plain.pool.targets)
    assert selector.pool.targets != plain.pool.targets
    assert selector.pool.fingerprint == plain.pool.fingerprint == "abc"
    assert permuted.agreement == 1.0


def test_the_limit_takes_the_first_queries(files, capsys):
    assert [row.id for row in run(files, "--limit=3").rows] == ["test0", "test1", "test2"]
    with pytest.raises(ConfigError, match="--limit must be an integer >= 1; got 0"):
        parts(files, "--limit=0")
    with pytest.raises(SystemExit, match="2"):
        parts(files, "--control=permute")
    assert "invalid choice: 'permute' (choose from" in capsys.readouterr().err


def test_an_interruption_says_where_the_rows_are(files, monkeypatch, capsys):
    def interrupt(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(commands, "run_here", interrupt)
    words = arguments(files, "run", "--fake=majority", f"--out={files / 'run'}")
    assert call(*words) == 130
    assert f"interrupted; finished rows are in {files / 'run'}" in capsys.readouterr().err


class TestSources:
    def test_every_kind_of_file_gives_the_same_examples(self, files):
        import pyarrow as pa
        import pyarrow.parquet as pq

        train, _ = task()
        table = {"text": list(train.contents), "label": list(train.targets)}
        pq.write_table(pa.table(table), files / "train.parquet")
        vectors = np.arange(80.0).reshape(40, 2)
        np.savez(
            files / "train.npz", contents=np.array(train.contents), targets=train.targets,
            features=vectors, fingerprint="f",
        )  # fmt: skip
        np.save(files / "vectors.npy", vectors)
        a = load_examples(files / "train.parquet", files / "vectors.npy")
        b = load_examples(files / "train.npz")
        c = load_examples(files / "train.jsonl")
        quoted = (f'"{text}",{label}' for text, label in zip(*table.values(), strict=True))
        (files / "train.csv").write_text("\n".join(["text,label", *quoted]))
        d = load_examples(files / "train.csv")  # whose labels are texts
        assert d.contents == train.contents
        assert d.targets == tuple(map(str, train.targets))
        assert a.contents == b.contents == c.contents == train.contents
        assert a.targets == b.targets == c.targets == train.targets
        assert np.array_equal(a.features, b.features)
        assert (a.fingerprint, b.fingerprint, c.ids[1]) == (None, "f", "train1")

    def test_blocks_are_columns_by_name(self, files):
        whole = load_vectors(files / "train.safetensors")
        part = load_vectors(files / "train.safetensors", ["kl", "embedding"])
        assert isinstance(whole, Vectors)
        assert np.array_equal(part.array[:, :4], whole.array[:, 3:])
        assert (whole.fingerprint, part.fingerprint) == ("abc", "abc:kl+embedding")
        with pytest.raises(FeatureError, match="'kll'; choose one of 'kl', 'embedding'"):
            load_vectors(files / "train.safetensors", ["kll"])

    def test_features_written_by_the_package_are_read(self, tmp_path):
        from fungi_hf.features import FungiFeatures

        made = FungiFeatures(
            array=np.ones((2, 3), "float32"), layout={"kl": slice(0, 3)}, fingerprint="x"
        )
        made.save(tmp_path / "f.safetensors")
        read = load_vectors(tmp_path / "f.safetensors")
        assert (read.fingerprint, read.array.tolist()) == ("x", made.array.tolist())

    def test_what_cannot_be_read_says_why(self, files):
        (files / "bad.jsonl").write_text('{"text": "x"}\n{')
        (files / "list.jsonl").write_text("[1]")
        (files / "x.csv").write_text("")
        (files / "x.xls").write_text("")
        (files / "bad.safetensors").write_text("no")
        (files / "bad.parquet").write_text("no")
        (files / "name.json").write_text('{"a": 1}')
        np.savez(files / "odd.npz", texts=np.array(["x"]))
        np.savez(files / "pickled.npz", contents=np.array(["x", None], dtype=object))
        np.save(files / "x.npy", np.ones((2, 2)))
        cases = [
            (lambda: load_examples(files / "no.jsonl"), StorageError, "there is no file"),
            (lambda: load_examples(files / "x.xls"), InputError, "'.xls'; choose one of '.csv'"),
            (lambda: load_examples(files / "bad.jsonl"), StorageError, "line 2 is not JSON"),
            (lambda: load_examples(files / "list.jsonl"), StorageError, "line 1 is not an object"),
            (lambda: load_examples(files / "bad.parquet"), StorageError, "is not a Parquet file"),
            (lambda: load_examples(files / "odd.npz"), StorageError, "unknown arrays: texts"),
            (lambda: load_examples(files / "pickled.npz"), StorageError, "cannot be read"),
            (lambda: load_vectors(files / "bad.safetensors"), StorageError, "not a feature file"),
            (lambda: load_vectors(files / "x.npy", ["kl"]), FeatureError, "has no layout"),
            (lambda: load_vectors(files / "x.csv"), InputError, "'.csv'; choose one of '.npy'"),
            (lambda: load_vectors(files / "gone.npy"), StorageError, "there is no feature file"),
            (lambda: load_labels(files / "name.json"), StorageError, "not hold a JSON list"),
        ]
        for read, kind, message in cases:
            with pytest.raises(kind, match=message) as caught:
                read()
            assert isinstance(caught.value, FungiError)


def test_every_option_reaches_its_place(files):
    words = arguments(
        files, "run", "--max-per-class=2", "--order=alternate", "--seed=3", "--repeats=2",
        "--style=block", "--instruction=x", "--max-input-tokens=99", "--model=m",
        "--base-url=http://h/v1", "--output=text", "--concurrency=2", "--rpm=3", "--tpm=4000",
        "--max-attempts=5", "--timeout=6", "--repair=1", "--max-output-tokens=8",
        "--token-param=max_tokens", "--temperature=none", f"--cache={files / 'c'}", "--limit=4",
    )  # fmt: skip
    options = parsed(*words)
    with contextlib.closing(commands.chat_of(options)) as llm:
        assert llm.limits == Limits(
            concurrency=2, rpm=3, tpm=4000, max_attempts=5, timeout=6.0, repair=1
        )
        assert llm.sampling.fields() == {"max_tokens": 8}
        assert (llm.model, llm.base_url, llm.output) == ("m", "http://h/v1", "text")
        assert llm.cache.path == files / "c"
    selector, builder, queries = commands.read_parts(options)
    assert (selector.strategy.name, selector.k, selector.max_per_class) == ("bm25", 5, 2)
    assert (selector.order, selector.seed, options.repeats) == ("alternate", 3, 2)
    assert (builder.style, builder.instruction, builder.max_input_tokens) == ("block", "x", 99)
    assert len(queries) == 4
