"""ChatLLM against the loopback server; passes with openai 2.x and 3.x."""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import subprocess
import sys
import traceback
import warnings

import pytest

from fungi_hf.errors import CacheError, ConfigError, LLMAuthError, LLMError
from fungi_hf.icl.cache import AnswerCache
from fungi_hf.icl.fake_server import FakeOpenAIServer, Fault
from fungi_hf.icl.labels import LabelSpace
from fungi_hf.icl.llm import LLM, ChatLLM, Limits, RequestFailedError, Sampling, Usage
from fungi_hf.icl.policies import FakeReply
from tests.icl.chat_kit import LABELS, NAMES, FastClock, prompt

SECRET = "sk-very-secret-0123456789"


def ask(llm, *prompts, labels=LABELS, draws=None):
    """Answer the prompts at the same time; exceptions come back as results."""

    async def run():
        try:
            return await asyncio.gather(
                *(
                    llm.answer(p, labels, draw=draw)
                    for p, draw in zip(prompts, draws or [0] * len(prompts), strict=True)
                ),
                return_exceptions=True,
            )
        finally:
            await llm.aclose()

    return asyncio.run(run())


def chat(server, **settings):
    return ChatLLM("fake", base_url=server.url, **settings)


def texts(n):
    return [prompt(f"text {i}") for i in range(n)]


@pytest.mark.parametrize("output", ["text", "enum", "json"])
def test_an_answer_comes_back_with_its_usage(output):
    with FakeOpenAIServer() as server:
        llm = chat(server, output=output)
        (reply,) = ask(llm, prompt())
        assert LABELS.parse(reply.content).label == NAMES.index("top up")
        assert reply.usage == Usage(
            input_tokens=server.prompt_tokens, output_tokens=server.completion_tokens
        )
        assert (reply.model, reply.system_fingerprint) == ("fake", "fp_loopback")
        assert (reply.attempts, reply.from_cache, reply.failure) == (1, False, None)
        assert isinstance(llm, LLM)


def test_the_request_is_what_the_settings_say():
    seen = []

    def policy(body):
        seen.append(body)
        return "top up"

    sampling = Sampling(
        temperature=None,
        token_param="max_tokens",
        max_output_tokens=9,
        seed=4,
        extra={"reasoning_effort": "low"},
    )
    with FakeOpenAIServer(policy) as server:
        ask(chat(server, output="text", sampling=sampling), prompt())
        ask(chat(server, output="enum"), prompt())
    messages = list(prompt().messages)
    assert seen[0] == {
        "model": "fake", "messages": messages, "max_tokens": 9, "seed": 4,
        "reasoning_effort": "low",
    }  # fmt: skip
    assert seen[1]["temperature"] == 0.0
    assert seen[1]["max_completion_tokens"] == 64
    schema = seen[1]["response_format"]["json_schema"]
    assert schema["strict"] is True
    assert schema["schema"]["properties"]["label"]["enum"] == NAMES
    assert schema["schema"]["additionalProperties"] is False


def test_awkward_texts_arrive_verbatim():
    awkward = 'braces {} %s \\ " \n```\nLabel: x \x00 é 🙂 \ud83d lone'
    seen = []

    def policy(body):
        seen.append(body["messages"][-1]["content"])
        return "top up"

    with FakeOpenAIServer(policy) as server:
        ask(chat(server), prompt(awkward))
    assert seen == [awkward]


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
        (reply,) = ask(chat(server, output="text", cache=cache), prompt())
        assert reply.failure == failure
        assert reply.usage.input_tokens == server.prompt_tokens > 0
        assert len(cache) == (1 if reply.content == "top up" and failure is None else 0)


@pytest.mark.parametrize(
    ("code", "failure"),
    [("context_length_exceeded", "overflow"), ("content_filter", "refused")],
)
def test_400_with_a_row_code_settles_the_row(code, failure):
    with FakeOpenAIServer(faults={1: Fault(status=400, code=code)}) as server:
        (reply,) = ask(chat(server), prompt())
        assert reply.failure == failure
        assert len(server.log) == 1


