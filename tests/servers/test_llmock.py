"""`llmock`: seven providers' forms of answers and errors, and its verdict on how we retry."""

from __future__ import annotations

import json
import time

import pytest

from fungi_hf.errors import LLMAuthError, LLMError
from fungi_hf.icl import ChatLLM, DemoSelector, LabelSpace, PromptBuilder, evaluate
from fungi_hf.icl.llm import Limits, Sampling
from tests.icl.chat_kit import NAMES, task
from tests.servers import kit

ROWS = 20
PROVIDERS = {
    "OpenAI": "/v1",
    "Mistral": "/mistral/v1",
    "Groq": "/groq/openai/v1",
    "Together": "/together/v1",
    "Perplexity": "/perplexity/v1",
    "AI21": "/ai21/v1",
    "xAI": "/xai/v1",
}
TRAIN, TEST = task(n_test=ROWS)
SELECTOR = DemoSelector("bm25", k=3).fit(TRAIN)
BUILDER = PromptBuilder(LabelSpace(NAMES))
LONG = 2000  # tokens; the server refuses prompts above


class Llmock:
    """The running server: behaviours in, requests and verdict out."""

    def __init__(self, url):
        self.url, self._port = url, int(url.rpartition(":")[2])

    def plan(self, *behaviors):
        self._call("POST", "/_llmock/reset")
        if behaviors:
            self._call("POST", "/_llmock/scenario", {"behaviors": list(behaviors)})

    def requests(self):
        return self._call("GET", "/_llmock/requests")["requests"]

    def findings(self):
        return {one["code"] for one in self._call("GET", "/_llmock/verdict")["findings"]}

    def _call(self, *request):
        status, words = kit.http(self._port, *request)
        assert status in (200, 201), words
        return json.loads(words)


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    port, folder = kit.free_port(), tmp_path_factory.mktemp("llmock")
    command = [kit.program("llmock"), "serve", "--host", "127.0.0.1", "--port", str(port)]
    with kit.serving([*command, "--context-window", str(LONG)], port, folder / "log") as url:
        yield Llmock(url)


@pytest.fixture(params=PROVIDERS, ids=list(PROVIDERS))
def base_url(request, server):
    return server.url + PROVIDERS[request.param]


def ask(base_url, queries=TEST, out=None, **settings):
    llm = ChatLLM("gpt-4o-mini", base_url=base_url, **settings)
    return evaluate(SELECTOR, BUILDER, llm, queries, out=out)


def fail(status, times=1, **more):
    return {"type": "fail", "status": status, "times": times, **more}


def test_schemas_are_obeyed_and_plain_answers_read(server, base_url):
    server.plan()
    result = ask(base_url)
    assert result.statuses == {"ok": ROWS}
    assert result.requests == len(server.requests()) == ROWS
    assert result.usage.output_tokens > 0
    server.plan({"type": "reply", "text": "top up", "times": None})
    assert {row.label for row in ask(base_url, output="text").rows} == {"top up"}
    server.plan({"type": "reply", "text": "I do not know", "times": None})
    assert ask(base_url, output="text").statuses == {"invalid": ROWS}


def test_busy_servers_are_asked_again_as_they_want_it(server, base_url):
    server.plan(fail(429, retry_after=0.4), fail(503), fail(500), fail(529))
    started = time.monotonic()
    result = ask(base_url, TEST.take(range(6)), limits=Limits(concurrency=2))
    assert time.monotonic() - started > 0.4
    assert result.statuses == {"ok": 6}
    assert result.requests == len(server.requests()) == 10
    assert server.findings() == set()


@pytest.mark.parametrize(
    ("status", "error", "words"),
    [
        (401, LLMAuthError, "401: Unauthorized"),
        (402, LLMError, "402: Payment required"),
        (403, LLMAuthError, "403: Forbidden"),
        (404, LLMError, "404: Resource not found"),
        (422, LLMError, "422: Unprocessable entity"),
    ],
)
def test_what_no_repetition_helps_stops_the_run(server, base_url, status, error, words):
    server.plan(fail(status, None))
    with pytest.raises(error, match=words):
        ask(base_url, limits=Limits(concurrency=1))
    assert len(server.requests()) == 1
    assert server.findings() == set()


def test_a_prompt_that_is_too_long_settles_its_row_alone(server, base_url):
    server.plan()
    texts = list(TEST.contents)
    texts[3] = "where is my card " * LONG
    queries = type(TEST)(contents=texts, targets=TEST.targets)
    result = ask(base_url, queries)
    assert result.statuses == {"ok": ROWS - 1, "overflow": 1}
    assert result.rows[3].status == "overflow"
    assert server.findings() == set()


def test_a_row_that_fails_for_good_is_asked_again_by_the_next_run(server, tmp_path):
    url = server.url + PROVIDERS["OpenAI"]
    server.plan(fail(503, 2))
    limits = Limits(concurrency=1, max_attempts=2)
    result = ask(url, out=tmp_path / "run", limits=limits)
    assert result.statuses == {"failed": 1, "ok": ROWS - 1}
    again = ask(url, out=tmp_path / "run", limits=limits)
    assert (again.statuses, again.requests) == ({"ok": ROWS}, 1)


def test_a_silent_server_is_given_up_and_asked_again(server):
    server.plan({"type": "delay", "seconds": 2})
    result = ask(server.url + PROVIDERS["OpenAI"], TEST.take([0]), limits=Limits(timeout=0.4))
    assert (result.statuses, result.requests) == ({"ok": 1}, 2)


def test_a_model_that_is_down_stops_the_run_after_ten_rows(server):
    server.plan(fail(503, None))
    limits = Limits(max_attempts=1, concurrency=1)
    with pytest.raises(LLMError, match="the last 10 rows failed alike, so the run stops"):
        ask(server.url + PROVIDERS["OpenAI"], limits=limits)
    assert len(server.requests()) == 10


def test_a_quota_of_requests_is_waited_for(tmp_path):
    port = kit.free_port()
    command = [kit.program("llmock"), "serve", "--host", "127.0.0.1", "--port", str(port)]
    with kit.serving([*command, "--rpm", "240"], port, tmp_path / "log") as url:
        # 240 at once, then one each quarter of a second
        sampling = Sampling(max_output_tokens=8)
        rows = TEST.take([i % ROWS for i in range(244)])
        result = ask(f"{url}/v1", rows, limits=Limits(concurrency=4), sampling=sampling)
        assert result.statuses == {"ok": 244}
        assert Llmock(url).findings() == set()
