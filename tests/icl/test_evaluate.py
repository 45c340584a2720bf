"""evaluate: honest rows and totals, whatever the server does."""

from __future__ import annotations

import asyncio
import json
import socket
import subprocess
import sys
import warnings

import numpy as np
import pytest

from fungi_hf.errors import (
    ConfigError,
    InputError,
    InputTypeError,
    LabelError,
    LLMAuthError,
    LLMError,
    PromptOverflowError,
)
from fungi_hf.icl import (
    ChatLLM,
    DemoSelector,
    Examples,
    FakeOpenAIServer,
    LabelSpace,
    PromptBuilder,
    compare,
    evaluate,
)
from fungi_hf.icl.audio import AudioClip
from fungi_hf.icl.evaluate import EvalResult, Evaluation, aevaluate, run_here
from fungi_hf.icl.fake_server import Fault
from fungi_hf.icl.llm import Limits, Reply, RequestFailedError, Sampling
from fungi_hf.icl.policies import FakeReply
from fungi_hf.icl.results import RowResult
from tests.icl.chat_kit import LABELS, NAMES, FastClock, task

SECRET = "sk-very-secret-0123456789"


def words(text):
    return len(text.split())


def setup(n_test=20, k=5, strategy="bm25", **settings):
    train, test = task(n_test=n_test)
    selector = DemoSelector(strategy, k=k).fit(train)
    return selector, PromptBuilder(LABELS, **settings), test


def run(server, n_test=20, out=None, k=5, repeats=1, **settings):
    selector, builder, test = setup(n_test, k)
    return evaluate(
        selector, builder, ChatLLM("fake", base_url=server.url, **settings), test,
        out=out, repeats=repeats,
    )  # fmt: skip


def results_bytes(folder):
    return (folder / "results.jsonl").read_bytes()


@pytest.mark.parametrize("style", ["multiturn", "block", "completion"])
@pytest.mark.parametrize("output", ["text", "enum", "json"])
def test_the_servers_votes_are_the_votes_of_the_demonstrations(style, output):
    selector, builder, test = setup(style=style)
    votes = selector.select(test).vote("majority").tolist()
    with FakeOpenAIServer("majority") as server:
        llm = ChatLLM("fake", base_url=server.url, output=output)
        result = evaluate(selector, builder, llm, test)
    assert [NAMES.index(row.label) for row in result.rows] == votes
    assert [NAMES.index(row.vote) for row in result.rows] == votes
    assert result.agreement == 1.0
    assert result.accuracy == result.vote_accuracy == np.mean(np.array(votes) == test.targets)


@pytest.mark.parametrize(
    ("policy", "status"),
    [("invalid", "invalid"), ("empty", "empty"), ("refusal", "refused"), ("length", "length")],
)
def test_rows_without_a_label_are_wrong_and_counted_apart(policy, status, tmp_path):
    with FakeOpenAIServer(policy) as server:
        result = run(server, output="text", cache=tmp_path / "answers.sqlite")
        assert result.statuses == {status: 20}
        assert result.accuracy == 0.0
        assert np.isnan(result.accuracy_answered)
        assert {row.label for row in result.rows} == {None}
        assert result.complete
        assert result.usage.input_tokens == server.prompt_tokens
        # nothing of it counts as an answer: it is all asked again
        assert run(server, output="text", cache=tmp_path / "answers.sqlite").requests == 20


