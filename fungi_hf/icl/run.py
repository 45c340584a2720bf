"""Run all queries through a model: concurrently, resumably, and honest about every row.

Nothing is sent before everything that can be checked was checked; nothing that was answered is
asked again.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
import platform
import time
from collections import Counter
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal, overload

from fungi_hf.errors import InputError, LLMError, RequestFailedError
from fungi_hf.icl.dry_run import DryRun
from fungi_hf.icl.journal import Journal, claim, finish
from fungi_hf.icl.plan import make_plan
from fungi_hf.icl.reply import Usage
from fungi_hf.icl.results import EvalResult, RowResult, read_rows

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from fungi_hf.icl.examples import Examples
    from fungi_hf.icl.model import LLM
    from fungi_hf.icl.plan import PlannedPrompt, RunPlan
    from fungi_hf.icl.prompt import PromptBuilder
    from fungi_hf.icl.reply import Reply
    from fungi_hf.icl.selector import DemoSelector

# Statuses of rows without a label or free answer, and what helps.
_BARREN: Final = {
    "length": "raise max_output_tokens (a model that reasons needs some thousands), or ask for "
    "less reasoning, e.g. Sampling(extra={'reasoning_effort': 'low'})",
    "empty": "raise max_output_tokens, or look at what the server sends (a model that reasons may "
    "put its words elsewhere)",
    "refused": "the server refuses these texts; choose another model, or change the instruction",
    "invalid": "the answers are off the label list; use output='enum', or another instruction",
}
_FACTS = ("attempts", "from_cache", "finish_reason", "model", "system_fingerprint")
__all__ = ["DryRun", "EvalResult", "Progress", "Run", "aevaluate", "evaluate", "run_here"]


@overload
def evaluate(
    selector: DemoSelector | None,
    builder: PromptBuilder,
    llm: LLM,
    queries: Examples,
    *,
    out: str | Path | None = None,
    dry_run: Literal[False] = False,
    repeats: int = 1,
) -> EvalResult: ...
@overload
def evaluate(
    selector: DemoSelector | None,
    builder: PromptBuilder,
    llm: LLM,
    queries: Examples,
    *,
    out: str | Path | None = None,
    dry_run: Literal[True],
    repeats: int = 1,
) -> DryRun: ...
def evaluate(
    selector: DemoSelector | None,
    builder: PromptBuilder,
    llm: LLM,
    queries: Examples,
    *,
    out: str | Path | None = None,
    dry_run: bool = False,
    repeats: int = 1,
) -> EvalResult | DryRun:
    """Classify or answer all queries with retrieved demonstrations.

    Works inside a running event loop too (a notebook): it then uses a thread of its own.

    Args:
        selector: A fitted `DemoSelector`; None shows no demonstrations.
        builder: Builds prompts.
        llm: A `ChatLLM`, a `LocalLLM`, or an own class derived from `LLM`.
        queries: What to ask; targets are the gold labels, or the accepted texts.
        out: Run folder; the same call again continues there and asks nothing twice.
        dry_run: Send nothing, and say what would be sent.
        repeats: Repetitions, each with the selector's next seed: other random rows, other
            shuffles; a prompt that stays the same is asked anew.

    Returns:
        The outcome of every row; with `dry_run` what would be sent.
    """
    plan = make_plan(selector, builder, llm, queries, repeats=repeats, needs_gold=not dry_run)
    return Run(plan, out).dry_run() if dry_run else run_here(Run(plan, out))


async def aevaluate(
    selector: DemoSelector | None,
    builder: PromptBuilder,
    llm: LLM,
    queries: Examples,
    *,
    out: str | Path | None = None,
    repeats: int = 1,
) -> EvalResult:
    """Do what `evaluate` does, in the running event loop."""
    return await Run(make_plan(selector, builder, llm, queries, repeats=repeats), out).finish()


def run_here(run: Run) -> EvalResult:
    """Run to the end, whether or not an event loop is running in this thread."""
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return asyncio.run(run.finish())
    with concurrent.futures.ThreadPoolExecutor(max_workers=1) as thread:
        return thread.submit(asyncio.run, run.finish()).result()


@dataclass(slots=True)
class Progress:
    """How far a run is."""

    rows: int  # rows in all, repetitions included
    finished: int = 0  # rows with an outcome, those of earlier processes included
    failed: int = 0  # rows whose outcome is no label and no answer
    tokens: int = 0  # tokens billed by this process
    fresh: int = 0  # rows finished by this process


class Run:
    """A plan that is carried out: what is finished, what it cost, and the workers for the rest.

    Finished rows of the folder `out` are not asked again; None keeps all in memory. `watch` is
    called after each row.
    """

    def __init__(
        self,
        plan: RunPlan,
        out: str | Path | None = None,
        watch: Callable[[Progress], None] | None = None,
    ) -> None:
        self._plan, self._watch = plan, watch
        self._folder = None if out is None else Path(out)
        self._journal: Journal | None = None
        self._finished: dict[tuple[int, int], RowResult] = {}  # by repetition and query row
        self._usage, self._requests = Usage(), 0
        self._barren: Counter[str] | None = Counter()  # statuses, as long as no row has a label
        if self._folder is not None:
            self._finished, self._usage = read_rows(self._folder)
        if any(result.status not in _BARREN for result in self._finished.values()):
            self._barren = None
        failed = sum(result.status != "ok" for result in self._finished.values())
        self._progress = Progress(len(plan.prompts), finished=len(self._finished), failed=failed)

    def dry_run(self) -> DryRun:
        """Say what `finish` would send; opens no socket."""
        plan, planned = self._plan, self._plan.prompts
        coverage = sum(one.covered for one in planned) / len(planned)
        fitting = [one for one in self.todo() if not one.prompt.is_overflow]
        sent = [one for one in fitting if not plan.llm.is_cached(one.prompt, plan.labels)]
        overflow = sum(one.prompt.is_overflow for one in planned)
        return DryRun(
            rows=len(planned),
            cached=len(planned) - len(sent) - overflow,
            requests=len(sent),
            input_tokens=sum(one.prompt.input_tokens for one in sent),
            exact_count=all(one.prompt.exact_count for one in planned),
            max_output_tokens=len(sent) * plan.llm.max_output_tokens,
            dropped_demos=sum(len(one.prompt.dropped) for one in planned),
            overflow_rows=overflow,
            n_leaks=plan.sizes["n_leaks"],
            coverage=None if plan.gold is None else coverage,
            audio_s=sum(one.prompt.audio_s for one in sent),
        )

    async def finish(self) -> EvalResult:
        """Ask what is not answered yet, and give all rows.

        Raises:
            LLMError: If the server refuses for good; `partial` holds the rows finished before.
        """
        plan, folder = self._plan, self._folder
        if folder is not None:
            claim(folder, plan.config, {"versions": _versions(), "sizes": plan.sizes})
            self._journal = Journal(folder)
            # Another process may have finished rows since this run was made.
            self._finished, self._usage = read_rows(folder)
        try:
            todo = self.todo()
            if todo:
                plan.llm.check([one.prompt for one in todo])
            try:
                await self._ask(todo)
            except LLMError as error:
                error.partial = self._result()
                kept = (
                    f"in {folder}; run again to continue" if folder else "as .partial of this error"
                )
                error.add_note(f"{len(self._finished)} rows are finished and kept {kept}")
                raise
            finally:
                if folder is not None:
                    result = self._result()
                    finish(folder, (row.to_dict() for row in result.all_rows), result.summary())
        finally:
            if self._journal is not None:
                self._journal.close()
            await plan.llm.aclose()
        return self._result()

    def todo(self) -> list[PlannedPrompt]:
        """Give the prompts whose outcome is not final."""
        again = {"failed", *self._plan.llm.limits.ask_again}
        final = {place for place, result in self._finished.items() if result.status not in again}
        return [one for one in self._plan.prompts if (one.prompt.draw, one.row) not in final]

    async def _ask(self, todo: list[PlannedPrompt]) -> None:
        """Finish all prompts, or stop all at the first error that stops a run."""
        llm, ready = self._plan.llm, [one for one in todo if one.prompt.messages]
        for one in todo:
            if not one.prompt.messages:
                self._record(one, None, "overflow", {})
        if llm.batch_size is not None:
            await self._ask_in_batches(ready, llm.batch_size)
            return
        rows = iter(ready)  # one queue for all: never more tasks than may be in flight
        n_workers = min(len(ready), llm.limits.concurrency)
        workers = [asyncio.ensure_future(self._worker(rows)) for _ in range(n_workers)]
        try:
            await asyncio.gather(*workers)
        finally:
            for worker in workers:
                worker.cancel()
            await asyncio.gather(*workers, return_exceptions=True)

    async def _worker(self, rows: Iterator[PlannedPrompt]) -> None:
        for one in rows:
            started = time.time()
            try:
                reply = await self._plan.llm.answer(one.prompt, self._plan.labels)
            except RequestFailedError as error:
                facts = {"attempts": error.attempts, "error": str(error), "started": started}
                self._record(one, None, "failed", facts)
            else:
                self._record(one, reply, None, {"started": started})

    async def _ask_in_batches(self, ready: list[PlannedPrompt], size: int) -> None:
        for start in range(0, len(ready), size):
            batch, started = ready[start : start + size], time.time()
            prompts = [one.prompt for one in batch]
            replies = self._plan.llm.answer_batch(prompts, self._plan.labels)
            for one, reply in zip(batch, replies, strict=True):
                self._record(one, reply, None, {"started": started})
            await asyncio.sleep(0)  # lets an interruption through

    def _record(
        self, one: PlannedPrompt, reply: Reply | None, status: str | None, facts: dict[str, Any]
    ) -> None:
        """Keep an outcome; facts are what may differ between runs: attempts, times, words."""
        facts["finished"] = time.time()
        usage = Usage() if reply is None else reply.usage
        if reply is not None:
            facts |= {name: getattr(reply, name) for name in _FACTS}
        result = self._outcome(one, reply, status)
        before = self._finished.get((result.repeat, one.row))
        self._finished[result.repeat, one.row] = result
        self._usage += usage
        self._requests += int(facts.get("attempts", 0))
        if self._journal is not None:
            line = {"row": one.row, "result": result.to_dict(), "usage": usage.to_dict()}
            self._journal.add({**line, **facts})
        self._check_start(result)
        if self._watch is not None:
            progress = self._progress
            was_failed = before is not None and before.status != "ok"
            progress.failed += (result.status != "ok") - was_failed
            progress.finished = len(self._finished)
            progress.fresh += 1
            progress.tokens += usage.total_tokens
            self._watch(progress)

    def _check_start(self, result: RowResult) -> None:
        """Stop a run whose first rows all give no label, before the rest is paid for.

        Raises:
            LLMError: With what helps.
        """
        stop, seen = self._plan.llm.limits.stop_after, self._barren
        if seen is None or stop is None:
            return
        if result.status not in _BARREN:
            self._barren = None
            return
        seen[result.status] += 1
        if seen.total() >= 2 * stop and len(self._finished) < len(self._plan.prompts):
            status, _ = seen.most_common(1)[0]
            word = "a label" if self._plan.labels.surfaces else "an answer"
            shown = f"; the last answer is {result.answer[:80]!r}" if result.answer else ""
            raise LLMError(
                f"none of the first {seen.total()} rows gave {word} ({dict(seen)}){shown}: "
                f"{_BARREN[status]}; Limits(stop_after=None) goes on nevertheless"
            )

    def _outcome(self, one: PlannedPrompt, reply: Reply | None, status: str | None) -> RowResult:
        # A status is given where it does not follow from the reply.
        plan, read = self._plan, None
        if plan.gold is None:
            raise InputError("queries have no targets, so answers cannot be scored")
        if status is None and reply is not None:
            status = reply.failure
            if status is None:
                read = plan.labels.parse(reply.content)
                status = read.status
        ids = plan.queries.ids
        return RowResult(
            id=one.row if ids is None else ids[one.row],
            status=status or "failed",
            answer=None if reply is None else reply.content,
            demonstrations=one.prompt.kept,
            dropped=tuple(drop.row for drop in one.prompt.dropped),
            input_tokens=one.prompt.input_tokens,
            covered=one.covered,
            repeat=one.prompt.draw,
            label_scores=None if reply is None else reply.label_scores,
            **plan.labels.outcome(plan.gold[one.row], read, one.vote),
        )

    def _result(self) -> EvalResult:
        return EvalResult(
            all_rows=tuple(self._finished[place] for place in sorted(self._finished)),
            usage=self._usage,
            requests=self._requests,
            config=self._plan.config,
            folder=self._folder,
            **self._plan.sizes,
        )


def _versions() -> dict[str, str]:
    found = {"python": platform.python_version()}
    for package in ("fungi-hf", "numpy", "openai", "torch", "transformers"):
        with contextlib.suppress(metadata.PackageNotFoundError):
            found[package] = metadata.version(package)
    return found
