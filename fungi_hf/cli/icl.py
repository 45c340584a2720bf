"""`fungi-hf icl`: run, dry-run, preview and compare in-context learning."""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import json
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

from fungi_hf.cli import icl_predict
from fungi_hf.cli.arguments import check_counts
from fungi_hf.errors import ConfigError, InputError, LLMError
from fungi_hf.icl.answers import FreeAnswers
from fungi_hf.icl.batch import AnsweredLLM, read_batch, write_batch
from fungi_hf.icl.chat import ChatLLM
from fungi_hf.icl.comparison import compare
from fungi_hf.icl.demos import ORDERS
from fungi_hf.icl.limits import Limits, Retryable
from fungi_hf.icl.metrics import METRICS
from fungi_hf.icl.plan import make_plan
from fungi_hf.icl.prompt import PromptBuilder, Style
from fungi_hf.icl.results import EvalResult
from fungi_hf.icl.run import Run, run_here
from fungi_hf.icl.sampling import OutputMode, Sampling
from fungi_hf.icl.selector import DemoSelector
from fungi_hf.icl.server.fake_server import FakeOpenAIServer
from fungi_hf.icl.server.policies import POLICIES
from fungi_hf.icl.sources import load_examples, load_labels
from fungi_hf.seeding import numpy_generator

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from fungi_hf.icl.examples import Examples
    from fungi_hf.icl.run import Progress
    from fungi_hf.icl.task import Task

_EXAMPLES = """examples:
  fungi-hf extract my-features train.csv --out train.parquet
  fungi-hf icl dry-run --train train.csv --test test.csv --labels labels.txt \\
      --train-features train.parquet --test-features test.parquet
  fungi-hf icl run --train train.csv --test test.csv --labels labels.txt --strategy bm25 \\
      --base-url http://127.0.0.1:8000/v1 --model my-model --out runs/bm25
  fungi-hf icl compare runs/fungi runs/bm25
  fungi-hf icl predict my-classifier new-texts.txt
  fungi-hf icl run --train train.jsonl --test test.jsonl --column question --label answers \
      --answers text --metric f1 --strategy bm25 --out runs/answers

`fungi-hf icl COMMAND --help` lists the options of a command.
"""
_FAKES = [policy for policy in POLICIES if policy != "lookup"]  # that one needs a table
_LIMITS = (
    *("concurrency", "rpm", "tpm", "max_attempts", "timeout", "max_wait", "repair", "stop_after"),
    "ask_again",
)
_SAMPLING = ("max_output_tokens", "token_param", "temperature", "seed", "top_logprobs", "extra")


