"""The LiteLLM proxy: its mock answers and errors, and a provider's errors handed on by it."""

from __future__ import annotations

import json
import time
from dataclasses import dataclass

import pytest

from fungi_hf.errors import LLMAuthError, LLMError
from fungi_hf.icl import (
    ChatLLM,
    DemoSelector,
    FakeOpenAIServer,
    LabelSpace,
    PromptBuilder,
    evaluate,
)
from fungi_hf.icl.llm import Limits, Sampling
from fungi_hf.icl.server.fake_server import Fault
from fungi_hf.icl.server.policies import FakeReply
from tests.icl.chat_kit import NAMES, task
from tests.servers import kit

KEY = "sk-" + "0f3a" * 12
ROWS = 20
TRAIN, TEST = task(n_test=ROWS)
SELECTOR = DemoSelector("bm25", k=3).fit(TRAIN)
BUILDER = PromptBuilder(LabelSpace(NAMES))
MOCKS = {
    "label": {"mock_response": "top up"},
    "off the list": {"mock_response": "sideways"},
    "empty": {"mock_response": " "},
    "too long": {"mock_response": "litellm.ContextWindowExceededError"},
    "busy": {"mock_response": "litellm.RateLimitError"},
    "broken": {"mock_response": "litellm.InternalServerError"},
    "policy": {"mock_response": "Exception: content_filter_policy"},
    "policy of Azure": {
        "model": "azure/none",
        "api_base": "http://127.0.0.1:9",
        "mock_response": "Exception: content_filter_policy",
    },
    "slow": {"mock_response": "top up", "mock_timeout": True, "timeout": 0.1},
    "unreachable": {"api_base": "http://127.0.0.1:9/v1"},
}


@dataclass
class Provider:
    """What the server behind the proxy does."""

    reply: str | FakeReply = "top up"
    fault: Fault | None = None
    faults_left: int = 0

    def answer(self, body):
        return self.reply

    def fail(self, number, body):
        if self.faults_left:
            self.faults_left -= 1
            return self.fault
        return None


@pytest.fixture(scope="module")
def proxy(tmp_path_factory):
    """The proxy's address, the provider behind its model "passed on", and that one's log."""
    folder, port, provider = tmp_path_factory.mktemp("litellm"), kit.free_port(), Provider()
    with FakeOpenAIServer(provider.answer, faults=provider.fail) as behind:
        mocks = {**MOCKS, "passed on": {"model": "openai/fake", "api_base": behind.url}}
        base = {"model": "openai/none", "api_key": "none"}
        models = [
            {"model_name": name, "litellm_params": base | more} for name, more in mocks.items()
        ]
        config = {
            "model_list": models,
            "litellm_settings": {"num_retries": 0, "telemetry": False},
            "router_settings": {"num_retries": 0, "disable_cooldowns": True},
            "general_settings": {"master_key": KEY},
        }
        (folder / "config.yaml").write_text(json.dumps(config))  # JSON is YAML
        command = [kit.program("litellm"), "--config", str(folder / "config.yaml")]
        command += ["--host", "127.0.0.1", "--port", str(port), "--telemetry", "False"]
        more = {"LITELLM_LOCAL_MODEL_COST_MAP": "True"}
        alive = "/health/liveliness"
        with kit.serving(command, port, folder / "log", alive=alive, **more) as url:
            yield f"{url}/v1", provider, behind


def ask(proxy, model, out=None, rows=ROWS, **settings):
    settings = {"api_key": KEY, "output": "text"} | settings
    llm = ChatLLM(model, base_url=proxy[0], **settings)
    return evaluate(SELECTOR, BUILDER, llm, TEST.take(range(rows)), out=out)


@pytest.mark.parametrize(
    ("model", "status"),
    [
        ("label", "ok"),
        ("off the list", "invalid"),
        ("empty", "empty"),
        ("too long", "overflow"),
        ("policy", "refused"),
        ("policy of Azure", "refused"),
    ],
)
def test_mock_answers_have_the_status_that_the_docs_say(proxy, model, status, tmp_path):
    result = ask(proxy, model, tmp_path / "run")
    assert result.statuses == {status: ROWS}
    assert result.requests == ROWS
    assert result.complete
    answered = 0 if status in ("overflow", "refused") else ROWS
    assert result.usage.input_tokens == 10 * answered  # what a mock answer bills
    assert result.usage.output_tokens == 20 * answered
    assert ask(proxy, model, tmp_path / "run").requests == 0


@pytest.mark.parametrize(
    ("model", "words"),
    [
        ("busy", "429: litellm.RateLimitError"),
        ("broken", "500: litellm.InternalServerError"),
        ("slow", "408: litellm.Timeout"),
        ("unreachable", "500: litellm.InternalServerError: .*Connection error"),
    ],
)
def test_mock_errors_are_asked_again_and_fail_their_rows(proxy, model, words, tmp_path):
    limits = Limits(max_attempts=2)
    result = ask(proxy, model, tmp_path / "run", rows=5, limits=limits)
    assert result.statuses == {"failed": 5}
    assert (result.requests, result.complete) == (10, False)
    assert ask(proxy, model, tmp_path / "run", rows=5, limits=limits).requests == 10
    with pytest.raises(
        LLMError, match=f"the last 3 rows failed alike.* the server answered {words}"
    ):
        ask(proxy, model, rows=5, limits=Limits(max_attempts=1, stop_after=3))


