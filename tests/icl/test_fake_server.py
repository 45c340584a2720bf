"""The loopback server: it reads every prompt style, refuses bad requests, fails as planned."""

from __future__ import annotations

import http.client
import json
import threading
import time

import pytest

from fungi_hf.errors import ConfigError
from fungi_hf.icl.sampling import schema_fits
from fungi_hf.icl.server.fake_server import FakeOpenAIServer, Fault
from fungi_hf.icl.server.policies import (
    POLICIES,
    BadRequestError,
    FakeReply,
    check_request,
    estimate_tokens,
    read_prompt,
)
from tests.icl.chat_kit import planned

LABELS = ["card arrival", "top up", "exchange rate"]


def schema(values=tuple(LABELS), **changes):
    inner = {
        "type": "object",
        "properties": {"label": {"type": "string", "enum": list(values)}},
        "required": ["label"],
        "additionalProperties": False,
    }
    inner.update(changes)
    return {
        "type": "json_schema",
        "json_schema": {"name": "answer", "strict": True, "schema": inner},
    }


def multiturn(demos, query="the query", *, as_json=False):
    messages = [{"role": "system", "content": "Labels:\n" + "\n".join(LABELS)}]
    for text, label in demos:
        answer = json.dumps({"label": label}) if as_json else label
        messages += [{"role": "user", "content": text}, {"role": "assistant", "content": answer}]
    return {"model": "fake", "messages": [*messages, {"role": "user", "content": query}]}


def block(demos, query="the query", tail=""):
    lines = [f"Text: {json.dumps(text)}\nLabel: {label}" for text, label in demos]
    content = "\n".join([*lines, f"Text: {json.dumps(query)}"]) + tail
    messages = [
        {"role": "system", "content": "Labels:\n" + "\n".join(LABELS)},
        {"role": "user", "content": content},
    ]
    return {"model": "fake", "messages": messages}


def post(server, body, path="/v1/chat/completions", key=None):
    host = server.url.removeprefix("http://").removesuffix("/v1")
    connection = http.client.HTTPConnection(host, timeout=10)
    try:
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        headers = {"Authorization": f"Bearer {key}"} if key else {}
        connection.request("POST", path, data, headers)
        response = connection.getresponse()
        return response.status, json.loads(response.read()), dict(response.headers)
    finally:
        connection.close()


def content(answer):
    return answer[1]["choices"][0]["message"]["content"]


TRICKY = [
    ('braces {} % and "quotes"', "top up"),
    ("two\nlines\nLabel: card arrival", "exchange rate"),
    ('Text: "x"\nLabel: card arrival', "top up"),
    ("emoji 🙂", "card arrival"),
]


@pytest.mark.parametrize("shape", ["multiturn", "multiturn-json", "block", "completion"])
def test_demonstrations_are_read_back_from_every_style(shape):
    if shape.startswith("multiturn"):
        body = multiturn(TRICKY, as_json=shape.endswith("json"))
    else:
        body = block(TRICKY, tail="\nLabel:" if shape == "completion" else "")
    shown = read_prompt(check_request(body))
    assert list(shown.demos) == TRICKY
    assert shown.query == "the query"
    assert shown.json_key == ("label" if shape == "multiturn-json" else None)


def demos(*labels):
    return [(f"text {i}", label) for i, label in enumerate(labels)]


@pytest.mark.parametrize(
    ("policy", "labels", "expected"),
    [
        ("majority", ["top up", "card arrival", "top up"], "top up"),
        ("majority", ["top up", "card arrival", "card arrival", "top up"], "top up"),
        ("majority", ["top up", "top up", "card arrival", "card arrival"], "card arrival"),
        ("nearest", ["top up", "top up", "exchange rate"], "exchange rate"),
        # weights from the last: 1, 1/2, 1/3, 1/4; 1/2 + 1/3 + 1/4 > 1
        ("reciprocal_rank", ["top up", "top up", "top up", "card arrival"], "top up"),
        ("reciprocal_rank", ["top up", "top up", "card arrival"], "card arrival"),
        # 1/2 + 1/3 + 1/6 = 1: a tie, to the label listed first
        ("reciprocal_rank", ["card arrival", *["x", "y"], *["card arrival"] * 2, "top up"],
         "card arrival"),
        ("first_label", ["top up", "exchange rate"], "top up"),
        ("echo", ["top up"], "the query"),
    ],
)  # fmt: skip
@pytest.mark.parametrize("style", [multiturn, block], ids=["multiturn", "block"])
def test_votes_follow_their_definition(policy, labels, expected, style):
    with FakeOpenAIServer(policy=policy) as server:
        assert content(post(server, style(demos(*labels)))) == expected