def test_an_ambiguous_answer_is_no_answer():
    with FakeOpenAIServer(lambda _: "either top up or lost card") as server:
        assert run(server, output="text").statuses == {"ambiguous": 20}


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
        server._faults = None
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
    ("settings", "field"),
    [
        ({"k": 4}, r"selector\.k \(5 there, 4 here\)"),
        ({"output": "text"}, r"llm\.output"),
        ({"sampling": Sampling(seed=3)}, r"llm\.sampling\.seed"),
        ({"n_test": 19}, "queries"),
        ({"repeats": 2}, r"repeats \(1 there, 2 here\)"),
    ],
)
def test_another_config_is_refused_naming_the_fields(settings, field, tmp_path):
    from fungi_hf.errors import RunMismatchError

    with FakeOpenAIServer() as server:
        run(server, out=tmp_path / "run")
        before = (tmp_path / "run" / "run.json").read_bytes()
        with pytest.raises(RunMismatchError, match=field):
            run(server, out=tmp_path / "run", **settings)
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
        server._faults = None
        done = run(server, n_test=60, out=tmp_path / "run", limits=Limits(concurrency=4))
        assert (done.complete, done.requests) == (True, 60 - kept)
    assert len(server.log) <= 15 + 4 + done.requests


def test_without_a_folder_the_error_carries_the_rows():
    def faults(number, _):
        return 404 if number > 5 else None

    with FakeOpenAIServer(faults=faults) as server:
        with pytest.raises(LLMError, match="404") as caught:
            run(server, limits=Limits(concurrency=1))
        assert len(caught.value.partial.rows) == 5
        assert not caught.value.partial.complete


def test_totals_equal_the_servers_log_under_faults_and_repair():
    def policy(body):
        asked = body["messages"][-1]["content"]
        return "sideways" if "question 3" in asked else "top up"

    def faults(number, _):
        return (None, None, 429, None, Fault(malformed=True), None, Fault(status=0))[number % 7]

    limits = Limits(repair=1, max_attempts=30, clock=FastClock())
    with FakeOpenAIServer(policy, faults=faults, count_tokens=words) as server:
        result = run(server, n_test=50, output="text", limits=limits)
        assert result.complete
        assert result.usage.input_tokens == server.prompt_tokens
        assert result.usage.output_tokens == server.completion_tokens
        assert result.requests == len(server.log)


def test_cached_input_tokens_are_reported():
    with FakeOpenAIServer(lambda _: FakeReply(content="top up", cached_tokens=7)) as server:
        assert run(server, output="text").usage.cached_input_tokens == 140


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


def test_it_works_inside_a_running_loop_and_as_a_coroutine():
    async def inside(server):
        selector, builder, test = setup()
        llm = ChatLLM("fake", base_url=server.url)
        own_thread = evaluate(selector, builder, llm, test)
        return own_thread, await aevaluate(selector, builder, llm, test)

    with FakeOpenAIServer() as server:
        a, b = asyncio.run(inside(server))
    assert a.rows == b.rows
    assert len(a.rows) == 20


class TenLines:
    name = "ten lines"

    async def answer(self, prompt, labels):
        shown = [m["content"] for m in prompt.messages if m["role"] == "assistant"]
        if "question 3" in prompt.messages[-1]["content"]:
            raise RequestFailedError("no answer", 2)
        return Reply(content=shown[-1])


def test_anything_with_an_answer_method_is_a_model():
    result = evaluate(*setup()[:2], TenLines(), setup()[2])
    assert result.statuses == {"ok": 19, "failed": 1}
    assert result.accuracy > 0.5


def test_no_demonstrations_is_a_control_of_its_own():
    _, builder, test = setup()
    with FakeOpenAIServer("first_label") as server:
        result = evaluate(None, builder, ChatLLM("fake", base_url=server.url), test)
    assert {row.label for row in result.rows} == {NAMES[0]}
    assert {row.demonstrations for row in result.rows} == {()}
    assert (result.coverage, result.agreement, result.mean_kept) == (0.0, 0.0, 0.0)


