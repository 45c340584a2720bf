"""The icl commands: files in, tables and run folders out."""

from __future__ import annotations

import argparse
import io
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


def call(*words):
    parser = argparse.ArgumentParser()
    commands.add_parser(parser.add_subparsers())
    space = parser.parse_args([*words])
    return space.run(space)


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
        server._faults = None
        assert call(*command) == 0
        assert "12/12" in capsys.readouterr().err
        assert len(server.log) == 8 + 5
        assert call(*command) == 0
        assert len(server.log) == 13


def test_failed_rows_give_status_1(files, capsys):
    with FakeOpenAIServer(faults=lambda *_: 500) as server:
        command = arguments(files, "run", f"--base-url={server.url}", "--max-attempts=1")
        assert call(*command) == 1
    out, err = capsys.readouterr()
    assert out.startswith("INCOMPLETE: 12 rows failed")
    assert "failed=12" in err


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


def options(files, **changes):
    return commands.Options(
        **{
            "train": files / "train.jsonl", "test": files / "test.jsonl",
            "labels": files / "labels.json", "strategy": "bm25", "k": 5,
            "fake": "majority", "out": files / "run", **changes,
        }
    )  # fmt: skip


def run(files, **changes):
    out, err = io.StringIO(), io.StringIO()
    assert commands.run(options(files, **changes), out, err) == 0
    return EvalResult.load(files / "run")


def test_controls_show_what_they_say(files):
    none = run(files, control="none", out=files / "run", fake="first_label")
    assert {row.demonstrations for row in none.rows} == {()}


def test_random_and_permuted_controls(files):
    vectors = {f"{n}_features": files / f"{n}.safetensors" for n in ("train", "test")}
    chance = run(files, control="random", out=files / "run", **vectors)
    drawn, _, _ = commands.prepare(options(files, control="random", **vectors))
    assert drawn.pool.features is None, "similarity would order the random rows"
    assert chance.config["selector"]["strategy"] == "random"
    other = {**vars_of(files), "out": files / "permuted", "control": "permuted"}
    assert commands.run(commands.Options(**other), io.StringIO(), io.StringIO()) == 0
    permuted = EvalResult.load(files / "permuted")
    selector, _, _ = commands.prepare(options(files, control="permuted"))
    plain, _, _ = commands.prepare(options(files))
    assert sorted(selector.pool.targets) == sorted(plain.pool.targets)
    assert selector.pool.targets != plain.pool.targets
    assert permuted.agreement == 1.0


def vars_of(files):
    made = options(files)
    return {name: getattr(made, name) for name in made.__dataclass_fields__}


def test_the_limit_takes_the_first_queries(files):
    assert [row.id for row in run(files, limit=3).rows] == ["test0", "test1", "test2"]
    with pytest.raises(ConfigError, match="limit must be at least 1, got 0"):
        commands.prepare(options(files, limit=0))
    with pytest.raises(ConfigError, match="'permute'; choose one of 'permuted'"):
        commands.prepare(options(files, control="permute"))


def test_an_interruption_says_where_the_rows_are(files, monkeypatch):
    def interrupt(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(commands, "run_here", interrupt)
    err = io.StringIO()
    assert commands.run(options(files), io.StringIO(), err) == 130
    assert f"interrupted; finished rows are in {files / 'run'}" in err.getvalue()


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
    from fungi_hf.cli.icl_arguments import options_of

    parser = argparse.ArgumentParser()
    commands.add_parser(parser.add_subparsers())
    words = arguments(
        files, "run", "--max-per-class=2", "--order=alternate", "--seed=3", "--repeats=2",
        "--style=block", "--instruction=x", "--max-input-tokens=99", "--model=m",
        "--base-url=http://h/v1", "--output=text", "--concurrency=2", "--rpm=3", "--tpm=4000",
        "--max-attempts=5", "--timeout=6", "--repair=1", "--max-output-tokens=8",
        "--token-param=max_tokens", "--temperature=none", f"--cache={files / 'c'}", "--limit=4",
    )  # fmt: skip
    made = options_of(parser.parse_args(words))
    assert made.limits == Limits(
        concurrency=2, rpm=3, tpm=4000, max_attempts=5, timeout=6.0, repair=1
    )
    assert made.sampling.fields() == {"max_tokens": 8}
    plain = (made.max_per_class, made.order, made.seed, made.repeats, made.style, made.output)
    assert plain == (2, "alternate", 3, 2, "block", "text")
    assert (made.model, made.base_url, made.limit, made.k) == ("m", "http://h/v1", 4, 5)
