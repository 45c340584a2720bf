"""Errors as gateways and frameworks hand them on: the words stay, codes and headers change."""

from __future__ import annotations

import pytest

from fungi_hf.errors import ConfigError
from fungi_hf.icl import evaluate
from fungi_hf.icl.faults import judge, read_answer, server_wait
from fungi_hf.icl.limits import Limits
from fungi_hf.icl.model import LLM
from tests.icl.evaluate_kit import setup

QUOTA = "You exceeded your current quota, please check your plan and billing details."
LITELLM = (
    "litellm.RateLimitError: RateLimitError: OpenAIException - {}\n\nNo fallback was attempted."
)


def error(message, code="429", **more):
    """An error of the LiteLLM proxy, whose code repeats the status."""
    return {"error": {"message": message, "type": "throttling_error", "code": code, **more}}


def test_a_spent_quota_is_known_by_its_words():
    found = judge(429, {}, error(LITELLM.format(QUOTA)), Limits())
    assert found.kind == "fatal"
    assert found.message.startswith(f"the server answered 429: {LITELLM.format(QUOTA)}")
    assert judge(403, {}, error("insufficient credits"), Limits()).kind == "fatal"


@pytest.mark.parametrize(
    ("words", "wait"),
    [
        (f"{QUOTA} Quota exceeded for metric: requests, limit: 15. Please retry in 27.5s.", 27.5),
        ("No deployments available for selected model, Try again in 5 seconds.", 5.0),
        ("Rate limit reached on tokens per min (TPM). Please try again in 120ms.", 0.12),
        ("slow down", 0.5),
        ("Please try again later; the limit is 5 s", 0.5),
    ],
)
def test_a_wait_in_words_is_waited_for(words, wait):
    found = judge(429, {}, error(words), Limits())
    assert found.kind == "retry"
    assert found.wait_s == pytest.approx(wait)


def test_a_header_wins_over_words_and_a_servers_own_over_its_providers():
    words = "try again in 9s"
    provider = {"llm_provider-retry-after": "2"}
    assert server_wait({}, 0.0, words) == 9.0
    assert server_wait(provider, 0.0, words) == 2.0
    assert server_wait({"llm_provider-retry-after-ms": "1500"}, 0.0) == 1.5
    assert server_wait({"retry-after": "3", **provider}, 0.0, words) == 3.0
    assert judge(429, provider, error(LITELLM.format(QUOTA)), Limits()).kind == "retry"


@pytest.mark.parametrize(
    ("body", "words"),
    [
        (b"{\"detail\": \"Server is pinned to 'a'; requested 'b'.\"}", "Server is pinned to 'a'"),
        (b'{"detail": [{"loc": ["body", "model"]}]}', "[{'loc': ['body', 'model']}]"),
        (b'{"error": "the worker died"}', "the worker died"),
        (b'{"error": ""}', "{'error': ''}"),
    ],
)
def test_words_are_found_wherever_a_framework_puts_them(body, words):
    found = read_answer(400, {}, body, Limits())
    assert found.message.startswith(f"the server answered 400: {words}")


def test_a_gateway_without_a_database_wants_its_master_key():
    found = judge(400, {}, error("No connected db.", "400"), Limits())
    assert found.message.endswith("the master key: without a database this gateway knows no other")


def test_a_model_that_takes_batches_must_say_how():
    class Half(LLM):
        name = "half"
        batch_size = 4

        async def answer(self, prompt, labels):
            """Never called."""

    selector, builder, test = setup()
    with pytest.raises(ConfigError, match="Half sets batch_size=4 without answer_batch; define it"):
        evaluate(selector, builder, Half(), test)