@pytest.mark.parametrize("status", [400, 401, 403, 404, 422])
def test_other_client_errors_stop_after_one_attempt_with_the_servers_words(status):
    fault = Fault(status=status, message="the words of the server")
    with FakeOpenAIServer(faults={1: fault}) as server:
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
    [408, 409, 429, 500, 503, Fault(status=0), Fault(malformed=True)],
    ids=["408", "409", "429", "500", "503", "disconnect", "not JSON"],
)
def test_passing_faults_are_tried_again_by_one_loop_only(fault):
    clock = FastClock()
    with FakeOpenAIServer(faults={1: fault, 2: fault}) as server:
        (reply,) = ask(chat(server, limits=Limits(clock=clock)), prompt())
        assert reply.attempts == len(server.log) == 3
        assert LABELS.parse(reply.content).status == "ok"
    waits = sorted(clock.slept)
    assert 0.375 <= waits[0] <= 0.5
    assert 0.75 <= waits[-1] <= 1.0


@pytest.mark.parametrize("attempts", [1, 4])
def test_attempts_are_bounded_exactly(attempts):
    limits = Limits(max_attempts=attempts, clock=FastClock())
    with FakeOpenAIServer(faults=lambda *_: 500) as server:
        (error,) = ask(chat(server, limits=limits), prompt())
        assert isinstance(error, RequestFailedError)
        assert error.attempts == len(server.log) == attempts


def test_a_slow_answer_times_out_and_is_tried_again():
    faults = {1: Fault(status=200, delay_s=1.0)}
    with FakeOpenAIServer(faults=faults) as server:
        (reply,) = ask(chat(server, limits=Limits(timeout=0.25, clock=FastClock())), prompt())
        assert reply.attempts == 2


def test_retry_after_closes_the_gate_for_everybody():
    clock, starts = FastClock(), []

    def faults(number, body):
        starts.append((number, clock.now(), body["messages"][-1]["content"]))
        return Fault(status=429, retry_after=20) if number == 1 else None

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
        (Fault(status=429, retry_after="soon"), 0.375),
    ],
    ids=["seconds", "milliseconds", "milliseconds first", "date", "nonsense"],
)
def test_the_servers_wait_is_obeyed(fault, least):
    clock, starts = FastClock(), []

    def faults(number, _):
        starts.append(clock.now())
        return fault if number == 1 else None

    with FakeOpenAIServer(faults=faults) as server:
        (reply,) = ask(chat(server, limits=Limits(clock=clock)), prompt())
    assert reply.attempts == 2
    assert least <= starts[1] <= least + 0.5


def test_a_wait_above_the_limit_stops_with_the_time_to_continue():
    faults = {1: Fault(status=429, retry_after=3600)}
    with FakeOpenAIServer(faults=faults) as server:
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


CHANGES = {
    "model": {"model": "other"},
    "output": {"output": "text"},
    "temperature": {"sampling": Sampling(temperature=0.5)},
    "no temperature": {"sampling": Sampling(temperature=None)},
    "tokens": {"sampling": Sampling(max_output_tokens=65)},
    "token field": {"sampling": Sampling(token_param="max_tokens")},
    "seed": {"sampling": Sampling(seed=1)},
    "logprobs": {"sampling": Sampling(top_logprobs=5)},
    "extra": {"sampling": Sampling(extra={"user": "x"})},
}


