"""Dry runs count what a real run sends, and send nothing."""

from __future__ import annotations

import socket
import subprocess
import sys

import pytest

from fungi_hf.errors import (
    PromptOverflowError,
)
from fungi_hf.icl import (
    ChatLLM,
    Examples,
    FakeOpenAIServer,
    PromptBuilder,
    evaluate,
)
from fungi_hf.icl.llm import Sampling
from tests.icl.chat_kit import LABELS
from tests.icl.evaluate_kit import TenLines, setup, words

DRY_PROGRAM = """
import sys
import tests.icl.bare
import fungi_hf.icl
from fungi_hf.icl import ChatLLM, DemoSelector, PromptBuilder, evaluate
from tests.icl.chat_kit import LABELS, task
train, test = task()
selector = DemoSelector("bm25", k=5).fit(train)
print(evaluate(selector, PromptBuilder(LABELS), ChatLLM("m"), test, dry_run=True).requests)
heavy = ("openai", "httpx", "httpx2", "torch", "transformers", "pandas", "pyarrow", "sklearn")
print([name for name in heavy if name in sys.modules])
"""


class TestDryRun:
    def test_tokens_equal_the_servers_count_given_its_tokenizer(self):
        selector, builder, test = setup(count_tokens=words)
        with FakeOpenAIServer(count_tokens=words) as server:
            llm = ChatLLM("fake", base_url=server.url, sampling=Sampling(max_output_tokens=9))
            dry = evaluate(selector, builder, llm, test, dry_run=True)
            assert not server.log
            evaluate(selector, builder, llm, test)
            assert dry.input_tokens == server.prompt_tokens
        assert (dry.rows, dry.requests, dry.cached, dry.exact_count) == (20, 20, 0, True)
        assert dry.max_output_tokens == 180
        assert dry.cost(input=1.0, output=2.0) == (dry.input_tokens + 360) / 1e6
        assert dry.coverage == selector.select(test).coverage(test.targets)
        assert "requests        20" in str(dry)

    def test_answered_rows_cost_nothing(self, tmp_path):
        selector, builder, test = setup()
        with FakeOpenAIServer() as server:
            llm = ChatLLM("fake", base_url=server.url, cache=tmp_path / "answers.sqlite")
            half = test.take(range(10))
            evaluate(selector, builder, llm, half)
            dry = evaluate(selector, builder, llm, test, dry_run=True)
            assert (dry.cached, dry.requests) == (10, 10)
            before = server.prompt_tokens
            evaluate(selector, builder, llm, test, out=tmp_path / "run")
            assert len(server.log) == 20
            assert dry.max_output_tokens == 640
            other = ChatLLM("fake", base_url=server.url)
            done = evaluate(selector, builder, other, test, dry_run=True, out=tmp_path / "run")
            assert (done.cached, done.requests, done.input_tokens) == (20, 0, 0)
            assert server.prompt_tokens > before

    def test_no_socket_is_opened(self, monkeypatch):
        def refuse(*_, **__):
            raise AssertionError("a socket was opened")

        monkeypatch.setattr(socket, "socket", refuse)
        monkeypatch.setattr(socket, "create_connection", refuse)
        monkeypatch.setattr(socket, "socketpair", refuse)
        monkeypatch.delenv("OPENAI_API_KEY", raising=False)
        selector, builder, test = setup()
        dry = evaluate(selector, builder, ChatLLM("gpt-x"), test, dry_run=True)
        assert dry.requests == 20

    def test_no_client_and_no_model_library_is_loaded(self):
        done = subprocess.run(
            [sys.executable, "-c", DRY_PROGRAM], capture_output=True, text=True, check=False
        )
        assert done.stdout.split("\n")[:2] == ["20", "[]"], done.stderr

    def test_queries_without_targets_are_enough(self):
        selector, builder, test = setup()
        bare = Examples(contents=test.contents)
        dry = evaluate(selector, builder, TenLines(), bare, dry_run=True)
        assert (dry.coverage, dry.requests) == (None, 20)

    def test_queries_over_the_budget_are_counted_and_not_sent(self):
        selector, _, _ = setup()
        test = Examples(contents=["top " * 500, "top money"], targets=[0, 1])
        builder = PromptBuilder(LABELS, max_input_tokens=200, on_overflow="skip")
        with FakeOpenAIServer() as server:
            llm = ChatLLM("fake", base_url=server.url)
            dry = evaluate(selector, builder, llm, test, dry_run=True)
            result = evaluate(selector, builder, llm, test)
            assert (dry.overflow_rows, dry.requests, len(server.log)) == (1, 1, 1)
        assert [row.status for row in result.rows] == ["overflow", "ok"]
        strict = PromptBuilder(LABELS, max_input_tokens=200)
        with pytest.raises(PromptOverflowError, match="query row 0"):
            evaluate(selector, strict, TenLines(), test)
