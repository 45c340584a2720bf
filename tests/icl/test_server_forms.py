"""Every form in which public servers say that something is wrong, or say it in other words."""

from __future__ import annotations

import dataclasses
import json

import pytest

from fungi_hf.errors import LLMError
from fungi_hf.icl.cache import AnswerCache
from fungi_hf.icl.limits import SlidingWindow
from fungi_hf.icl.llm import Limits, RequestFailedError
from fungi_hf.icl.reply import read_usage
from fungi_hf.icl.server import forms
from fungi_hf.icl.server.fake_server import FakeOpenAIServer, Fault
from tests.icl.chat_kit import LABELS, FastClock, ask, chat, prompt
from tests.icl.evaluate_kit import run


def one(llm):
    """Answer one prompt, and raise what it raised."""
    (found,) = ask(llm, prompt())
    if isinstance(found, BaseException):
        raise found
    return found


def always(form: Fault):
    return FakeOpenAIServer(faults=lambda *_: form)


@pytest.mark.parametrize("name", forms.INSIDE)
def test_an_error_inside_is_tried_again_and_then_fails(name):
    limits = Limits(max_attempts=3, clock=FastClock())
    with always(forms.INSIDE[name]) as server:
        with pytest.raises(RequestFailedError) as caught:
            one(chat(server, limits=limits))
        assert len(server.log) == 3
    assert caught.value.attempts == 3
    body = forms.INSIDE[name].body
    for words in (b"upstream broke", b"slow down", b"something", b"overloaded"):
        if words in body:
            assert words.decode() in str(caught.value)


@pytest.mark.parametrize("name", forms.INSIDE)
def test_an_error_inside_may_pass(name):
    limits = Limits(max_attempts=3, clock=FastClock())
    faults = lambda number, _: forms.INSIDE[name] if number < 3 else None
    with FakeOpenAIServer(["top up"] * 3, faults=faults) as server:
        reply = one(chat(server, output="text", limits=limits))
    assert (reply.content, reply.attempts) == ("top up", 3)


def test_a_run_of_inner_errors_is_incomplete_and_keeps_the_words(tmp_path):
    limits = Limits(max_attempts=2, clock=FastClock(), stop_after=None)
    with always(forms.INSIDE["gateway error"]) as server:
        result = run(server, n_test=12, out=tmp_path / "run", limits=limits)
    assert result.statuses == {"failed": 12}
    assert not result.complete
    assert "upstream broke" in (tmp_path / "run" / "journal.jsonl").read_text()


@pytest.mark.parametrize("name", forms.UNPAID)
def test_payment_stops_the_run_at_once(name):
    with always(forms.UNPAID[name]) as server:
        with pytest.raises(LLMError, match=r"no credits|Balance|spent"):
            one(chat(server))
        assert len(server.log) == 1


@pytest.mark.parametrize("name", forms.BLOCKED)
def test_a_block_is_a_refusal_of_the_row(name):
    with always(forms.BLOCKED[name]) as server:
        reply = one(chat(server, output="text"))
        assert reply.failure == "refused"
        assert len(server.log) == 1


@pytest.mark.parametrize("name", forms.TOO_LONG)
def test_a_prompt_that_is_too_long_settles_the_row_and_the_run_goes_on(name, tmp_path):
    long = forms.TOO_LONG[name]
    with FakeOpenAIServer(faults=lambda number, _: long if number == 1 else None) as server:
        result = run(server, n_test=8, out=tmp_path / "run", limits=Limits(concurrency=1))
    assert result.statuses == {"overflow": 1, "ok": 7}
    assert result.complete


@pytest.mark.parametrize("name", forms.COMPLETE)
def test_complete_answers_are_read_and_cached(name, tmp_path):
    with always(forms.COMPLETE[name]) as server, AnswerCache(tmp_path / "a.sqlite") as cache:
        llm = chat(server, output="text", cache=cache)
        reply = one(llm)
        assert reply.failure is None
        answer = LABELS.parse(reply.content)
        assert LABELS.names[answer.label] == "top up"
        assert llm.is_cached(prompt(), LABELS)
        again = one(llm)
        assert again.from_cache
        assert LABELS.parse(again.content) == answer


@pytest.mark.parametrize("name", forms.CUT)
def test_answers_that_are_cut_are_not_kept(name, tmp_path):
    with always(forms.CUT[name]) as server, AnswerCache(tmp_path / "a.sqlite") as cache:
        llm = chat(server, output="text", cache=cache)
        reply = one(llm)
        assert reply.failure == "length"
        assert not llm.is_cached(prompt(), LABELS)


@pytest.mark.parametrize("name", forms.USAGE)
def test_usage_in_other_names_is_read(name):
    usage = read_usage({"usage": forms.USAGE[name]})
    assert (usage.input_tokens, usage.output_tokens) == (700, 5)


@pytest.mark.parametrize("name", forms.UNREPORTED)
def test_without_usage_the_estimate_counts_for_the_rate(name, monkeypatch):
    settled = []
    settle = SlidingWindow.settle
    monkeypatch.setattr(
        SlidingWindow,
        "settle",
        lambda self, ticket, now, tokens: (
            settled.append(tokens),
            settle(self, ticket, now, tokens),
        ),
    )
    body = json.loads(forms.answer("top up").body) | {"usage": forms.UNREPORTED[name]}
    with always(Fault(status=200, body=json.dumps(body).encode())) as server:
        reply = one(chat(server, output="text", limits=Limits(tpm=9000)))
    assert reply.usage.input_tokens == 0
    assert settled == [prompt().input_tokens + 64]


