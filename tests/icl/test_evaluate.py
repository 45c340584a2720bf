"""evaluate: honest rows and totals, whatever the server does."""

from __future__ import annotations

import asyncio
import warnings

import numpy as np
import pytest

from fungi_hf.errors import (
    ConfigError,
    InputError,
    InputTypeError,
    LabelError,
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
from fungi_hf.icl.llm import Limits
from fungi_hf.icl.plan import make_plan
from fungi_hf.icl.run import Run, aevaluate, run_here
from fungi_hf.icl.server.fake_server import Fault
from fungi_hf.icl.server.policies import FakeReply
from tests.icl.chat_kit import LABELS, NAMES, FastClock
from tests.icl.evaluate_kit import TenLines, run, setup, words


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


def test_the_package_exports_functions_not_modules():
    import fungi_hf.icl as icl

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert callable(icl.evaluate)
        assert callable(icl.compare)
    assert LabelSpace(NAMES).names == tuple(NAMES)