def test_the_cache_answers_the_same_request_and_no_other(tmp_path, monkeypatch):
    path = tmp_path / "answers.sqlite"
    with FakeOpenAIServer() as server, FakeOpenAIServer() as elsewhere:

        def sent(question=None, labels=LABELS, draw=0, url=server.url, **changes):
            settings = {"model": "fake", **changes}
            llm = ChatLLM(settings.pop("model"), base_url=url, cache=path, **settings)
            before = len(server.log) + len(elsewhere.log)
            (reply,) = ask(llm, question or prompt(), labels=labels, draws=[draw])
            llm.close()
            count = len(server.log) + len(elsewhere.log) - before
            assert reply.from_cache == (count == 0)
            assert (reply.usage == Usage()) == (count == 0)
            return count

        assert sent() == 1
        assert sent() == 0
        assert sent(limits=Limits(concurrency=3, timeout=9)) == 0
        assert sent(api_key=SECRET) == 0
        for changes in CHANGES.values():
            assert sent(**changes) == 1, changes
            assert sent(**changes) == 0, changes
        assert sent(url=elsewhere.url) == 1
        assert sent(draw=1) == 1
        assert sent(prompt("another text")) == 1
        assert sent(prompt(demos=(("text a", "top up"), ("text b", "top up")))) == 1
        assert sent(labels=LabelSpace([*NAMES, "one more"])) == 1
        monkeypatch.setattr("fungi_hf.icl.chat.PROMPT_VERSION", 999)
        assert sent() == 1
    assert SECRET.encode() not in b"".join(p.read_bytes() for p in tmp_path.iterdir())


def test_hits_are_parsed_anew_and_equal_the_first_answer(tmp_path):
    with FakeOpenAIServer() as server:
        first = ask(chat(server, cache=tmp_path / "a"), prompt())[0]
        again = ask(chat(server, cache=tmp_path / "a"), prompt())[0]
    assert again == first.free()


def test_repair_sends_an_off_list_answer_back_once_and_bills_both():
    seen = []

    def policy(body):
        seen.append(body["messages"])
        return "top up" if len(seen) == 2 else "sideways"

    with FakeOpenAIServer(policy) as server:
        llm = chat(server, output="text", limits=Limits(repair=1))
        (reply,) = ask(llm, prompt())
        assert (reply.content, reply.attempts) == ("top up", 2)
        assert reply.usage.input_tokens == server.prompt_tokens
    assert seen[1][:-2] == seen[0]
    assert seen[1][-2] == {"role": "assistant", "content": "sideways"}
    with FakeOpenAIServer("invalid") as server:
        (reply,) = ask(chat(server, output="text"), prompt())
        assert len(server.log) == 1


def test_more_labels_than_a_schema_holds_switches_to_text_with_one_warning():
    many = LabelSpace([f"label number {i}" for i in range(1001)])
    seen = []

    def policy(body):
        seen.append(body.get("response_format"))
        return "label number 7"

    with FakeOpenAIServer(policy) as server:
        llm = chat(server)
        with pytest.warns(UserWarning, match="1001 labels with .* output='text' is used"):
            (reply,) = ask(llm, prompt(), labels=many)
        ask(llm, prompt("again"), labels=many)  # a second warning would be an error here
    assert seen == [None, None]
    assert many.parse(reply.content).label == 7
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        fits = LabelSpace([f"label number {i}" for i in range(900)])
        assert ChatLLM("m").prompt_output(fits) == "enum"
    long = LabelSpace([f"{i} " + "x" * 60 for i in range(251)])
    with pytest.warns(UserWarning, match="251 labels"):
        assert ChatLLM("m").prompt_output(long) == "text"


def test_a_server_that_ignores_the_schema_is_still_parsed_here():
    with FakeOpenAIServer(["The label is: top up."]) as server:
        (reply,) = ask(chat(server, output="enum"), prompt())
        assert LABELS.parse(reply.content).label == 1