def test_every_total_is_the_count_done_by_hand():
    train = Examples(contents=["aa x", "aa y", "bb x", "bb y"], targets=[0, 0, 1, 1])
    test = Examples(
        contents=["aa q", "bb q", "aa r", "bb r"], targets=[0, 1, 1, 2], ids=list("abcd")
    )
    selector = DemoSelector("bm25", k=2).fit(train)
    with FakeOpenAIServer(["card arrival", "nonsense", "top up", "top up"]) as server:
        llm = ChatLLM("fake", base_url=server.url, output="text", limits=Limits(concurrency=1))
        with pytest.warns(UserWarning, match="1 queries have a gold label .* 'exchange rate'"):
            result = evaluate(selector, PromptBuilder(LABELS), llm, test)
    assert [row.id for row in result.rows] == ["a", "b", "c", "d"]
    assert [row.status for row in result.rows] == ["ok", "invalid", "ok", "ok"]
    assert [row.correct for row in result.rows] == [True, False, True, False]
    assert (result.accuracy, result.accuracy_answered) == (0.5, 2 / 3)
    assert [row.covered for row in result.rows] == [True, True, False, False]
    assert (result.coverage, result.accuracy_covered, result.accuracy_uncovered) == (0.5, 0.5, 0.5)
    assert [row.vote for row in result.rows] == [NAMES[0], NAMES[1], NAMES[0], NAMES[1]]
    assert (result.vote_accuracy, result.agreement) == (0.5, 0.5)
    assert result.per_label == {
        "card arrival": (1.0, 1), "top up": (0.5, 2), "exchange rate": (0.0, 1),
    }  # fmt: skip
    assert result.macro_accuracy == 0.5
    assert (result.unreachable, result.mean_kept) == (1, 2.0)
    assert "INCOMPLETE" not in str(result)


def test_the_interval_is_wilsons():
    rows = tuple(
        RowResult(id=i, gold="a", status="ok", label="a" if i < 2772 else "b") for i in range(3080)
    )
    result = EvalResult(all_rows=rows, n_rows=3080)
    assert result.interval == pytest.approx((0.8889, 0.9101), abs=5e-5)
    assert EvalResult(all_rows=(), n_rows=4).interval == (0.0, 1.0)


def test_repeats_take_new_seeds_and_are_reported_together():
    train, test = task()
    selector = DemoSelector("random", k=3, seed=5).fit(train)
    with FakeOpenAIServer() as server:
        llm = ChatLLM("fake", base_url=server.url)
        three = evaluate(selector, PromptBuilder(LABELS), llm, test, repeats=3)
        singles = [
            evaluate(
                DemoSelector("random", k=3, seed=s).fit(train), PromptBuilder(LABELS), llm, test
            )
            for s in (5, 6, 7)
        ]
    assert three.by_repeat == tuple(single.accuracy for single in singles)
    assert three.accuracy == pytest.approx(np.mean(three.by_repeat))
    assert three.rows == singles[0].rows
    low, high = three.interval
    assert low < three.accuracy < high
    assert f"from {min(three.by_repeat):.4f} to {max(three.by_repeat):.4f}" in str(three)


def test_a_repeated_prompt_that_stays_the_same_is_asked_anew(tmp_path):
    with FakeOpenAIServer() as server:
        result = run(server, repeats=2, cache=tmp_path / "a.sqlite", out=tmp_path / "run")
        assert (result.requests, len(result.all_rows), len(result.rows)) == (40, 40, 20)
        assert result.complete
        again = run(server, repeats=2, cache=tmp_path / "a.sqlite", out=tmp_path / "run")
        assert (again.requests, again.all_rows) == (0, result.all_rows)


def test_results_can_be_compared_row_by_row(tmp_path):
    train, test = task()
    with FakeOpenAIServer() as server:
        llm = ChatLLM("fake", base_url=server.url)
        good = run(server, out=tmp_path / "good")
        builder = PromptBuilder(LABELS)
        bad = evaluate(DemoSelector("random", k=1).fit(train), builder, llm, test)
    difference = compare(good, bad)
    assert difference.delta == pytest.approx(good.accuracy - bad.accuracy)
    assert compare(EvalResult.load(tmp_path / "good"), bad) == difference


