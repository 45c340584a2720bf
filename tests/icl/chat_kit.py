"""What the tests of the serving half share: a tiny task, a clock without waiting, prompts."""

from __future__ import annotations

import asyncio
import heapq
import itertools
from dataclasses import replace
from unittest import mock

from fungi_hf.icl.examples import Examples
from fungi_hf.icl.labels import LabelSpace
from fungi_hf.icl.limits import Clock
from fungi_hf.icl.llm import ChatLLM
from fungi_hf.icl.prompt import Prompt

NAMES = ["card arrival", "top up", "exchange rate", "lost card"]
LABELS = LabelSpace(NAMES)
SECRET = "sk-very-secret-0123456789"


def prompt(text="where is it", demos=(("text a", "top up"),), tokens=20) -> Prompt:
    """A hand-made multi-turn prompt."""
    messages = [{"role": "system", "content": "Labels:\n" + "\n".join(NAMES)}]
    for shown, label in demos:
        messages += [{"role": "user", "content": shown}, {"role": "assistant", "content": label}]
    messages.append({"role": "user", "content": text})
    return Prompt(messages=tuple(messages), input_tokens=tokens)


def task(n_test=20, n_train=40):
    """Train and test examples whose texts share words with their label."""
    words = ["card arrive mail", "top money add", "rate currency euro", "lost stolen gone"]
    train = [(f"{words[i % 4]} sample {i}", i % 4) for i in range(n_train)]
    test = [(f"{words[i % 4]} question {i}", i % 4) for i in range(n_test)]
    return tuple(
        Examples(contents=[t for t, _ in rows], targets=[y for _, y in rows])
        for rows in (train, test)
    )


class FastClock(Clock):
    """Virtual time: a sleeper wakes when the loop has nothing else to do, at its own time."""

    def __init__(self) -> None:
        self.time = 0.0
        self.slept: list[float] = []
        self._heap: list = []
        self._order = itertools.count()
        self._driver: asyncio.Task | None = None

    def now(self) -> float:
        return self.time

    def wall(self) -> float:
        return 1_700_000_000.0 + self.time

    async def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        future = asyncio.get_running_loop().create_future()
        heapq.heappush(self._heap, (self.time + seconds, next(self._order), future))
        if self._driver is None or self._driver.done():
            self._driver = asyncio.ensure_future(self._drive())
        await future

    async def _drive(self) -> None:
        while self._heap:
            # Let everything that is ready, real answers included, happen before time moves.
            for _ in range(20):
                await asyncio.sleep(0)
            await asyncio.sleep(0.002)
            when, _, future = heapq.heappop(self._heap)
            self.time = max(self.time, when)
            if not future.done():
                future.set_result(None)


def waits_by(clock):
    """Let the `openai` client's loop wait by this clock too."""
    return mock.patch("anyio.sleep", clock.sleep)


def ask(llm, *prompts, labels=LABELS, draws=None):
    """Answer the prompts at the same time; exceptions come back as results."""

    async def run():
        try:
            return await asyncio.gather(
                *(
                    llm.answer(replace(p, draw=draw), labels)
                    for p, draw in zip(prompts, draws or [0] * len(prompts), strict=True)
                ),
                return_exceptions=True,
            )
        finally:
            await llm.aclose()

    with waits_by(llm.limits.clock):
        return asyncio.run(run())


def chat(server, **settings):
    return ChatLLM("fake", base_url=server.url, **settings)


def planned(faults):
    """Faults by request number, as the function that the server takes."""
    return lambda number, _: faults.get(number)


def texts(n):
    return [prompt(f"text {i}") for i in range(n)]
