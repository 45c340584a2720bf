"""ChatLLM against the loopback server; passes with openai 2.x and 3.x."""

from __future__ import annotations

import warnings

import pytest

from fungi_hf.icl.labels import LabelSpace
from fungi_hf.icl.llm import LLM, ChatLLM, Limits, Sampling, Usage
from fungi_hf.icl.server.fake_server import FakeOpenAIServer
from tests.icl.chat_kit import LABELS, NAMES, SECRET, ask, chat, prompt


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