DRY_PROGRAM = """
import sys
import tests.icl.bare
import fungi_hf.icl
from fungi_hf.icl import ChatLLM, DemoSelector, PromptBuilder, evaluate
from tests.icl.chat_kit import LABELS, task
train, test = task()
selector = DemoSelector("bm25", k=5).fit(train)
print(evaluate(selector, PromptBuilder(LABELS), ChatLLM("m"), test, dry_run=True).requests)
heavy = ("openai", "httpx", "httpx2", "torch", "transformers", "pandas", "pyarrow", "sklearn")
print([name for name in heavy if name in sys.modules])
"""


class TestDryRun:
    def test_tokens_equal_the_servers_count_given_its_tokenizer(self):
        selector, builder, test = setup(count_tokens=words)
        with FakeOpenAIServer(count_tokens=words) as server:
            llm = ChatLLM("fake", base_url=server.url, sampling=Sampling(max_output_tokens=9))
            dry = evaluate(selector, builder, llm, test, dry_run=True)
            assert not server.log
            evaluate(selector, builder, llm, test)
            assert dry.input_tokens == server.prompt_tokens
        assert (dry.rows, dry.requests, dry.cached, dry.exact_count) == (20, 20, 0, True)
        assert dry.max_output_tokens == 180
        assert dry.cost(input=1.0, output=2.0) == (dry.input_tokens + 360) / 1e6
        assert dry.coverage == selector.select(test).coverage(test.targets)
        assert "requests        20" in str(dry)

    def test_answered_rows_cost_nothing(self, tmp_path):
        selector, builder, test = setup()
        with FakeOpenAIServer() as server:
            llm = ChatLLM("fake", base_url=server.url, cache=tmp_path / "answers.sqlite")
            half = test.take(range(10))
            evaluate(selector, builder, llm, half)
            dry = evaluate(selector, builder, llm, test, dry_run=True)
            assert (dry.cached, dry.requests) == (10, 10)
            before = server.prompt_tokens
            evaluate(selector, builder, llm, test, out=tmp_path / "run")
            assert len(server.log) == 20
            assert dry.max_output_tokens == 640
            other = ChatLLM("fake", base_url=server.url)
            done = evaluate(selector, builder, other, test, dry_run=True, out=tmp_path / "run")
            assert (done.cached, done.requests, done.input_tokens) == (20, 0, 0)
            assert server.prompt_tokens > before

    def test_no_socket_is_opened(self, monkeypatch):
        def refuse(*_, **__):
            raise AssertionError("a socket was opened")

        monkeypatch.setattr(socket, "socket", refuse)
        monkeypatch.setattr(socket, "create_connection", refuse)
        monkeypatch.setattr(socket, "socketpair", refuse)
        monkeypatch.delenv("OPENAI_API_KEY", raising=False)
        selector, builder, test = setup()
        dry = evaluate(selector, builder, ChatLLM("gpt-x"), test, dry_run=True)
        assert dry.requests == 20

    def test_no_client_and_no_model_library_is_loaded(self):
        done = subprocess.run(
            [sys.executable, "-c", DRY_PROGRAM], capture_output=True, text=True, check=False
        )
        assert done.stdout.split("\n")[:2] == ["20", "[]"], done.stderr

    def test_queries_without_targets_are_enough(self):
        selector, builder, test = setup()
        bare = Examples(contents=test.contents)
        dry = evaluate(selector, builder, TenLines(), bare, dry_run=True)
        assert (dry.coverage, dry.requests) == (None, 20)

    def test_queries_over_the_budget_are_counted_and_not_sent(self):
        selector, _, _ = setup()
        test = Examples(contents=["top " * 500, "top money"], targets=[0, 1])
        builder = PromptBuilder(LABELS, max_input_tokens=200, on_overflow="skip")
        with FakeOpenAIServer() as server:
            llm = ChatLLM("fake", base_url=server.url)
            dry = evaluate(selector, builder, llm, test, dry_run=True)
            result = evaluate(selector, builder, llm, test)
            assert (dry.overflow_rows, dry.requests, len(server.log)) == (1, 1, 1)
        assert [row.status for row in result.rows] == ["overflow", "ok"]
        strict = PromptBuilder(LABELS, max_input_tokens=200)
        with pytest.raises(PromptOverflowError, match="query row 0"):
            evaluate(selector, strict, TenLines(), test)


