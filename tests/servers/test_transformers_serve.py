"""`transformers serve` with tiny models: requests, tokens, resuming, the command line."""

from __future__ import annotations

import json
import subprocess

import pytest
import torch

from fungi_hf.errors import LLMError
from fungi_hf.icl import ChatLLM, DemoSelector, LabelSpace, PromptBuilder, evaluate
from fungi_hf.icl.llm import Limits, Sampling
from tests.icl.chat_kit import NAMES, task
from tests.icl.local_kit import tiny_model, tiny_tokenizer
from tests.servers import kit

ANSWER = NAMES[1]
ROWS = 20
TRAIN, TEST = task(n_test=ROWS)
SELECTOR = DemoSelector("bm25", k=3).fit(TRAIN)
BUILDER = PromptBuilder(LabelSpace(NAMES))


def prompts(output="text"):
    demos = SELECTOR.select(TEST)
    texts = enumerate(TEST.contents)
    return [BUILDER.build(text, demos[row], output=output, row=row) for row, text in texts]


def taught(model, tokenizer):
    """Teach a model to answer one label, and to end its answer, whatever it is asked."""
    question = [
        tokenizer.apply_chat_template(
            list(one.messages), add_generation_prompt=True, tokenize=True, return_dict=False
        )
        for pair in zip(prompts("text"), prompts("json"), strict=True)
        for one in pair
    ]
    answer = tokenizer(f"{ANSWER}<|end|>", add_special_tokens=False)["input_ids"]
    step = torch.optim.Adam(model.parameters(), lr=5e-3)
    for ids in question * 3:
        row = torch.tensor([ids + answer])
        labels = torch.tensor([[-100] * len(ids) + answer])
        step.zero_grad()
        model(input_ids=row, labels=labels).loss.backward()
        step.step()


@pytest.fixture(scope="module")
def tokenizer():
    corpus = [
        *TRAIN.contents,
        *TEST.contents,
        *NAMES,
        BUILDER.build("x", SELECTOR.select(TEST)[0]).preview(),
    ]
    return tiny_tokenizer(corpus, chat=True)


@pytest.fixture(scope="module")
def models(tmp_path_factory, tokenizer):
    """Two folders: random weights, and the same after a short lesson."""
    folder = tmp_path_factory.mktemp("models")
    model = tiny_model()
    model.generation_config.eos_token_id = model.config.eos_token_id = tokenizer.eos_token_id
    for name in ("random", "taught"):
        if name == "taught":
            taught(model, tokenizer)
        model.save_pretrained(folder / name)
        tokenizer.save_pretrained(folder / name)
    return folder


def transformers_serve(folder, *arguments):
    port = kit.free_port()
    command = [kit.program("transformers"), "serve", *arguments, "--device", "cpu"]
    command += ["--host", "127.0.0.1", "--port", str(port)]
    return kit.serving(command, port, folder / "server.log")


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    folder = tmp_path_factory.mktemp("serve")
    with transformers_serve(folder) as url:
        yield url, folder / "server.log"


def ask(url, model, out=None, *, dry_run=False, **settings):
    settings = {"output": "text", "sampling": Sampling(max_output_tokens=8)} | settings
    llm = ChatLLM(str(model), base_url=f"{url}/v1", **settings)
    return evaluate(SELECTOR, BUILDER, llm, TEST, out=out, dry_run=dry_run)


def posts(log):
    return log.read_text().count("POST /v1/chat/completions")


def test_a_random_model_end_to_end(server, models, tokenizer, tmp_path):
    url, log = server
    before = posts(log)
    dry = ask(url, models / "random", tmp_path / "run", dry_run=True)
    assert (dry.rows, dry.requests, posts(log)) == (ROWS, ROWS, before)
    result = ask(url, models / "random", tmp_path / "run")
    assert result.complete
    assert (result.requests, posts(log) - before) == (ROWS, ROWS)
    assert set(result.statuses) <= {"ok", "invalid", "length", "empty"}
    assert sum(result.statuses.values()) == ROWS
    # what the server bills is what its tokenizer makes of the prompts
    counted = [
        len(
            tokenizer.apply_chat_template(list(one.messages), add_generation_prompt=True)[
                "input_ids"
            ]
        )
        for one in prompts()
    ]
    assert result.usage.input_tokens == sum(counted)
    assert 0 < result.usage.output_tokens <= 8 * ROWS
    written = (tmp_path / "run" / "results.jsonl").read_bytes()
    again = ask(url, models / "random", tmp_path / "run")
    assert (again.requests, posts(log) - before) == (0, ROWS)
    assert (tmp_path / "run" / "results.jsonl").read_bytes() == written
    assert ask(url, models / "random", tmp_path / "run", dry_run=True).requests == 0


