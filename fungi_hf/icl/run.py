"""Run all queries through a model: concurrently, resumably, and honest about every row.

Nothing is sent before everything that can be checked was checked; nothing that was answered is
asked again.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import platform
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Literal, overload

from fungi_hf.errors import LLMError
from fungi_hf.icl.dry_run import DryRun
from fungi_hf.icl.journal import Journal, claim, finish
from fungi_hf.icl.plan import make_plan
from fungi_hf.icl.results import EvalResult
from fungi_hf.icl.workers import Progress, Workers

if TYPE_CHECKING:
    from collections.abc import Callable

    from fungi_hf.icl.examples import Examples
    from fungi_hf.icl.model import LLM
    from fungi_hf.icl.plan import Asked, Plan
    from fungi_hf.icl.prompt import PromptBuilder
    from fungi_hf.icl.selector import DemoSelector

__all__ = ["DryRun", "EvalResult", "Evaluation", "Progress", "aevaluate", "evaluate"]


class Evaluation:
    """A run that was planned and not yet sent.

    Args:
        selector: A fitted `DemoSelector`; None shows no demonstrations.
        builder: Builds prompts.
        llm: Any `LLM`.
        queries: What to classify; targets are the gold labels.
        repeats: Repetitions, each with the selector's next seed.
        needs_gold: Refuse queries without targets; a dry run can do without.
    """

    def __init__(
        self,
        selector: DemoSelector | None,
        builder: PromptBuilder,
        llm: LLM,
        queries: Examples,
        *,
        repeats: int = 1,
        needs_gold: bool = True,
    ) -> None:
        self.llm = llm
        self.plan: Plan = make_plan(
            selector, builder, llm, queries, repeats=repeats, needs_gold=needs_gold
        )

    def dry_run(self, out: str | Path | None = None) -> DryRun:
        """Say what a run would send; opens no socket.

        Args:
            out: The run folder, whose finished rows are not asked again.

        Returns:
            Requests and tokens.
        """
        asked = self.plan.asked
        journal = Journal(None if out is None else Path(out))
        journal.read()
        open_rows = [one for one in self._open(journal) if not one.prompt.is_overflow]
        labels = self.plan.labels
        open_rows = [one for one in open_rows if not self.llm.is_cached(one.prompt, labels)]
        overflow = sum(one.prompt.is_overflow for one in asked)
        gold = self.plan.gold
        return DryRun(
            rows=len(asked),
            cached=len(asked) - len(open_rows) - overflow,
            requests=len(open_rows),
            input_tokens=sum(one.prompt.input_tokens for one in open_rows),
            exact_count=all(one.prompt.exact_count for one in asked),
            max_output_tokens=len(open_rows) * self.llm.max_output_tokens,
            dropped_demos=sum(len(one.prompt.dropped) for one in asked),
            overflow_rows=overflow,
            n_leaks=self.plan.n_leaks,
            coverage=None if gold is None else sum(one.covered for one in asked) / len(asked),
            audio_s=sum(one.prompt.audio_s for one in open_rows),
        )

    async def run(
        self,
        out: str | Path | None = None,
        watch: Callable[[Progress], None] | None = None,
    ) -> EvalResult:
        """Ask what is not answered yet.

        Args:
            out: The run folder; the same call again continues there.
            watch: Called after each finished row.

        Returns:
            All rows.

        Raises:
            LLMError: If the server refuses for good; `partial` holds the rows finished before.
        """
        folder = None if out is None else Path(out)
        journal = Journal(folder)
        if folder is not None:
            claim(folder, self.plan.config, {"versions": _versions(), "sizes": self._sizes()})
        journal.open()
        try:
            todo = self._open(journal)
            workers = Workers(self.plan, self.llm, journal, watch)
            if todo:
                self.llm.check([one.prompt for one in todo])
            try:
                await workers.finish(todo)
            except LLMError as error:
                error.partial = self._result(journal, folder)
                error.add_note(_where(len(journal.finished), folder))
                raise
            finally:
                if folder is not None:
                    finish(folder, self._result(journal, folder))
        finally:
            journal.close()
            await self.llm.aclose()
        return self._result(journal, folder)

    def _open(self, journal: Journal) -> list[Asked]:
        """Give the prompts whose outcome is not final."""
        again = {"failed", *self.llm.limits.ask_again}
        finished = {k for k, result in journal.finished.items() if result.status not in again}
        return [one for one in self.plan.asked if (one.repeat, one.row) not in finished]

    def _sizes(self) -> dict[str, int]:
        plan = self.plan
        return {
            "n_rows": len(plan.queries),
            "repeats": plan.repeats,
            "n_leaks": plan.n_leaks,
            "unreachable": plan.unreachable,
        }

    def _result(self, journal: Journal, folder: Path | None) -> EvalResult:
        return EvalResult(
            all_rows=journal.rows(),
            usage=journal.usage,
            requests=journal.requests,
            config=self.plan.config,
            folder=folder,
            **self._sizes(),
        )


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
    """Classify all queries with retrieved demonstrations.

    Works inside a running event loop too (a notebook): it then uses a thread of its own.

    Args:
        selector: A fitted `DemoSelector`; None shows no demonstrations.
        builder: Builds prompts.
        llm: A `ChatLLM`, a `LocalLLM`, or an own class derived from `LLM`.
        queries: What to classify; targets are the gold labels.
        out: Run folder; the same call again continues there and asks nothing twice.
        dry_run: Send nothing, and say what would be sent.
        repeats: Repetitions, each with the selector's next seed: other random rows, other
            shuffles; a prompt that stays the same is asked anew.

    Returns:
        The outcome of every row; with `dry_run` what would be sent.
    """
    evaluation = Evaluation(
        selector, builder, llm, queries, repeats=repeats, needs_gold=not dry_run
    )
    if dry_run:
        return evaluation.dry_run(out)
    return run_here(evaluation, out)


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
    return await Evaluation(selector, builder, llm, queries, repeats=repeats).run(out)


def run_here(
    evaluation: Evaluation,
    out: str | Path | None = None,
    watch: Callable[[Progress], None] | None = None,
) -> EvalResult:
    """Run to the end, whether or not an event loop is running in this thread."""
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return asyncio.run(evaluation.run(out, watch))
    with concurrent.futures.ThreadPoolExecutor(max_workers=1) as thread:
        return thread.submit(lambda: asyncio.run(evaluation.run(out, watch))).result()


def _where(finished: int, folder: Path | None) -> str:
    kept = "as .partial of this error" if folder is None else f"in {folder}; run again to continue"
    return f"{finished} rows are finished and kept {kept}"


def _versions() -> dict[str, str]:
    found = {"python": platform.python_version()}
    for package in ("fungi-hf", "numpy", "openai", "torch", "transformers"):
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return found