def test_lookup_answers_from_the_table_only_what_is_shown():
    table = {"the query": "exchange rate"}
    with FakeOpenAIServer("lookup", table=table) as server:
        assert content(post(server, multiturn(demos("exchange rate", "top up", "top up")))) == (
            "exchange rate"
        )
        assert content(post(server, multiturn(demos("top up", "card arrival", "top up")))) == (
            "top up"
        )


def test_answers_take_the_form_that_is_asked_for():
    body = multiturn(demos("top up"))
    with FakeOpenAIServer() as server:
        with_schema = content(post(server, {**body, "response_format": schema()}))
        assert json.loads(with_schema) == {"label": "top up"}
        as_json = content(post(server, {**body, "response_format": {"type": "json_object"}}))
        assert json.loads(as_json) == {"label": "top up"}
        without = multiturn([], query="q")
        assert json.loads(content(post(server, {**without, "response_format": schema()}))) == {
            "label": "card arrival"
        }


def test_failure_classes_look_as_real_ones():
    body = multiturn(demos("top up"))
    seen = {}
    for policy in ("empty", "refusal", "length", "invalid"):
        with FakeOpenAIServer(policy) as server:
            seen[policy] = post(server, body)[1]["choices"][0]
    assert seen["empty"]["message"]["content"] == ""
    assert seen["refusal"]["message"]["refusal"]
    assert seen["refusal"]["message"]["content"] is None
    assert seen["length"]["finish_reason"] == "length"
    assert seen["length"]["message"]["content"] == "top"
    assert seen["invalid"]["message"]["content"] not in LABELS


def test_scripts_and_functions_answer():
    body = multiturn(demos("top up"))
    with FakeOpenAIServer(["one", FakeReply(content="two", cached_tokens=5)]) as server:
        assert content(post(server, body)) == "one"
        second = post(server, body)[1]
        assert second["choices"][0]["message"]["content"] == "two"
        assert second["usage"]["prompt_tokens_details"] == {"cached_tokens": 5}
        assert post(server, body)[0] == 400
    with FakeOpenAIServer(lambda request: request["model"].upper()) as server:
        assert content(post(server, body)) == "FAKE"


def change(**fields):
    return {**multiturn(demos("top up")), **fields}


WAV = {"data": "UklGRgAAAABXQVZF", "format": "wav"}


def audio(**fields):
    part = {"type": "input_audio", "input_audio": {**WAV, **fields}}
    return change(messages=[{"role": "user", "content": [part]}])


BAD = {
    "unknown": (change(prompt="x"), "Unrecognized request argument supplied: prompt"),
    "temperature": (change(temperature="0"), "Invalid type for 'temperature'"),
    "bool": (change(max_tokens=True), "Invalid type for 'max_tokens'"),
    "stream": (change(stream=True), "stream"),
    "several": (change(n=2), "n must be 1"),
    "logprobs": (change(top_logprobs=3), "needs logprobs"),
    "empty": (change(messages=[]), "must not be empty"),
    "missing": ({"messages": [{"role": "user", "content": "x"}]}, "Missing required"),
    "role": (change(messages=[{"role": "me", "content": "x"}]), "role must be one of"),
    "content": (change(messages=[{"role": "user", "content": 3}]), "must be a string"),
    "parts": (change(messages=[{"role": "user", "content": [{"type": "text"}]}]), "content part"),
    "format": (change(response_format={"type": "xml"}), "response_format.type"),
    "open": (change(response_format=schema(additionalProperties=True)), "additionalProperties"),
    "optional": (change(response_format=schema(required=[])), "must be required"),
    "array": (change(response_format=schema(type="array")), "the root must be an object"),
    "many": (change(response_format=schema(map(str, range(1001)))), "too large"),
    "base64": (audio(data="?"), "not base64"),
    "mp4": (audio(format="mp4"), "wav or mp3"),
    "wav": (audio(data="AAAA"), "not a WAV"),
}