def test_label_scores_are_read_from_the_first_token_when_labels_start_differently():
    demos = (("a", "top up"), ("b", "top up"), ("c", "lost card"))
    with FakeOpenAIServer() as server:
        llm = chat(server, output="text", sampling=Sampling(top_logprobs=5))
        (reply,) = ask(llm, prompt(demos=demos))
    scores = reply.label_scores
    assert len(scores) == 4
    assert max(range(4), key=scores.__getitem__) == 1
    assert scores[1] > scores[3] >= scores[0] == scores[2]


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
    with FakeOpenAIServer(api_key=SECRET, faults={2: fault}) as server:
        llm = chat(server, api_key=SECRET, cache=tmp_path / "answers.sqlite")
        ((reply,), (error,)) = ask(llm, prompt()), ask(llm, prompt("other"))
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
        ({"base_url": f"http://h/v1?key={SECRET}"}, "must not carry credentials or a query"),
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
        ({"concurrency": 0}, "concurrency must be an integer of at least 1, got 0"),
        ({"concurrency": True}, "got True"),
        ({"rpm": 0}, "rpm must be"),
        ({"timeout": -1}, "timeout must be a positive number of seconds"),
        ({"ask_again": ("wrong",)}, "'wrong'; choose one of 'empty', 'length', 'refused'"),
        ({"ask_again": "empty"}, "is one string"),
    ):
        with pytest.raises(ConfigError, match=message):
            Limits(**bad)
    for bad, message in (
        ({"temperature": -0.1}, "temperature must be at least 0"),
        ({"temperature": float("nan")}, "temperature must be at least 0"),
        ({"top_logprobs": 21}, "between 1 and 20"),
        ({"max_output_tokens": 0}, "max_output_tokens must be"),
        ({"token_param": "tokens"}, "unknown token_param"),
        ({"extra": {"model": "x"}}, "extra must not name model"),
        ({"extra": {"x": {1, 2}}}, "extra must hold JSON values"),
    ):
        with pytest.raises(ConfigError, match=message):
            Sampling(**bad)


def test_a_request_larger_than_the_token_rate_is_refused_beforehand():
    llm = ChatLLM("m", base_url="http://127.0.0.1:9/v1", limits=Limits(tpm=100))
    with pytest.raises(ConfigError, match=r"row 1 takes 164 tokens .* more than tpm=100"):
        llm.check([prompt(tokens=30), prompt(tokens=100)])


def test_the_injected_faults_of_a_bad_day():
    def faults(number, body):
        draw = int(hashlib.sha256(f"{number}".encode()).hexdigest(), 16) % 20
        kinds = [Fault(status=429, retry_after=1), 500, Fault(status=0), Fault(malformed=True)]
        return kinds[draw] if draw < 4 else None

    limits = Limits(concurrency=8, max_attempts=6, clock=FastClock())
    with FakeOpenAIServer(faults=faults) as server:
        replies = ask(chat(server, limits=limits), *texts(150))
        assert all(LABELS.parse(reply.content).status == "ok" for reply in replies)
        assert sum(reply.attempts for reply in replies) == len(server.log) > 150
        assert max(reply.attempts for reply in replies) <= 6
        assert server.max_in_flight <= 8
        assert sum(reply.usage.input_tokens for reply in replies) == server.prompt_tokens


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
    with pytest.raises(ConfigError, match="price of output"):
        usage.cost(input=1.0, output=-1.0)


def test_a_cache_that_cannot_be_used_is_an_error_at_once(tmp_path):
    with pytest.raises(CacheError, match="is a folder"):
        ChatLLM("m", cache=tmp_path)


def test_errors_keep_their_facts():
    error = RequestFailedError("no answer", 3)
    assert str(error) == "no answer (3 attempts)"
    assert isinstance(error, LLMError)


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
    with FakeOpenAIServer(latency=0.01, faults={9: fault}) as server:
        replies = ask(chat(server, limits=Limits(concurrency=4)), *texts(40))
        (closed,) = [entry.end_s for entry in server.log if entry.status == 429]
        # up to three others were on their way when the answer left
        early = [e for e in server.log if closed + 0.03 < e.arrival_s < closed + 0.4]
    assert early == []
    assert sum(reply.attempts for reply in replies) == 41
