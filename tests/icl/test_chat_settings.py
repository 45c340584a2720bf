"""Settings and credentials of ChatLLM: checked at once, secrets kept."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import traceback

import pytest

from fungi_hf.errors import CacheError, ConfigError, LLMAuthError, LLMError
from fungi_hf.icl.llm import ChatLLM, Limits, RequestFailedError, Sampling, Usage
from fungi_hf.icl.server.fake_server import FakeOpenAIServer, Fault
from tests.icl.chat_kit import SECRET, ask, chat, planned, prompt

PROXY_PROGRAM = """
import asyncio, sys
import tests.icl.bare
from fungi_hf.icl.llm import ChatLLM
from tests.icl.chat_kit import LABELS, prompt
async def run():
    llm = ChatLLM("fake", base_url=sys.argv[1])
    reply = await llm.answer(prompt(), LABELS)
    await llm.aclose()
    print(reply.content, reply.attempts)
asyncio.run(run())
"""


def test_a_dead_proxy_does_not_touch_a_loopback_server():
    proxies = dict.fromkeys(["HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"], "http://127.0.0.1:9")
    environment = {k: v for k, v in os.environ.items() if k.lower() != "no_proxy"} | proxies
    with FakeOpenAIServer() as server:
        done = subprocess.run(
            [sys.executable, "-c", PROXY_PROGRAM, server.url],
            env=environment, capture_output=True, text=True, check=False,
        )  # fmt: skip
    assert done.stdout.strip() == '{"label": "top up"} 1', done.stderr


def test_the_key_reaches_the_server_and_nothing_else(tmp_path, caplog):
    caplog.set_level("DEBUG")
    message = f"Incorrect API key provided: {SECRET}"
    fault = Fault(status=401, message=message)
    with FakeOpenAIServer(api_key=SECRET, faults=planned({1: 500, 3: fault})) as server:
        llm = chat(server, api_key=SECRET, cache=tmp_path / "answers.sqlite")
        ((reply,), (error,)) = ask(llm, prompt("a private text")), ask(llm, prompt("other"))
        llm.close()
    assert reply.content
    assert isinstance(error, LLMAuthError)
    chain = "".join(traceback.format_exception(error))
    assert "Incorrect API key provided: [hidden]" in chain
    assert SECRET not in chain
    assert error.__cause__ is None
    assert error.__context__ is None
    files = b"".join(path.read_bytes() for path in tmp_path.iterdir())
    for kept in (files.decode("latin-1"), repr(llm), json.dumps(llm.describe()), caplog.text):
        assert SECRET not in kept
        assert "Bearer" not in kept
    assert "private" not in caplog.text


def test_credentials_are_checked_before_the_first_request(monkeypatch):
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    monkeypatch.delenv("OPENAI_BASE_URL", raising=False)
    with pytest.raises(LLMAuthError, match=r"no API key for https://api\.openai\.com/v1; pass"):
        ChatLLM("gpt").check([])
    monkeypatch.setenv("OPENAI_API_KEY", SECRET)
    ChatLLM("gpt").check([])
    monkeypatch.setenv("OPENAI_BASE_URL", "http://127.0.0.1:1/v1/")
    assert ChatLLM("gpt").base_url == "http://127.0.0.1:1/v1"


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"base_url": "localhost:8000/v1"}, "has no scheme or host"),
        ({"base_url": "http://h/v1/chat/completions"}, "must not end in /chat/completions"),
        ({"base_url": f"http://me:{SECRET}@h/v1"}, "must not carry credentials"),
        ({"base_url": f"http://h/v1?key={SECRET}"}, "must not carry credentials"),
        ({"output": "enumm"}, "'enumm'; choose one of 'enum', 'json', 'text'"),
        ({"model": ""}, "model must be a name"),
        ({"api_key": ""}, "api_key must be a non-empty string"),
    ],
)
def test_wrong_settings_are_refused_without_repeating_secrets(settings, message):
    with pytest.raises(ConfigError, match=message) as caught:
        ChatLLM(**{"model": "m", **settings})
    assert SECRET not in str(caught.value)


def test_wrong_limits_and_sampling_are_refused():
    for bad, message in (
        ({"concurrency": 0}, "Limits.concurrency must be an integer >= 1; got 0"),
        ({"concurrency": True}, "got True"),
        ({"rpm": 0}, "rpm must be"),
        ({"timeout": -1}, "timeout must be a number > 0; got -1"),
        ({"ask_again": ("wrong",)}, "'wrong'; choose one of 'empty', 'length', 'refused'"),
        ({"ask_again": "empty"}, "is one string"),
    ):
        with pytest.raises(ConfigError, match=message):
            Limits(**bad)
    for bad, message in (
        ({"temperature": -0.1}, "temperature must be None or a number >= 0"),
        ({"temperature": float("nan")}, "temperature must be None or a number >= 0"),
        ({"top_logprobs": 21}, "top_logprobs must be None or an integer from 1 to 20; got 21"),
        ({"max_output_tokens": 0}, "max_output_tokens must be"),
        ({"token_param": "tokens"}, "token_param is .*'tokens'.*'max_tokens'"),
        ({"extra": {"model": "x"}}, "extra must not name model"),
        ({"extra": {"x": {1, 2}}}, "extra must hold JSON values"),
    ):
        with pytest.raises(ConfigError, match=message):
            Sampling(**bad)


def test_the_client_is_replaced_in_a_new_event_loop():
    with FakeOpenAIServer() as server:
        llm = chat(server)
        assert ask(llm, prompt())[0].content
        assert ask(llm, prompt("again"))[0].content


def test_usage_adds_up_and_has_a_price():
    usage = Usage(input_tokens=1_000_000, output_tokens=10_000, cached_input_tokens=400_000)
    assert usage.cost(input=1.0, output=10.0) == pytest.approx(1.1)
    assert usage.cost(input=1.0, output=10.0, cached_input=0.5) == pytest.approx(0.9)
    assert (usage + usage).total_tokens == 2_020_000
    with pytest.raises(ConfigError, match="the price of output must be a number >= 0"):
        usage.cost(input=1.0, output=-1.0)


def test_a_cache_that_cannot_be_used_is_an_error_at_once(tmp_path):
    with pytest.raises(CacheError, match="is a folder"):
        ChatLLM("m", cache=tmp_path)


def test_errors_keep_their_facts():
    error = RequestFailedError("no answer", 3)
    assert str(error) == "no answer (3 attempts)"
    assert isinstance(error, LLMError)
