"""Headers and queries of requests, and the options of the command line."""

from __future__ import annotations

import dataclasses
import json

import pytest

from fungi_hf.cli import build_parser
from fungi_hf.cli.icl import chat_of
from fungi_hf.errors import ConfigError, LLMAuthError
from fungi_hf.icl.llm import ChatLLM, Limits, Sampling
from fungi_hf.icl.server.fake_server import FakeOpenAIServer, Fault, _Handler
from tests.icl.chat_kit import SECRET, ask, prompt


class Seen:
    """What a loopback server was sent."""

    def __init__(self, monkeypatch):
        self.paths, self.headers = [], []
        get = _Handler.do_GET

        def note(handler):
            self.paths.append(handler.path)
            self.headers.append(dict(handler.headers))
            get(handler)

        monkeypatch.setattr(_Handler, "do_GET", note)


def test_a_query_and_headers_go_with_every_request_and_nowhere_else(monkeypatch, tmp_path):
    seen = Seen(monkeypatch)
    with FakeOpenAIServer(["top up"]) as server:
        llm = ChatLLM(
            "fake",
            base_url=f"  {server.url}/?api-version=2024-10-21 ",
            headers={"api-key": SECRET, "X-Title": "mine"},
            query={"region": "eu"},
            output="text",
            cache=tmp_path / "a.sqlite",
        )
        (reply,) = ask(llm, prompt())
        llm.close()
    assert reply.content == "top up"
    assert seen.paths == ["/v1/chat/completions?api-version=2024-10-21&region=eu"]
    sent = {name.lower(): value for name, value in seen.headers[0].items()}
    assert (sent["api-key"], sent["x-title"]) == (SECRET, "mine")
    told = json.dumps(llm.describe())
    assert json.loads(told)["headers"] == ["X-Title", "api-key"]
    assert json.loads(told)["query"] == {"api-version": "2024-10-21", "region": "eu"}
    assert SECRET not in told + repr(llm)
    assert SECRET.encode() not in (tmp_path / "a.sqlite").read_bytes()


def test_a_header_with_the_key_needs_no_other_key(monkeypatch):
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    with pytest.raises(LLMAuthError):
        ChatLLM("m", base_url="https://host.example/v1").check([])
    ChatLLM("m", base_url="https://host.example/v1", headers={"api-key": SECRET}).check([])


def test_another_query_is_another_answer(tmp_path):
    with FakeOpenAIServer(["top up", "lost card"]) as server:
        for version in ("1", "2"):
            llm = ChatLLM("fake", base_url=server.url, query={"api-version": version},
                          output="text", cache=tmp_path / "a.sqlite")  # fmt: skip
            (reply,) = ask(llm, prompt())
            llm.close()
            assert reply.attempts == 1


@pytest.mark.parametrize("name", ["headers", "query"])
def test_headers_and_queries_are_texts(name):
    for bad in ("x", ["a"], {"a": 1}, {1: "a"}):
        with pytest.raises(ConfigError, match=f"{name} must be a dictionary of texts"):
            ChatLLM("m", **{name: bad})


def test_a_server_that_repeats_a_header_s_value_does_not_leak_it():
    fault = Fault(status=400, message=f"bad key {SECRET}")
    with FakeOpenAIServer(faults=lambda *_: fault) as server:
        (error,) = ask(ChatLLM("m", base_url=server.url, headers={"api-key": SECRET}), prompt())
    assert "[hidden]" in str(error)
    assert SECRET not in str(error)


def test_every_field_has_an_option():
    options = set()
    icl = build_parser()._subparsers._group_actions[0].choices["icl"]
    for action in icl._subparsers._group_actions[0].choices["run"]._actions:
        options |= set(action.option_strings)
    for record in (Limits, Sampling):
        for field in dataclasses.fields(record):
            name = "sampling-seed" if (record, field.name) == (Sampling, "seed") else field.name
            if field.name != "clock":
                assert f"--{name.replace('_', '-')}" in options


def test_options_of_the_command_line_reach_the_model(monkeypatch):
    monkeypatch.setenv("MY_KEY", SECRET)
    words = ["icl", "run", "--train", "a", "--test", "b", "--labels", "c",
             "--header", "api-key: $MY_KEY", "--query", "api-version=1",
             "--extra", '{"reasoning_effort": "low"}', "--seed", "3",
             "--sampling-seed", "7", "--top-logprobs", "5", "--temperature", "none",
             "--stop-after", "none", "--ask-again", "empty", "length", "--max-wait", "5",
             "--base-url", "https://host.example/v1"]  # fmt: skip
    llm = chat_of(build_parser().parse_args(words))
    assert llm._headers == {"api-key": SECRET}
    assert llm.query == {"api-version": "1"}
    sampling = llm.sampling
    assert sampling.extra == {"reasoning_effort": "low"}
    assert (sampling.seed, sampling.top_logprobs, sampling.temperature) == (7, 5, None)
    limits = llm.limits
    assert (limits.stop_after, limits.ask_again, limits.max_wait) == (None, ("empty", "length"), 5)
    for bad in (["--header", "api-key"], ["--query", "x"], ["--header", "a: $NOT_THERE"]):
        with pytest.raises(ConfigError, match="--"):
            chat_of(build_parser().parse_args([*words, *bad]))
