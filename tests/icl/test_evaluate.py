"""evaluate: honest rows and totals, whatever the server does."""

from __future__ import annotations

import asyncio
import json
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
)
from fungi_hf.icl import (
    ChatLLM,
    DemoSelector,
    Examples,
    FakeOpenAIServer,
    LabelSpace,
    PromptBuilder,
    evaluate,
)
from fungi_hf.icl.audio import AudioClip
from fungi_hf.icl.llm import Limits, Sampling
from fungi_hf.icl.plan import make_plan
from fungi_hf.icl.results import RowResult
from fungi_hf.icl.run import EvalResult, Run, aevaluate, run_here
from fungi_hf.icl.server.fake_server import Fault
from fungi_hf.icl.server.policies import FakeReply
from tests.icl.chat_kit import LABELS, NAMES, FastClock
from tests.icl.evaluate_kit import TenLines, results_bytes, run, setup, words

SECRET = "sk-very-secret-0123456789"


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
        server.faults = None
        done = run(server, n_test=60, out=tmp_path / "run", limits=Limits(concurrency=4))
        assert (done.complete, done.requests) == (True, 60 - kept)
    assert len(server.log) <= 15 + 4 + done.requests


def test_without_a_folder_the_error_carries_the_rows():
    def faults(number, _):
        return 404 if number > 5 else None

    with FakeOpenAIServer(faults=faults) as server:
        with pytest.raises(LLMError, match="404") as caught:
            run(server, limits=Limits(concurrency=1, stop_after=1))
        assert len(caught.value.partial.rows) == 5
        assert not caught.value.partial.complete


def test_totals_equal_the_servers_log_under_faults_and_repair():
    def policy(body):
        asked = body["messages"][-1]["content"]
        return "sideways" if "question 3" in asked else "top up"

    def faults(number, _):
        return (
            None,
            None,
            429,
            None,
            Fault(status=200, body=b'{"choices": ['),
            None,
            Fault(status=0),
        )[number % 7]

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


def test_a_name_and_an_answer_make_a_model():
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
        plan = make_plan(selector, builder, llm, test)
        watch = lambda p: seen.append((p.finished, p.failed, p.tokens, p.fresh))
        run_here(Run(plan, None, watch))
    assert [finished for finished, *_ in seen] == list(range(1, 21))
    assert seen[-1][1] == 5
    assert seen[-1][2] == server.prompt_tokens + server.completion_tokens
    assert [fresh for *_, fresh in seen] == list(range(1, 21))


class Duck:
    name = "looks like a model"

    async def answer(self, prompt, labels):
        """Never called."""


def test_wrong_input_is_refused_before_any_request():
    selector, builder, test = setup()
    with FakeOpenAIServer() as server:
        llm = ChatLLM("fake", base_url=server.url)
        cases = [
            ((selector, LABELS, llm, test), {}, InputTypeError, "builder is LabelSpace"),
            ((selector, builder, "gpt", test), {}, InputTypeError, "llm is str"),
            ((selector, builder, Duck(), test), {}, InputTypeError, r"llm is Duck; .* own class"),
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
