"""ChatLLM against a loopback server that is busy, slow or refuses; rates and retries."""

from __future__ import annotations

import hashlib

import numpy as np
import pytest

from fungi_hf.errors import ConfigError, LLMAuthError, LLMError
from fungi_hf.icl.cache import AnswerCache
from fungi_hf.icl.llm import ChatLLM, Limits, RequestFailedError
from fungi_hf.icl.server.fake_server import FakeOpenAIServer, Fault
from fungi_hf.icl.server.policies import FakeReply
from tests.icl.chat_kit import LABELS, FastClock, ask, chat, planned, prompt, texts


@pytest.mark.parametrize(
    ("policy", "failure"),
    [
        ("empty", "empty"),
        ("refusal", "refused"),
        ("length", "length"),
        ([FakeReply(content="top up", finish_reason="content_filter")], "refused"),
        ([FakeReply(content=None)], "empty"),
        ([FakeReply(content="  \n")], "empty"),
        (["top up"], None),
        (["no label at all"], None),
    ],
    ids=["empty", "refusal", "length", "filter", "null", "blank", "ok", "off-list"],
)
def test_failure_classes_are_told_apart_and_only_labels_are_cached(policy, failure, tmp_path):
    with FakeOpenAIServer(policy) as server, AnswerCache(tmp_path / "a.sqlite") as cache:
        llm = chat(server, output="text", cache=cache)
        (reply,) = ask(llm, prompt())
        assert reply.failure == failure
        assert reply.usage.input_tokens == server.prompt_tokens > 0
        assert llm.is_cached(prompt(), LABELS) == (reply.content == "top up" and failure is None)


@pytest.mark.parametrize(
    ("code", "failure"),
    [("context_length_exceeded", "overflow"), ("content_filter", "refused")],
)
def test_400_with_a_row_code_settles_the_row(code, failure):
    with FakeOpenAIServer(faults=planned({1: Fault(status=400, code=code)})) as server:
        (reply,) = ask(chat(server), prompt())
        assert reply.failure == failure
        assert len(server.log) == 1


@pytest.mark.parametrize("status", [400, 401, 403, 404, 422])
def test_other_client_errors_stop_after_one_attempt_with_the_servers_words(status):
    fault = Fault(status=status, message="the words of the server")
    with FakeOpenAIServer(faults=planned({1: fault})) as server:
        (error,) = ask(chat(server), prompt())
        assert isinstance(error, LLMAuthError if status in (401, 403) else LLMError)
        assert not isinstance(error, RequestFailedError)
        assert "the words of the server" in str(error)
        assert len(server.log) == 1


@pytest.mark.parametrize("code", ["insufficient_quota", "billing_hard_limit_reached"])
def test_a_spent_quota_is_fatal_though_its_status_is_429(code):
    fault = Fault(status=429, code=code)
    with FakeOpenAIServer(faults=lambda *_: fault) as server:
        (error,) = ask(chat(server), prompt())
        assert isinstance(error, LLMError)
        assert not isinstance(error, RequestFailedError)
        assert code in str(error)
        assert len(server.log) == 1


@pytest.mark.parametrize(
    "fault",
    [408, 409, 429, 500, 503, Fault(status=0), Fault(status=200, body=b'{"choices": [')],
    ids=["408", "409", "429", "500", "503", "disconnect", "not JSON"],
)
def test_passing_faults_are_tried_again_by_one_loop_only(fault):
    clock, starts = FastClock(), []

    def faults(number, _):
        starts.append(clock.now())
        return fault if number < 3 else None

    with FakeOpenAIServer(faults=faults) as server:
        (reply,) = ask(chat(server, limits=Limits(clock=clock)), prompt())
        assert reply.attempts == len(server.log) == 3
        assert LABELS.parse(reply.content).status == "ok"
    assert 0.375 <= starts[1] <= 0.5
    assert 0.75 <= starts[2] - starts[1] <= 1.0