def test_the_summary_says_where_nothing_was_reported():
    body = json.loads(forms.answer('{"label": "top up"}').body)
    del body["usage"]
    with always(Fault(status=200, body=json.dumps(body).encode())) as server:
        result = run(server, n_test=4)
    assert "tokens          not reported by the server" in str(result)


@pytest.mark.parametrize("status", [400, 409, 418, 422, 404])
def test_another_refusal_of_one_row_is_its_own_failure_once_others_succeeded(status, tmp_path):
    odd = Fault(status=status, message="cannot parse this one")
    faults = lambda number, _: odd if number == 5 else None
    limits = Limits(concurrency=1, max_attempts=1)
    with FakeOpenAIServer(faults=faults) as server:
        result = run(server, n_test=9, out=tmp_path / "run", limits=limits)
    assert result.statuses == {"ok": 8, "failed": 1}
    assert not result.complete
    lines = list(map(json.loads, (tmp_path / "run" / "journal.jsonl").read_text().splitlines()))
    (failed,) = [line for line in lines if line["result"]["status"] == "failed"]
    assert "cannot parse this one" in failed["error"]
    with FakeOpenAIServer() as server:
        again = run(server, n_test=9, limits=limits)
    assert again.complete


@pytest.mark.parametrize("status", [400, 404, 422])
def test_the_first_refusal_of_all_stops(status):
    with always(Fault(status=status, message="why")) as server:
        with pytest.raises(LLMError, match=f"{status}: why"):
            one(chat(server))
        assert len(server.log) == 1


@pytest.mark.parametrize(
    "fault",
    [
        Fault(status=500, message="boom 17"),
        Fault(status=502, body=b"<html><title>502 Bad Gateway</title></html>"),
        Fault(status=400, message="row 12 is odd"),
        forms.INSIDE["gateway error"],
    ],
    ids=["500", "502 page", "400", "inside"],
)
def test_a_server_that_is_down_for_good_stops_the_run_with_its_words(fault, tmp_path):
    faults = lambda number, _: None if number <= 3 else fault
    limits = Limits(concurrency=4, max_attempts=2, clock=FastClock())
    with FakeOpenAIServer(faults=faults) as server:
        with pytest.raises(LLMError, match="the last 10 rows failed alike, so the run stops"):
            run(server, n_test=200, out=tmp_path / "run", limits=limits)
        assert len(server.log) < 3 + 2 * (10 + 4)


def test_an_html_page_is_fatal():
    page = b"\n<!DOCTYPE html><html><head><title>Welcome</title></head></html>"
    for status in (200, 404):
        with always(Fault(status=status, body=page)) as server:
            with pytest.raises(LLMError, match=r"an HTML page \(Welcome\); is base_url right"):
                one(chat(server))
            assert len(server.log) == 1


@pytest.mark.parametrize(
    ("policy", "words"),
    [
        ("length", "raise max_output_tokens"),
        ("empty", "raise max_output_tokens, or look at what the server sends"),
        ("refusal", "the server refuses these texts"),
        ("invalid", "the answers are off the label list"),
    ],
)
def test_a_run_that_begins_without_a_label_stops_with_advice(policy, words, tmp_path):
    limits = Limits(concurrency=1)
    with FakeOpenAIServer(policy) as server:
        with pytest.raises(LLMError, match=words) as caught:
            run(server, n_test=30, out=tmp_path / "run", output="text", limits=limits)
        assert len(server.log) == 20
        assert len(caught.value.partial.rows) == 20
        on = dataclasses.replace(limits, stop_after=None)
        whole = run(server, n_test=30, out=tmp_path / "run", output="text", limits=on)
        assert len(whole.rows) == 30


def test_one_label_among_the_first_rows_is_enough():
    answers = ["no label"] * 19 + ["top up"] + ["no label"] * 20
    with FakeOpenAIServer(answers) as server:
        limits = Limits(concurrency=1)
        result = run(server, n_test=40, output="text", limits=limits)
    assert result.statuses == {"invalid": 39, "ok": 1}


@pytest.mark.parametrize(
    ("message", "words"),
    [
        ("Unsupported parameter: 'max_tokens' is not supported, use 'max_completion_tokens'",
         "--token-param max_completion_tokens"),
        ("Unrecognized request argument: max_tokens", "--token-param max_tokens"),
        ("Invalid parameter: 'response_format' of type 'json_schema' is not supported",
         "--output text"),
        ("Unsupported value: 'temperature' does not support 0", "--temperature none"),
        ("logprobs are not available", "top_logprobs=None"),
    ],
)  # fmt: skip
def test_the_refusals_that_everybody_meets_name_what_helps(message, words):
    with always(Fault(status=400, message=message)) as server, pytest.raises(LLMError) as caught:
        one(chat(server))
    assert words in str(caught.value)


def test_a_missing_path_names_the_base_url():
    odd = Fault(status=404, message="Not Found")
    with always(odd) as server, pytest.raises(LLMError, match="usually ends in /v1"):
        one(chat(server))