def add_parsers(subparsers: Any) -> None:
    """Add `icl` with its commands."""
    icl: argparse.ArgumentParser = subparsers.add_parser(
        "icl", help="demonstrations for LLM prompts", description="In-context learning with "
        "retrieved demonstrations. The key is read from OPENAI_API_KEY.", epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    inner = icl.add_subparsers(dest="icl_command", required=True, metavar="COMMAND")
    icl_predict.add_parser(inner)
    for name, words, work in (
        ("export-batch", "write the requests as a provider's batch file", export_batch),
        ("import-batch", "read the answers to a batch file into a run folder", import_batch),
    ):
        parser = inner.add_parser(name, help=words, description=words)
        parser.set_defaults(run=work)
        files = "+" if work is import_batch else None
        parser.add_argument("file", type=Path, nargs=files, help=".jsonl")
        _add_options(parser)
    for name, words, run in (
        ("run", "classify or answer the queries; the same command again continues", run_rows),
        ("dry-run", "say what a run would send and bill; opens no socket", dry_run),
        ("preview", "show one prompt with its demonstrations", preview),
        ("compare", "compare two run folders row by row", compare_folders),
    ):
        parser = inner.add_parser(name, help=words, description=words)
        parser.set_defaults(run=run)
        if name == "compare":
            parser.add_argument("a", type=Path, help="run folder of interest")
            parser.add_argument("b", type=Path, help="run folder it is measured against")
            parser.add_argument("--rows", choices=("all", "common"), default="all")
            anew = "score answers that are texts anew"
            parser.add_argument("--metric", choices=list(METRICS), help=anew)
            continue
        _add_options(parser)
        if name == "preview":
            parser.add_argument("--row", type=int, default=0, help="query row (default 0)")


def _add_options(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("data")
    group.add_argument("--train", type=Path, required=True, help=".parquet, .jsonl, .csv, .npz")
    group.add_argument("--test", type=Path, required=True, help=".parquet, .jsonl, .csv, .npz")
    words = "label names: a JSON list or id2label, .txt, or a table"
    group.add_argument("--labels", type=Path, help=words)
    words = "'labels', or 'text': targets are texts, or lists of accepted texts"
    group.add_argument("--answers", choices=("labels", "text"), default="labels", help=words)
    words = "what scores answers that are texts (default: normalised)"
    group.add_argument("--metric", choices=list(METRICS), help=words)
    group.add_argument("--column", default="text", help="of the texts (default: text)")
    group.add_argument("--label", default="label", help="of the labels or answers (default: label)")
    words = ".safetensors (FungiFeatures.save), .npz or .npy"
    group.add_argument("--train-features", type=Path, help=words)
    group.add_argument("--test-features", type=Path, help=words)
    group.add_argument("--blocks", nargs="+", help="feature blocks to keep, e.g. embedding")
    group.add_argument("--limit", type=int, help="take the first N queries")
    group = parser.add_argument_group("demonstrations and prompt")
    group.add_argument("--strategy", default="knn", help="knn, bm25, hybrid, mmr, dpp, ...")
    group.add_argument("--k", type=int, default=20, help="demonstrations per query (default 20)")
    group.add_argument("--max-per-class", type=int, help="most demonstrations of one label")
    group.add_argument("--order", choices=ORDERS, default="nearest_last")
    group.add_argument("--seed", type=int, default=0)
    group.add_argument("--repeats", type=int, default=1, help="repetitions with further seeds")
    group.add_argument("--control", choices=("none", "random", "permuted"), help="a control run")
    group.add_argument("--style", choices=get_args(Style), default="multiturn")
    group.add_argument("--instruction", help="replaces the default instruction")
    group.add_argument("--max-input-tokens", type=int, help="token budget per prompt")
    _add_model(parser)


def _add_model(parser: argparse.ArgumentParser) -> None:
    limits, sampling = Limits(), Sampling()
    group = parser.add_argument_group("model")
    group.add_argument("--model", default="gpt-4o-mini")
    where = group.add_mutually_exclusive_group()
    where.add_argument("--base-url", help="an OpenAI-compatible endpoint, e.g. http://host/v1")
    where.add_argument("--fake", choices=_FAKES, help="a loopback server with this policy")
    words = "default: enum; of --answers text: text"
    group.add_argument("--output", choices=get_args(OutputMode), help=words)
    group.add_argument("--concurrency", type=int, default=limits.concurrency)
    group.add_argument("--rpm", type=int, help="most requests per minute")
    group.add_argument("--tpm", type=int, help="most tokens per minute")
    group.add_argument("--max-attempts", type=int, default=limits.max_attempts)
    group.add_argument("--timeout", type=float, default=limits.timeout, help="seconds")
    group.add_argument("--max-wait", type=float, default=limits.max_wait, help="seconds")
    group.add_argument("--repair", type=int, default=0, help="send off-list answers back N times")
    words = "stop after N rows that fail alike, or 2 N first rows without a label; none goes on"
    group.add_argument("--stop-after", type=_or_none(int), default=limits.stop_after, help=words)
    words = "statuses that a resumed run asks again"
    group.add_argument(
        "--ask-again", nargs="+", default=(), choices=get_args(Retryable), help=words
    )
    group.add_argument("--max-output-tokens", type=int, default=sampling.max_output_tokens)
    group.add_argument("--token-param", default=sampling.token_param)
    words = "a number or 'none'"
    group.add_argument("--temperature", type=_or_none(float), default=0.0, help=words)
    group.add_argument("--sampling-seed", type=int, help="the request's own seed")
    group.add_argument("--top-logprobs", type=int, help="1 to 20: label scores in text mode")
    words = 'more fields of the request, JSON, e.g. \'{"reasoning_effort": "low"}\''
    group.add_argument("--extra", type=_json_object, default={}, help=words)
    words = "'name: value', e.g. 'api-key: ...'; '$NAME' is read from the environment"
    group.add_argument("--header", action="append", default=[], help=words)
    words = "name=value, e.g. api-version=2024-10-21"
    group.add_argument("--query", action="append", default=[], help=words)
    group.add_argument("--cache", type=Path, help="SQLite file that answers are kept in")
    group.add_argument("--out", type=Path, help="run folder")


def _or_none(kind: type) -> Callable[[str], Any]:
    def read(words: str) -> Any:
        return None if words == "none" else kind(words)

    read.__name__ = kind.__name__  # what argparse calls it in errors
    return read


def _json_object(words: str) -> dict[str, Any]:
    value = json.loads(words)
    if not isinstance(value, dict):
        raise ValueError
    return value


def _named(given: list[str], mark: str, option: str) -> dict[str, str]:
    """Read "name: value" pairs; "$NAME" is the environment's, so that no shell history holds it.

    Raises:
        ConfigError: If there is no value.
    """
    found = {}
    for words in given:
        name, separator, value = words.partition(mark)
        value = value.strip()
        if not separator or not name.strip():
            raise ConfigError(f"{option} has the form name{mark}value; got {words!r}")
        if value.startswith("$"):
            if value[1:] not in os.environ:
                raise ConfigError(
                    f"{option} {name.strip()}: there is no {value} in the environment"
                )
            value = os.environ[value[1:]]
        found[name.strip()] = value
    return found


def run_rows(options: argparse.Namespace) -> int:
    """Run, or continue a run, with a progress bar; finished rows are kept in the run folder.

    Returns:
        0; 1 if the server stopped the run or rows failed; 130 after an interruption.
    """
    selector, builder, queries = read_parts(options)
    with contextlib.ExitStack() as stack:
        url = stack.enter_context(FakeOpenAIServer(options.fake)).url if options.fake else None
        llm = stack.enter_context(contextlib.closing(chat_of(options, url)))
        plan = make_plan(selector, builder, llm, queries, repeats=options.repeats)
        try:
            with _bar() as watch:
                result = run_here(Run(plan, options.out, watch))
        except LLMError as error:
            notes = "; ".join(getattr(error, "__notes__", []))
            sys.stderr.write(f"stopped: {error}\n{notes}\n")
            return 1
        except KeyboardInterrupt:
            kept = "" if options.out is None else f"; finished rows are in {options.out}"
            sys.stderr.write(f"interrupted{kept}\n")
            return 130
    sys.stdout.write(f"{result}\n")
    if options.out is not None:
        sys.stdout.write(f"results         {options.out / 'results.jsonl'}, summary.json\n")
    return 0 if result.complete else 1


def export_batch(options: argparse.Namespace) -> None:
    """Write the requests that a run would send; what its folder has finished is left out."""
    selector, builder, queries = read_parts(options)
    with contextlib.closing(chat_of(options)) as llm:
        plan = make_plan(selector, builder, llm, queries, repeats=options.repeats)
        n_lines = write_batch(options.file, llm, Run(plan, options.out).todo(), plan.labels)
    sys.stderr.write(f"{n_lines} requests in {options.file}\n")


def import_batch(options: argparse.Namespace) -> int:
    """Finish a run with the answers of files; rows without one can be exported again.

    Returns:
        0, or 1 if rows failed.
    """
    selector, builder, queries = read_parts(options)
    with contextlib.closing(chat_of(options)) as llm:
        answered = AnsweredLLM(llm, read_batch(options.file))
        plan = make_plan(selector, builder, answered, queries, repeats=options.repeats)
        result = run_here(Run(plan, options.out))
    sys.stdout.write(f"{result}\n")
    return 0 if result.complete else 1


def dry_run(options: argparse.Namespace) -> None:
    """Say what `run` would send; opens no socket."""
    selector, builder, queries = read_parts(options)
    with contextlib.closing(chat_of(options)) as llm:
        plan = make_plan(selector, builder, llm, queries, repeats=options.repeats, needs_gold=False)
        sys.stdout.write(f"{Run(plan, options.out).dry_run()}\n")


def preview(options: argparse.Namespace) -> None:
    """Show the prompt of one query with its demonstrations and what was dropped.

    Raises:
        InputError: If there is no such row.
    """
    selector, builder, queries = read_parts(options)
    if not 0 <= options.row < len(queries):
        raise InputError(f"row is {options.row}; the queries have rows 0 to {len(queries) - 1}")
    with contextlib.closing(chat_of(options)) as llm:
        plan = make_plan(selector, builder, llm, queries.take([options.row]), needs_gold=False)
    sys.stdout.write(f"{plan.prompts[0].prompt.preview()}\n")


def compare_folders(options: argparse.Namespace) -> None:
    """Compare two run folders row by row."""
    a, b = EvalResult.load(options.a), EvalResult.load(options.b)
    if options.metric is not None:
        a, b = (run.rescored(FreeAnswers(options.metric)) for run in (a, b))
    sys.stdout.write(f"{compare(a, b, rows=options.rows)}\n")


def read_parts(
    options: argparse.Namespace,
) -> tuple[DemoSelector | None, PromptBuilder, Examples]:
    """Read the files; give the fitted selector, None for "none", the builder and the queries.

    Raises:
        InputError: If labels are to be permuted, and the pool has none.
    """
    labels = _task(options)
    names = {"column": options.column, "label": options.label}
    pool = load_examples(options.train, options.train_features, options.blocks, **names)
    queries = load_examples(options.test, options.test_features, options.blocks, **names)
    check_counts(options, "limit")
    if options.limit is not None:
        queries = queries.take(range(min(options.limit, len(queries))))
    builder = PromptBuilder(
        labels,
        style=options.style,
        instruction=options.instruction,
        max_input_tokens=options.max_input_tokens,
    )
    if options.control == "none":
        return None, builder, queries
    strategy = options.strategy
    if options.control == "permuted":
        if pool.targets is None:
            raise InputError(f"the pool has no {labels.word}s to permute")
        order = numpy_generator(options.seed, "permuted labels")
        golds = labels.golds(pool.targets)
        rows = order.permutation(len(golds)).tolist()
        pool = dataclasses.replace(pool, targets=tuple(golds[row] for row in rows))
    if options.control == "random":
        # Without features the drawn rows stand in random order; with them the nearest is last.
        strategy, pool = "random", dataclasses.replace(pool, features=None, fingerprint=None)
    selector = DemoSelector(
        strategy,
        options.k,
        max_per_class=options.max_per_class,
        order=options.order,
        seed=options.seed,
    )
    return selector.fit(pool), builder, queries


def _task(options: argparse.Namespace) -> Task:
    """Give the label space, or what takes its place.

    Raises:
        ConfigError: If an option is for the other kind of answers.
    """
    if options.answers == "labels":
        if options.metric is not None:
            raise ConfigError(f"--metric {options.metric} scores texts; it needs --answers text")
        if options.labels is None:
            raise ConfigError("--labels is missing; tasks without labels take --answers text")
        return load_labels(options.labels, options.label)
    wrong = {
        "--labels": options.labels is not None,
        "--output enum": options.output == "enum",
        "--top-logprobs": options.top_logprobs is not None,
        "--repair": options.repair > 0,
        "--fake first_label": options.fake == "first_label",
    }
    found = [option for option, is_given in wrong.items() if is_given]
    if found:
        raise ConfigError(
            f"--answers text does not go with {', '.join(found)}: there is no list of labels; "
            "leave it out"
        )
    return FreeAnswers(options.metric or "normalised")


def chat_of(options: argparse.Namespace, base_url: str | None = None) -> ChatLLM:
    """Give the model, which has not been asked yet."""
    loopback = "http://127.0.0.1/v1" if options.fake else None
    options.ask_again, seed = tuple(options.ask_again), options.sampling_seed
    return ChatLLM(
        options.model,
        base_url=base_url or options.base_url or loopback,
        output=options.output or ("text" if options.answers == "text" else "enum"),
        limits=Limits(**{name: getattr(options, name) for name in _LIMITS}),
        sampling=Sampling(**{name: getattr(options, name) for name in _SAMPLING} | {"seed": seed}),
        cache=options.cache,
        headers=_named(options.header, ":", "--header"),
        query=_named(options.query, "=", "--query"),
    )


@contextlib.contextmanager
def _bar() -> Iterator[Callable[[Progress], None]]:
    """Give a callback that draws rows, failures, tokens and rate."""
    from tqdm import tqdm

    with tqdm(file=sys.stderr, unit="row", dynamic_ncols=True, mininterval=0.2) as bar:

        def watch(progress: Progress) -> None:
            bar.total = progress.rows
            bar.initial = progress.finished - progress.fresh
            bar.set_postfix(failed=progress.failed, tokens=progress.tokens, refresh=False)
            bar.update(progress.finished - bar.n)

        yield watch