def test_waits_double_up_to_eight_seconds():
    clock, starts = FastClock(), []

    def faults(*_):
        starts.append(clock.now())
        return 500

    with FakeOpenAIServer(faults=faults) as server:
        ask(chat(server, limits=Limits(max_attempts=8, clock=clock)), prompt())
    for waited, most in zip(np.diff(starts), (0.5, 1, 2, 4, 8, 8, 8), strict=True):
        assert 0.75 * most <= waited <= most + 1e-6


@pytest.mark.parametrize("attempts", [1, 4])
def test_attempts_are_bounded_exactly(attempts):
    limits = Limits(max_attempts=attempts, clock=FastClock())
    with FakeOpenAIServer(faults=lambda *_: 500) as server:
        (error,) = ask(chat(server, limits=limits), prompt())
        assert isinstance(error, RequestFailedError)
        assert error.attempts == len(server.log) == attempts


def test_a_slow_answer_times_out_and_is_tried_again():
    with FakeOpenAIServer(faults=planned({1: Fault(status=200, delay_s=1.0)})) as server:
        (reply,) = ask(chat(server, limits=Limits(timeout=0.25, clock=FastClock())), prompt())
        assert reply.attempts == 2


@pytest.mark.parametrize("status", [429, 503])
def test_retry_after_closes_the_gate_for_everybody(status):
    clock, starts = FastClock(), []

    def faults(number, body):
        starts.append((number, clock.now(), body["messages"][-1]["content"]))
        return Fault(status=status, retry_after=20) if number == 1 else None

    with FakeOpenAIServer(faults=faults) as server:
        replies = ask(chat(server, limits=Limits(concurrency=1, clock=clock)), *texts(5))
        assert len(server.log) == 6
    assert sum(reply.attempts for reply in replies) == 6
    assert starts[0][1] == 0.0
    assert all(when >= 20.0 for _, when, _ in starts[1:])


@pytest.mark.parametrize(
    ("fault", "least"),
    [
        (Fault(status=503, retry_after=7), 7.0),
        (Fault(status=429, retry_after_ms=2500), 2.5),
        (Fault(status=429, retry_after=30, retry_after_ms=1500), 1.5),
        (Fault(status=429, retry_after="Tue, 14 Nov 2023 22:13:50 GMT"), 30.0),
        (Fault(status=429, retry_after=500), 500.0),
        (Fault(status=429, retry_after="soon"), 0.375),
    ],
    ids=["seconds", "milliseconds", "milliseconds first", "date", "long", "nonsense"],
)
def test_the_servers_wait_is_obeyed(fault, least):
    clock, starts = FastClock(), []

    def faults(number, _):
        starts.append(clock.now())
        return fault if number == 1 else None

    with FakeOpenAIServer(faults=faults) as server:
        (reply,) = ask(chat(server, limits=Limits(max_wait=600, clock=clock)), prompt())
    assert reply.attempts == 2
    assert least <= starts[1] <= least + 0.5


def test_a_wait_above_the_limit_stops_with_the_time_to_continue():
    with FakeOpenAIServer(faults=planned({1: Fault(status=429, retry_after=3600)})) as server:
        (error,) = ask(chat(server, limits=Limits(clock=FastClock())), prompt())
        assert isinstance(error, LLMError)
        assert not isinstance(error, RequestFailedError)
        assert "asks to wait 3600 s, more than max_wait=120 s" in str(error)
        assert "run again after 2023-11-14 23:13:20Z" in str(error)
        assert len(server.log) == 1


def test_nobody_there_fails_single_rows_and_stops_many():
    with FakeOpenAIServer() as server:
        url = server.url
    limits = Limits(max_attempts=2, clock=FastClock())
    few = ask(ChatLLM("fake", base_url=url, limits=limits), *texts(3))
    assert [type(error) for error in few] == [RequestFailedError] * 3
    many = ask(ChatLLM("fake", base_url=url, limits=limits), *texts(12))
    assert any(
        isinstance(error, LLMError) and "the first 10 requests could not connect" in str(error)
        for error in many
    )


