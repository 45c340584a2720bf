"""The command line of in-context learning: run, dry-run, preview, compare.

Each command is a function of plain options that returns an exit status, so it works without a
parser too.
"""

from __future__ import annotations

import contextlib
import dataclasses
import sys
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, TextIO, get_args

from fungi_hf.errors import ConfigError, InputError, LLMError, choices
from fungi_hf.icl.chat import ChatLLM
from fungi_hf.icl.comparison import compare as compare_results
from fungi_hf.icl.examples import Examples
from fungi_hf.icl.limits import Limits
from fungi_hf.icl.prompt import PromptBuilder
from fungi_hf.icl.run import EvalResult, Evaluation, run_here
from fungi_hf.icl.sampling import Sampling
from fungi_hf.icl.selector import DemoSelector
from fungi_hf.icl.server.fake_server import FakeOpenAIServer
from fungi_hf.icl.sources import load_examples, load_labels
from fungi_hf.seeding import numpy_generator

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from fungi_hf.icl.comparison import Scope
    from fungi_hf.icl.labels import LabelSpace
    from fungi_hf.icl.run import Progress

Control = Literal["none", "random", "permuted"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """What a run needs; paths, names and numbers only.

    Attributes:
        train: File with the labelled pool; see `sources.load_examples`.
        test: File with the queries.
        labels: JSON list of label names.
        train_features: File with the pool's vectors, if they are not in train.
        test_features: File with the queries' vectors, if they are not in test.
        blocks: Feature blocks to keep.
        strategy: Name of a selection strategy.
        k: Demonstrations per query.
        max_per_class: Most demonstrations of one label.
        order: Prompt order.
        seed: For random choices.
        control: "none" (no demonstrations), "random" (random ones), "permuted" (retrieved ones
            with shuffled labels); None for the run itself.
        limit: Take the first so many queries; None takes all.
        style: Prompt style.
        instruction: First words of the system text.
        max_input_tokens: Token budget per prompt.
        model: The model's name at the server.
        base_url: The server; None takes the environment's, or OpenAI's.
        output: "enum", "text" or "json".
        limits: Rates and retries.
        sampling: Temperature and the like.
        cache: File that answers are kept in.
        out: Run folder.
        repeats: Repetitions.
        fake: Policy of a loopback server to be used instead of base_url.
    """

    train: Path
    test: Path
    labels: Path
    train_features: Path | None = None
    test_features: Path | None = None
    blocks: tuple[str, ...] | None = None
    strategy: str = "knn"
    k: int = 20
    max_per_class: int | None = None
    order: Any = "nearest_last"
    seed: int = 0
    control: Control | None = None
    limit: int | None = None
    style: Any = "multiturn"
    instruction: str | None = None
    max_input_tokens: int | None = None
    model: str = "gpt-4o-mini"
    base_url: str | None = None
    output: Any = "enum"
    limits: Limits = field(default_factory=Limits)
    sampling: Sampling = field(default_factory=Sampling)
    cache: Path | None = None
    out: Path | None = None
    repeats: int = 1
    fake: str | None = None


def prepare(options: Options) -> tuple[DemoSelector | None, PromptBuilder, Examples]:
    """Read the files and fit the selector.

    Args:
        options: The options.

    Returns:
        The fitted selector (None for the control without demonstrations), the prompt builder and
        the queries.

    Raises:
        ConfigError: If the control is unknown or the limit is not positive.
    """
    control = options.control
    if control is not None and control not in get_args(Control):
        raise ConfigError(f"unknown control {choices(control, get_args(Control))}")
    labels = load_labels(options.labels)
    pool = load_examples(options.train, options.train_features, options.blocks)
    queries = load_examples(options.test, options.test_features, options.blocks)
    if options.limit is not None:
        if options.limit < 1:
            raise ConfigError(f"limit must be at least 1, got {options.limit}")
        queries = queries.take(range(min(options.limit, len(queries))))
    builder = PromptBuilder(
        labels,
        style=options.style,
        instruction=options.instruction,
        max_input_tokens=options.max_input_tokens,
    )
    if control == "none":
        return None, builder, queries
    if control == "permuted":
        pool = _permuted(pool, labels, options.seed)
    if control == "random":
        # Without features the drawn rows stand in random order; with them the nearest is last.
        pool = Examples(contents=pool.contents, targets=pool.targets, ids=pool.ids)
    selector = DemoSelector(
        "random" if control == "random" else options.strategy,
        options.k,
        max_per_class=options.max_per_class,
        order=options.order,
        seed=options.seed,
    )
    return selector.fit(pool), builder, queries


def _permuted(pool: Examples, labels: LabelSpace, seed: int) -> Examples:
    if pool.targets is None:
        raise InputError("the pool has no labels to permute")
    targets = numpy_generator(seed, "permuted labels").permutation(labels.ids_of(pool.targets))
    permuted = dataclasses.replace(pool, targets=tuple(int(target) for target in targets))
    # The features are the pool's own, so their origin is too.
    object.__setattr__(permuted, "fingerprint", pool.fingerprint)
    return permuted


def run(options: Options, stdout: TextIO | None = None, stderr: TextIO | None = None) -> int:
    """Run, or continue a run, with a progress bar.

    Args:
        options: The options.
        stdout: Where totals go.
        stderr: Where progress and errors go.

    Returns:
        0; 1 if the server stopped the run or rows failed; 130 after an interruption. Finished
        rows are kept in the run folder in any case.
    """
    out, err = stdout or sys.stdout, stderr or sys.stderr
    with _model(options) as llm:
        evaluation = Evaluation(*_arguments(options, llm), repeats=options.repeats)
        try:
            with _bar(err) as watch:
                result = run_here(evaluation, options.out, watch)
        except LLMError as error:
            notes = "; ".join(getattr(error, "__notes__", []))
            err.write(f"stopped: {error}\n{notes}\n")
            return 1
        except KeyboardInterrupt:
            kept = "" if options.out is None else f"; finished rows are in {options.out}"
            err.write(f"interrupted{kept}\n")
            return 130
    out.write(f"{result}\n")
    if options.out is not None:
        out.write(f"results         {options.out / 'results.jsonl'}, summary.json\n")
    return 0 if result.complete else 1


def dry_run(options: Options, stdout: TextIO | None = None) -> int:
    """Say what `run` would send; opens no socket.

    Args:
        options: The options.
        stdout: Where the numbers go.

    Returns:
        0.
    """
    out = stdout or sys.stdout
    llm = _chat(options, options.base_url or ("http://127.0.0.1/v1" if options.fake else None))
    evaluation = Evaluation(*_arguments(options, llm), repeats=options.repeats, needs_gold=False)
    out.write(f"{evaluation.dry_run(options.out)}\n")
    llm.close()
    return 0


def preview(options: Options, row: int = 0, stdout: TextIO | None = None) -> int:
    """Show the prompt of one query with its demonstrations and what was dropped.

    Args:
        options: The options.
        row: The query's row.
        stdout: Where it goes.

    Returns:
        0.

    Raises:
        InputError: If there is no such row.
    """
    out = stdout or sys.stdout
    selector, builder, queries = prepare(options)
    if not 0 <= row < len(queries):
        raise InputError(f"row is {row}; the queries have rows 0 to {len(queries) - 1}")
    query = queries.take([row])
    evaluation = Evaluation(selector, builder, _chat(options, None), query, needs_gold=False)
    out.write(f"{evaluation.plan.asked[0].prompt.preview()}\n")
    return 0


def compare(a: Path, b: Path, rows: Scope = "all", stdout: TextIO | None = None) -> int:
    """Compare two run folders row by row.

    Args:
        a: The run of interest.
        b: The run it is measured against.
        rows: "all" for complete runs, "common" for the rows that both have finished.
        stdout: Where the comparison goes.

    Returns:
        0.
    """
    out = stdout or sys.stdout
    out.write(f"{compare_results(EvalResult.load(a), EvalResult.load(b), rows=rows)}\n")
    return 0


def _arguments(options: Options, llm: ChatLLM) -> tuple[Any, PromptBuilder, ChatLLM, Examples]:
    selector, builder, queries = prepare(options)
    return selector, builder, llm, queries


def _chat(options: Options, base_url: str | None) -> ChatLLM:
    return ChatLLM(
        options.model,
        base_url=base_url,
        output=options.output,
        limits=options.limits,
        sampling=options.sampling,
        cache=options.cache,
    )


@contextlib.contextmanager
def _model(options: Options) -> Iterator[ChatLLM]:
    """Give the model, behind a loopback server if one was asked for."""
    with contextlib.ExitStack() as stack:
        base_url = options.base_url
        if options.fake is not None:
            base_url = stack.enter_context(FakeOpenAIServer(options.fake)).url
        llm = _chat(options, base_url)
        stack.callback(llm.close)
        yield llm


@contextlib.contextmanager
def _bar(stream: TextIO) -> Iterator[Callable[[Progress], None]]:
    """Give a callback that draws rows, failures, tokens and rate."""
    from tqdm import tqdm

    with tqdm(file=stream, unit="row", dynamic_ncols=True, mininterval=0.2) as bar:

        def watch(progress: Progress) -> None:
            bar.total = progress.rows
            bar.initial = progress.finished - progress.fresh
            bar.set_postfix(failed=progress.failed, tokens=progress.tokens, refresh=False)
            bar.update(progress.finished - bar.n)

        yield watch


def add_parser(subparsers: Any) -> None:
    """Add `icl` to the subparsers of a program; see `arguments.add_parser`."""
    from fungi_hf.cli import icl_arguments as arguments

    arguments.add_parser(subparsers)
