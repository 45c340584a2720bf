"""Take prompts from one queue until none is left, and record each outcome as it comes."""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from fungi_hf.errors import RequestFailedError
from fungi_hf.icl.reply import Usage

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from fungi_hf.icl.journal import Journal
    from fungi_hf.icl.model import LLM
    from fungi_hf.icl.plan import Asked, Plan
    from fungi_hf.icl.reply import Reply


@dataclass(slots=True)
class Progress:
    """How far a run is.

    Attributes:
        rows: Rows in all, repetitions included.
        finished: Rows with an outcome, those of earlier processes included.
        failed: Rows whose outcome is no label.
        tokens: Tokens billed by this process.
        started_s: When this process began, `time.monotonic()`.
        fresh: Rows finished by this process.
    """

    rows: int
    finished: int = 0
    failed: int = 0
    tokens: int = 0
    started_s: float = field(default_factory=time.monotonic)
    fresh: int = 0

    @property
    def rate(self) -> float:
        """Rows per second of this process."""
        return self.fresh / max(time.monotonic() - self.started_s, 1e-9)


class Workers:
    """The workers of one run and what they share.

    Args:
        plan: The prompts.
        llm: The model.
        journal: Where outcomes go.
        watch: Called after each finished row.
    """

    def __init__(
        self,
        plan: Plan,
        llm: LLM,
        journal: Journal,
        watch: Callable[[Progress], None] | None,
    ) -> None:
        self._plan, self._llm, self._journal = plan, llm, journal
        self._watch = watch
        self._progress = Progress(
            rows=len(plan.asked),
            finished=len(journal.finished),
            failed=sum(result.status != "ok" for result in journal.finished.values()),
        )

    async def finish(self, todo: list[Asked]) -> None:
        """Finish all prompts, or stop all at the first error that stops a run."""
        ready = []
        for one in todo:
            if one.prompt.is_overflow:
                self._record(one, None, status="overflow")
            else:
                ready.append(one)
        if self._llm.batch_size is not None:
            await self._in_batches(ready, self._llm.batch_size)
            return
        n_workers = min(len(ready), self._llm.limits.concurrency)
        rows = iter(ready)  # one queue for all: never more tasks than may be in flight
        workers = [asyncio.ensure_future(self._worker(rows)) for _ in range(n_workers)]
        try:
            await asyncio.gather(*workers)
        finally:
            for worker in workers:
                worker.cancel()
            await asyncio.gather(*workers, return_exceptions=True)

    async def _worker(self, rows: Iterator[Asked]) -> None:
        for one in rows:
            started = time.time()
            try:
                reply = await self._llm.answer(one.prompt, self._plan.labels)
            except RequestFailedError as error:
                facts = {"attempts": error.attempts, "error": str(error), "started": started}
                self._record(one, None, status="failed", facts=facts)
            else:
                self._record(one, reply, facts={"started": started})

    async def _in_batches(self, ready: list[Asked], size: int) -> None:
        for start in range(0, len(ready), size):
            batch, started = ready[start : start + size], time.time()
            replies = self._llm.answer_batch([one.prompt for one in batch], self._plan.labels)
            for one, reply in zip(batch, replies, strict=True):
                self._record(one, reply, facts={"started": started})
            await asyncio.sleep(0)  # lets an interruption through

    def _record(
        self,
        one: Asked,
        reply: Reply | None,
        status: str | None = None,
        facts: dict[str, Any] | None = None,
    ) -> None:
        result = self._plan.result(one, reply, status)
        usage = Usage() if reply is None else reply.usage
        said = {**(facts or {}), "finished": time.time()}
        if reply is not None:
            said |= {
                "attempts": reply.attempts,
                "from_cache": reply.from_cache,
                "finish_reason": reply.finish_reason,
                "model": reply.model,
                "system_fingerprint": reply.system_fingerprint,
            }
        progress = self._progress
        before = self._journal.finished.get((one.repeat, one.row))
        progress.failed -= before is not None and before.status != "ok"
        self._journal.add(one.row, result, said, usage)
        progress.finished = len(self._journal.finished)
        progress.fresh += 1
        progress.failed += result.status != "ok"
        progress.tokens += usage.total_tokens
        if self._watch is not None:
            self._watch(progress)