def test_never_more_in_flight_than_allowed():
    with FakeOpenAIServer(latency=0.02) as server:
        replies = ask(chat(server, limits=Limits(concurrency=5)), *texts(40))
        assert len(server.log) == len(replies) == 40
        assert 2 <= server.max_in_flight <= 5


def test_equal_requests_in_flight_are_sent_once_and_billed_once():
    with FakeOpenAIServer(latency=0.05) as server:
        replies = ask(chat(server), prompt("a"), prompt("a"), prompt("b"), prompt("a"))
        assert len(server.log) == 2
        assert sum(reply.usage.input_tokens for reply in replies) == server.prompt_tokens
        assert [reply.from_cache for reply in replies] == [False, True, False, True]
        other = ask(chat(server), prompt("a"), prompt("a"), draws=[0, 1])
        assert [reply.from_cache for reply in other] == [False, False]


def test_equal_requests_share_a_failure():
    with FakeOpenAIServer(faults=lambda *_: 500, latency=0.05) as server:
        errors = ask(
            chat(server, limits=Limits(max_attempts=2, clock=FastClock())), prompt(), prompt()
        )
        assert [type(error) for error in errors] == [RequestFailedError] * 2
        assert len(server.log) == 2


def test_a_request_larger_than_the_token_rate_is_refused_beforehand():
    llm = ChatLLM("m", base_url="http://127.0.0.1:9/v1", limits=Limits(tpm=100))
    with pytest.raises(ConfigError, match=r"row 1 takes 164 tokens .* more than tpm=100"):
        llm.check([prompt(tokens=30), prompt(tokens=100)])


def test_the_injected_faults_of_a_bad_day():
    def faults(number, body):
        draw = int(hashlib.sha256(f"{number}".encode()).hexdigest(), 16) % 20
        kinds = [
            Fault(status=429, retry_after=1),
            500,
            Fault(status=0),
            Fault(status=200, body=b'{"choices": ['),
        ]
        return kinds[draw] if draw < 4 else None

    limits = Limits(concurrency=8, max_attempts=6, clock=FastClock())
    with FakeOpenAIServer(faults=faults) as server:
        replies = ask(chat(server, limits=limits), *texts(150))
        assert all(LABELS.parse(reply.content).status == "ok" for reply in replies)
        assert sum(reply.attempts for reply in replies) == len(server.log) > 150
        assert max(reply.attempts for reply in replies) <= 6
        assert server.max_in_flight <= 8
        assert sum(reply.usage.input_tokens for reply in replies) == server.prompt_tokens


@pytest.mark.parametrize(("limits", "weigh"), [({"rpm": 8}, False), ({"tpm": 700}, True)])
def test_the_server_sees_no_window_over_a_rate(limits, weigh):
    clock, seen = FastClock(), []

    def policy(body):
        size = sum(len(message["content"].encode()) for message in body["messages"])
        seen.append((clock.now(), size))
        return "top up"

    with FakeOpenAIServer(policy, faults=lambda n, _: 500 if n % 6 == 0 else None) as server:
        limit = Limits(concurrency=6, clock=clock, **limits)
        replies = ask(chat(server, limits=limit), *texts(30))
        assert len(server.log) == sum(reply.attempts for reply in replies) == 35
        tokens = [entry.prompt_tokens + entry.completion_tokens for entry in server.log]
    assert seen[-1][0] > 60
    for start, _ in seen:
        window = [when for when, _ in seen if start <= when < start + 60]
        used = sum(max(tokens) for _ in window) if weigh else len(window)
        assert used <= (limits["tpm"] if weigh else limits["rpm"])


def test_nobody_starts_while_the_gate_of_a_429_is_closed():
    fault = Fault(status=429, retry_after_ms=400)
    with FakeOpenAIServer(latency=0.01, faults=planned({9: fault})) as server:
        replies = ask(chat(server, limits=Limits(concurrency=4)), *texts(40))
        (closed,) = [entry.end_s for entry in server.log if entry.status == 429]
        # up to three others were on their way when the answer left
        early = [e for e in server.log if closed + 0.03 < e.arrival_s < closed + 0.4]
    assert early == []
    assert sum(reply.attempts for reply in replies) == 41