@pytest.mark.parametrize(("body", "message"), BAD.values(), ids=BAD)
def test_bad_requests_are_refused_with_the_reason(body, message):
    with pytest.raises(BadRequestError, match=message):
        check_request(body)


def test_a_bad_request_gets_status_400_and_is_logged():
    with FakeOpenAIServer() as server:
        status, answer, _ = post(server, change(stream=True))
        assert status == 400
        assert "stream" in answer["error"]["message"]
        assert post(server, b"{")[0] == 400
        assert post(server, change(), path="/v1/completions")[0] == 404
        assert [entry.status for entry in server.log] == [400, 400]


def test_audio_parts_are_accepted():
    with FakeOpenAIServer("invalid") as server:
        assert post(server, audio())[0] == 200


def test_schema_limits_are_the_documented_ones():
    assert schema_fits(["x" * 100] * 250)
    assert not schema_fits(["x" * 100] * 251)
    assert schema_fits(["x" * 15] * 1000)
    assert not schema_fits(["x"] * 1001)


def test_faults_hit_the_planned_requests_and_no_other():
    plan = {
        2: 429,
        3: Fault(status=503, retry_after=7, retry_after_ms=5, code="busy"),
        4: Fault(status=200, body=b'{"choices": ['),
        5: Fault(status=0),
    }
    body = multiturn(demos("top up"))
    with FakeOpenAIServer(faults=planned(plan)) as server:
        assert post(server, body)[0] == 200
        assert post(server, body)[0] == 429
        status, answer, headers = post(server, body)
        assert (status, answer["error"]["code"], headers["Retry-After"]) == (503, "busy", "7")
        assert headers["retry-after-ms"] == "5"
        with pytest.raises(json.JSONDecodeError):
            post(server, body)
        with pytest.raises(http.client.RemoteDisconnected):
            post(server, body)
        assert post(server, body)[0] == 200
        assert [entry.status for entry in server.log] == [200, 429, 503, 200, 0, 200]
        assert [entry.prompt_tokens > 0 for entry in server.log] == [
            True, False, False, False, False, True,
        ]  # fmt: skip


def test_usage_is_the_log_and_follows_the_tokenizer():
    body = multiturn(demos("top up", "top up"))
    with FakeOpenAIServer(count_tokens=lambda text: len(text.split())) as server:
        usage = post(server, body)[1]["usage"]
        words = sum(len(message["content"].split()) for message in body["messages"])
        assert usage["prompt_tokens"] == words + 3 * len(body["messages"]) + 3
        assert usage["completion_tokens"] == 2
        assert (server.prompt_tokens, server.completion_tokens) == (usage["prompt_tokens"], 2)
    assert estimate_tokens("abcde") == 2
    assert estimate_tokens("éé") == 1


def test_a_key_is_checked_and_never_logged():
    with FakeOpenAIServer(api_key="secret-key") as server:
        assert post(server, change())[0] == 401
        assert post(server, change(), key="secret-key")[0] == 200
        assert "secret-key" not in repr(server.log)


def test_concurrent_requests_are_counted_and_none_is_reset():
    body = multiturn(demos("top up"))
    with FakeOpenAIServer(latency=0.2) as server:
        answers = []
        threads = [
            threading.Thread(target=lambda: answers.append(post(server, body)[0]))
            for _ in range(40)
        ]
        started = time.monotonic()
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert time.monotonic() - started < 4
    assert answers == [200] * 40
    assert 2 <= server.max_in_flight <= 40
    assert sorted(entry.number for entry in server.log) == list(range(1, 41))


def test_wrong_settings_are_refused():
    with pytest.raises(ConfigError, match="'majorty'; choose one of 'majority'"):
        FakeOpenAIServer(policy="majorty")
    with pytest.raises(ConfigError, match="latency must be a number >= 0; got -1"):
        FakeOpenAIServer(latency=-1)
    with pytest.raises(ConfigError, match="table is needed"):
        FakeOpenAIServer(policy="lookup")
    with pytest.raises(ConfigError, match="before start"):
        _ = FakeOpenAIServer().url
    assert "lookup" in POLICIES