def test_audio_demonstrations_arrive_as_valid_parts():
    rng = np.random.default_rng(0)
    clips = [AudioClip(rng.uniform(-1, 1, 80).astype("float32"), 8000) for _ in range(12)]
    features = rng.normal(size=(12, 4))
    train = Examples(features=features[:8], contents=clips[:8], targets=[i % 4 for i in range(8)])
    test = Examples(features=features[8:], contents=clips[8:], targets=[0, 1, 2, 3])
    selector = DemoSelector("knn", k=3).fit(train)
    bodies = []

    def policy(body):
        bodies.append(body)
        return [m for m in body["messages"] if m["role"] == "assistant"][-1]["content"]

    with FakeOpenAIServer(policy) as server:
        llm = ChatLLM("fake", base_url=server.url, limits=Limits(concurrency=1))
        result = evaluate(selector, PromptBuilder(LABELS), llm, test)
        dry = evaluate(selector, PromptBuilder(LABELS), llm, test, dry_run=True)
        assert [entry.status for entry in server.log] == [200] * 4
    assert dry.audio_s == pytest.approx(4 * 4 * 0.01)
    assert result.statuses == {"ok": 4}
    nearest = selector.select(test).indices[:, 0]
    assert [NAMES.index(row.label) for row in result.rows] == [int(i) % 4 for i in nearest]
    parts = [m["content"][0]["type"] for m in bodies[0]["messages"] if m["role"] == "user"]
    assert parts == ["input_audio"] * 4


def test_progress_counts_rows_failures_and_tokens():
    seen = []
    selector, builder, test = setup()
    with FakeOpenAIServer(["top up"] * 15 + [FakeReply(content="")] * 5) as server:
        llm = ChatLLM("fake", base_url=server.url, output="text", limits=Limits(concurrency=2))
        evaluation = Evaluation(selector, builder, llm, test)
        run_here(evaluation, None, lambda p: seen.append((p.finished, p.failed, p.tokens, p.rate)))
    assert [finished for finished, *_ in seen] == list(range(1, 21))
    assert seen[-1][1] == 5
    assert seen[-1][2] == server.prompt_tokens + server.completion_tokens
    assert seen[-1][3] > 0


def test_wrong_input_is_refused_before_any_request():
    selector, builder, test = setup()
    with FakeOpenAIServer() as server:
        llm = ChatLLM("fake", base_url=server.url)
        cases = [
            ((selector, LABELS, llm, test), {}, InputTypeError, "builder is LabelSpace"),
            ((selector, builder, "gpt", test), {}, InputTypeError, "llm is str"),
            ((selector, builder, llm, ["text"]), {}, InputTypeError, "queries is list"),
            ((selector, builder, llm, Examples(contents=["x"])), {}, InputError, "need targets"),
            (
                (selector, builder, llm, Examples(contents=["x"], targets=[9])),
                {}, LabelError, r"label id 9 is outside 0\.\.3 \(row 0\)",
            ),
            ((selector, builder, llm, test), {"repeats": 0}, ConfigError, "repeats must be"),
            (
                (selector, builder, llm, Examples(features=[[1.0]], targets=[0])),
                {}, InputError, "no contents",
            ),
        ]  # fmt: skip
        for arguments, settings, kind, message in cases:
            with pytest.raises(kind, match=message):
                evaluate(*arguments, **settings)
        small = ChatLLM("fake", base_url=server.url, limits=Limits(tpm=70))
        with pytest.raises(ConfigError, match=r"row 0 takes \d+ tokens .* more than tpm=70"):
            evaluate(selector, builder, small, test)
        assert not server.log


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


def test_the_package_exports_functions_not_modules():
    import fungi_hf.icl as icl

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert callable(icl.evaluate)
        assert callable(icl.compare)
    assert LabelSpace(NAMES).names == tuple(NAMES)
