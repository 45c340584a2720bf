"""The parser of `fungi-hf icl`: words into the plain options of `commands`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

from fungi_hf.cli import icl as commands
from fungi_hf.icl.limits import Limits
from fungi_hf.icl.order import ORDERS
from fungi_hf.icl.prompt import Style
from fungi_hf.icl.sampling import OutputMode, Sampling
from fungi_hf.icl.server.policies import POLICIES

if TYPE_CHECKING:
    import argparse
    from collections.abc import Sequence

_FAKES = [policy for policy in POLICIES if policy != "lookup"]  # that one needs a table
_LIMITS = ("concurrency", "rpm", "tpm", "max_attempts", "timeout", "repair")
_SAMPLING = ("max_output_tokens", "token_param", "temperature")


def add_parser(subparsers: Any) -> argparse.ArgumentParser:
    """Add `icl` to the subparsers of a program.

    Each command sets `run`, a function from the parsed namespace to an exit status.

    Args:
        subparsers: What `ArgumentParser.add_subparsers` gave.

    Returns:
        The parser of `icl`.
    """
    icl: argparse.ArgumentParser = subparsers.add_parser(
        "icl", help="demonstrations for LLM prompts", description="In-context learning with "
        "retrieved demonstrations. The key is read from OPENAI_API_KEY.",
    )  # fmt: skip
    inner = icl.add_subparsers(dest="icl_command", required=True, metavar="COMMAND")
    for name, words, handler in (
        ("run", "classify the queries; the same command again continues", _run),
        ("dry-run", "say what a run would send and bill; opens no socket", _dry_run),
        ("preview", "show one prompt with its demonstrations", _preview),
    ):
        parser = inner.add_parser(name, help=words, description=words)
        _add_data(parser)
        _add_selection(parser)
        _add_model(parser)
        if name == "preview":
            parser.add_argument("--row", type=int, default=0, help="query row (default 0)")
        parser.set_defaults(run=handler)
    words = "compare two run folders row by row"
    parser = inner.add_parser("compare", help=words, description=words)
    parser.add_argument("a", type=Path, help="run folder of interest")
    parser.add_argument("b", type=Path, help="run folder it is measured against")
    parser.add_argument("--rows", choices=("all", "common"), default="all")
    parser.set_defaults(run=lambda space: commands.compare(space.a, space.b, space.rows))
    return icl


def _add_data(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("data")
    group.add_argument("--train", type=Path, required=True, help=".parquet, .jsonl or .npz")
    group.add_argument("--test", type=Path, required=True, help=".parquet, .jsonl or .npz")
    group.add_argument("--labels", type=Path, required=True, help="JSON list of label names")
    words = ".safetensors (FungiFeatures.save), .npz or .npy"
    group.add_argument("--train-features", type=Path, help=words)
    group.add_argument("--test-features", type=Path, help=words)
    group.add_argument("--blocks", nargs="+", help="feature blocks to keep, e.g. embedding")
    group.add_argument("--limit", type=int, help="take the first N queries")


def _add_selection(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("demonstrations and prompt")
    group.add_argument("--strategy", default="knn", help="knn, bm25, hybrid, mmr, dpp, ...")
    group.add_argument("--k", type=int, default=20, help="demonstrations per query (default 20)")
    group.add_argument("--max-per-class", type=int, help="most demonstrations of one label")
    group.add_argument("--order", choices=ORDERS, default="nearest_last")
    group.add_argument("--seed", type=int, default=0)
    group.add_argument("--repeats", type=int, default=1, help="repetitions with further seeds")
    group.add_argument("--control", choices=get_args(commands.Control), help="a control run")
    group.add_argument("--style", choices=get_args(Style), default="multiturn")
    group.add_argument("--instruction", help="replaces the default instruction")
    group.add_argument("--max-input-tokens", type=int, help="token budget per prompt")


def _add_model(parser: argparse.ArgumentParser) -> None:
    limits, sampling = Limits(), Sampling()
    group = parser.add_argument_group("model")
    group.add_argument("--model", default="gpt-4o-mini")
    where = group.add_mutually_exclusive_group()
    where.add_argument("--base-url", help="an OpenAI-compatible endpoint, e.g. http://host/v1")
    where.add_argument("--fake", choices=_FAKES, help="a loopback server with this policy")
    group.add_argument("--output", choices=get_args(OutputMode), default="enum")
    group.add_argument("--concurrency", type=int, default=limits.concurrency)
    group.add_argument("--rpm", type=int, help="most requests per minute")
    group.add_argument("--tpm", type=int, help="most tokens per minute")
    group.add_argument("--max-attempts", type=int, default=limits.max_attempts)
    group.add_argument("--timeout", type=float, default=limits.timeout, help="seconds")
    group.add_argument("--repair", type=int, default=0, help="send off-list answers back N times")
    group.add_argument("--max-output-tokens", type=int, default=sampling.max_output_tokens)
    group.add_argument("--token-param", default=sampling.token_param)
    group.add_argument("--temperature", type=_temperature, default=0.0, help="a number or 'none'")
    group.add_argument("--cache", type=Path, help="SQLite file that answers are kept in")
    group.add_argument("--out", type=Path, help="run folder")


def _temperature(words: str) -> float | None:
    return None if words == "none" else float(words)


def options_of(space: argparse.Namespace) -> commands.Options:
    """Give the plain options of a parsed `run`, `dry-run` or `preview`."""
    words = dict(vars(space))
    limits = Limits(**{name: words.pop(name) for name in _LIMITS})
    sampling = Sampling(**{name: words.pop(name) for name in _SAMPLING})
    known = set(commands.Options.__dataclass_fields__)
    plain: dict[str, Any] = {name: value for name, value in words.items() if name in known}
    blocks: Sequence[str] | None = plain.pop("blocks")
    return commands.Options(
        **plain,
        blocks=None if blocks is None else tuple(blocks),
        limits=limits,
        sampling=sampling,
    )


def _run(space: argparse.Namespace) -> int:
    return commands.run(options_of(space))


def _dry_run(space: argparse.Namespace) -> int:
    return commands.dry_run(options_of(space))


def _preview(space: argparse.Namespace) -> int:
    return commands.preview(options_of(space), space.row)