@pytest.mark.parametrize("output", ["text", "enum", "json"])
@pytest.mark.parametrize("token_param", ["max_tokens", "max_completion_tokens"])
def test_a_model_that_answers_a_label(server, models, output, token_param):
    sampling = Sampling(max_output_tokens=32, token_param=token_param)
    result = ask(server[0], models / "taught", output=output, sampling=sampling)
    assert result.statuses == {"ok": ROWS}
    assert {row.label for row in result.rows} == {ANSWER}
    assert result.accuracy == 0.25


def test_an_answer_of_one_token_is_cut(server, models):
    result = ask(server[0], models / "taught", sampling=Sampling(max_output_tokens=1))
    assert result.statuses == {"length": ROWS}
    assert result.usage.output_tokens == ROWS


def test_an_interrupted_run_is_continued(server, models, tmp_path):
    url, log = server
    llm = ChatLLM(str(models / "taught"), base_url=f"{url}/v1", output="text")
    whole = evaluate(SELECTOR, BUILDER, llm, TEST, out=tmp_path / "whole")
    cut = tmp_path / "whole" / "journal.jsonl"
    expected = (tmp_path / "whole" / "results.jsonl").read_bytes()
    cut.write_bytes(b"".join(cut.read_bytes().splitlines(keepends=True)[:7]))
    before = posts(log)
    again = evaluate(SELECTOR, BUILDER, llm, TEST, out=tmp_path / "whole")
    assert again.requests == posts(log) - before == ROWS - 7
    assert again.rows == whole.rows
    assert (tmp_path / "whole" / "results.jsonl").read_bytes() == expected


def test_an_unknown_field_stops_the_run_with_the_servers_words(server, models):
    sampling = Sampling(extra={"guided_choice": NAMES})
    with pytest.raises(LLMError, match=r"422: Unexpected fields in the request: {'guided_choice'}"):
        ask(server[0], models / "random", sampling=sampling)


def test_a_server_of_one_model_names_it(models, tmp_path):
    with transformers_serve(tmp_path, str(models / "random")) as url:
        with pytest.raises(LLMError, match=r"400: Server is pinned to .*; requested 'other'"):
            ask(url, "other")
        result = ask(url, models / "random")
    assert result.complete
    with pytest.raises(LLMError, match=r"the first 10 requests could not connect|failed alike"):
        ask(url, models / "random", limits=Limits(max_attempts=1))


def test_the_command_line(server, models, tmp_path):
    (tmp_path / "labels.json").write_text(json.dumps(NAMES))
    for name, examples in (("train", TRAIN), ("test", TEST)):
        rows = zip(examples.contents, examples.targets, strict=True)
        lines = [json.dumps({"text": text, "label": label}) for text, label in rows]
        (tmp_path / f"{name}.jsonl").write_text("\n".join(lines))
    command = [kit.program("fungi-hf"), "icl", "run", "--strategy=bm25", "--k=3", "--output=text"]
    command += [f"--{name}={tmp_path / name}.jsonl" for name in ("train", "test")]
    command += [f"--labels={tmp_path / 'labels.json'}", f"--model={models / 'taught'}"]
    command += [f"--base-url={server[0]}/v1", f"--out={tmp_path / 'run'}"]
    for sent in (ROWS, 0):
        before = posts(server[1])
        done = subprocess.run(
            command, capture_output=True, text=True, env=kit.environment(), timeout=120, check=False
        )
        assert done.returncode == 0, done.stderr
        assert done.stdout.startswith("accuracy        0.2500")
        assert f"statuses        ok {ROWS}" in done.stdout
        assert posts(server[1]) - before == sent
