"""A run that a test kills: python kill_program.py URL FOLDER CACHE ROWS CONCURRENCY ANSWERS."""

from __future__ import annotations

import signal
import sys

if __name__ == "__main__":
    import tests.icl.bare  # noqa: F401 - must come first

from fungi_hf.icl import (
    ChatLLM,
    DemoSelector,
    Examples,
    FreeAnswers,
    LabelSpace,
    PromptBuilder,
    evaluate,
)
from fungi_hf.icl.limits import Limits
from tests.icl.chat_kit import NAMES, task


def as_texts(examples):
    """The same examples, whose targets are accepted texts."""
    targets = [[f"the {NAMES[label]}", NAMES[label]] for label in examples.targets]
    return Examples(contents=examples.contents, targets=targets)


def main(url, folder, cache, rows, concurrency, answers="labels"):
    train, test = task(n_test=int(rows))
    space = LabelSpace(NAMES)
    if answers == "text":
        train, test, space = as_texts(train), as_texts(test), FreeAnswers("f1")
    llm = ChatLLM(
        "fake",
        base_url=url,
        cache=None if cache == "none" else cache,
        limits=Limits(concurrency=int(concurrency)),
    )
    selector = DemoSelector("bm25", k=5).fit(train)
    result = evaluate(selector, PromptBuilder(space), llm, test, out=folder)
    llm.close()
    return result


if __name__ == "__main__":
    # A suite that runs in the background ignores SIGINT, and so would this program.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    done = main(*sys.argv[1:])
    print(done.requests, done.accuracy)
