"""A small task, its parts and one call of evaluate, for the tests of whole runs."""

from __future__ import annotations

from fungi_hf.icl import (
    ChatLLM,
    DemoSelector,
    PromptBuilder,
    evaluate,
)
from fungi_hf.icl.llm import LLM, Reply, RequestFailedError
from tests.icl.chat_kit import LABELS, task, waits_by


def words(text):
    return len(text.split())


def setup(n_test=20, k=5, strategy="bm25", **settings):
    train, test = task(n_test=n_test)
    selector = DemoSelector(strategy, k=k).fit(train)
    return selector, PromptBuilder(LABELS, **settings), test


def run(server, n_test=20, out=None, k=5, repeats=1, **settings):
    selector, builder, test = setup(n_test, k)
    llm = ChatLLM("fake", base_url=server.url, **settings)
    with waits_by(llm.limits.clock):
        return evaluate(selector, builder, llm, test, out=out, repeats=repeats)


def results_bytes(folder):
    return (folder / "results.jsonl").read_bytes()


class TenLines(LLM):
    name = "ten lines"

    async def answer(self, prompt, labels):
        shown = [m["content"] for m in prompt.messages if m["role"] == "assistant"]
        if "question 3" in prompt.messages[-1]["content"]:
            raise RequestFailedError("no answer", 2)
        return Reply(content=shown[-1])