def test_a_wrong_key_and_a_wrong_model_stop_the_run_and_no_key_is_repeated(proxy):
    wrong = "sk-" + "9e8d" * 12
    with pytest.raises(LLMError, match=r"No connected db\.; try the master key") as caught:
        ask(proxy, "label", api_key=wrong)
    assert wrong not in str(caught.value)
    with pytest.raises(LLMError, match=r"400: .*Invalid model name passed in model=nobody"):
        ask(proxy, "nobody")


@pytest.mark.parametrize("output", ["text", "enum", "json"])
def test_every_field_of_a_request_is_passed_on(proxy, output):
    _, provider, behind = proxy
    provider.reply = "lost card" if output == "text" else '{"label": "lost card"}'
    before = len(behind.log)
    sampling = Sampling(seed=3, max_output_tokens=9, top_logprobs=2)
    result = ask(proxy, "passed on", output=output, sampling=sampling)
    assert {row.label for row in result.rows} == {"lost card"}
    sent = behind.log[before:]
    assert [one.status for one in sent] == [200] * ROWS
    assert result.usage.input_tokens == sum(one.prompt_tokens for one in sent)
    assert result.usage.output_tokens == sum(one.completion_tokens for one in sent)


@pytest.mark.parametrize(
    ("reply", "status"),
    [
        (FakeReply(refusal="I cannot help with that."), "refused"),
        (FakeReply(content="", finish_reason="content_filter"), "refused"),
        (FakeReply(content="to", finish_reason="length"), "length"),
        (FakeReply(content="top up", cached_tokens=7), "ok"),
    ],
    ids=["refusal", "filtered", "cut", "cached"],
)
def test_answers_that_are_passed_on(proxy, reply, status):
    proxy[1].reply = reply
    result = ask(proxy, "passed on", rows=4)
    assert result.statuses == {status: 4}
    assert result.usage.cached_input_tokens == 4 * (reply.cached_tokens or 0)


TOO_LONG = "This model's maximum context length is 8192 tokens; your messages have 9000 tokens."
FILTERED = "The response was filtered due to the prompt triggering our content management policy."
QUOTA = "You exceeded your current quota, please check your plan and billing details."


@pytest.mark.parametrize(
    ("fault", "status"),
    [
        (Fault(status=400, code="context_length_exceeded", message=TOO_LONG), "overflow"),
        (Fault(status=400, code="content_filter", message=FILTERED), "refused"),
        (Fault(status=429, message="slow down"), "ok"),
        (Fault(status=500), "ok"),
        (Fault(status=503, message="overloaded"), "ok"),
        (Fault(status=502, body=b"<html><title>Bad gateway</title></html>"), "ok"),
        (Fault(status=0), "ok"),
        (Fault(status=200, body=b'{"choices": ['), "ok"),
        (Fault(status=200, body=b'{"error": {"message": "broke", "code": 502}}'), "ok"),
        (Fault(status=200, body=b'{"id":"x","model":"m","choices":[],"created":1}'), "ok"),
    ],
    ids=lambda value: f"{value.status}-{value.code}" if isinstance(value, Fault) else value,
)
def test_a_fault_that_is_passed_on_once(proxy, fault, status):
    provider = proxy[1]
    provider.reply, provider.fault, provider.faults_left = "top up", fault, 1
    result = ask(proxy, "passed on", rows=3, limits=Limits(concurrency=1))
    assert result.statuses == ({"ok": 3} if status == "ok" else {status: 1, "ok": 2})
    assert result.requests == (4 if status == "ok" else 3)


@pytest.mark.parametrize(
    ("fault", "error", "words"),
    [
        (
            Fault(status=429, code="insufficient_quota", message=QUOTA),
            LLMError,
            "429: .*current quota",
        ),
        (
            Fault(status=402, message="Insufficient credits"),
            LLMError,
            "402: .*Insufficient credits",
        ),
        (Fault(status=401, message="Incorrect API key"), LLMAuthError, "401: .*Incorrect API key"),
        (Fault(status=404, message="no such model"), LLMError, "404: .*no such model"),
    ],
    ids=lambda value: str(value.status) if isinstance(value, Fault) else "",
)
def test_a_fault_that_stops_the_run_is_met_once(proxy, fault, error, words):
    _, provider, behind = proxy
    provider.fault, provider.faults_left, before = fault, 99, len(behind.log)
    try:
        with pytest.raises(error, match=words):
            ask(proxy, "passed on", limits=Limits(concurrency=1))
    finally:
        provider.faults_left = 0
    assert len(behind.log) - before == 1


def test_the_wait_of_the_provider_is_waited_for(proxy):
    provider = proxy[1]
    provider.reply, provider.faults_left = "top up", 1
    provider.fault = Fault(status=429, message="slow down", retry_after_ms=1500)
    started = time.monotonic()
    result = ask(proxy, "passed on", rows=1)
    assert (result.statuses, result.requests) == ({"ok": 1}, 2)
    assert time.monotonic() - started >= 1.5
