"""What the commands share: how one is added, the extractor that it names, its bounds."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Any

from fungi_hf.checks import check_integer
from fungi_hf.config import FungiConfig
from fungi_hf.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from fungi_hf.extractor import FungiExtractor


def command(
    subparsers: Any,
    name: str,
    words: str,
    run: Callable[[argparse.Namespace], int | None],
    examples: str,
) -> argparse.ArgumentParser:
    """Add a command and give its parser; `run` gives an exit status, None is 0."""
    raw = argparse.RawDescriptionHelpFormatter
    parser: argparse.ArgumentParser = subparsers.add_parser(
        name, help=words, epilog=examples, formatter_class=raw
    )
    parser.set_defaults(run=run)
    return parser


def add_model(
    parser: argparse.ArgumentParser, *, optional: bool = False, option: bool = False
) -> None:
    """Add the arguments that name an extractor; the model's own may be an option."""
    add, words = parser.add_argument, "a model or saved extractor: a folder or Hub id"
    if option:
        add("--model", help=words)
    elif optional:
        add("model", nargs="?", help=f"{words}; left out for feature files")
    else:
        add("model", help=words)
    add("--config", help="a config: a folder, Hub id or JSON file")
    kinds = "kl, simclr, dino, deepcluster, ibot, dense_infonce, activation"
    add("--objective", action="append", help=f"{kinds}; may be repeated")
    add("--device", help="e.g. cpu, cuda")
    add("--revision", help="branch, tag or commit of the Hub")


def add_columns(parser: argparse.ArgumentParser) -> None:
    """Add the arguments that name the columns of a table of labelled inputs."""
    parser.add_argument("--column", help="of the inputs (default: text)")
    parser.add_argument("--label", default="label", help="column of the labels (default: label)")


def add_prompt(parser: argparse.ArgumentParser, *sides: str) -> None:
    """Add the arguments that name prompts: one pair, or a name for each side of an evaluation."""
    words = "name of the prompt in front of every {}text, e.g. query or document"
    for side in sides:
        parser.add_argument(f"--{side}-prompt-name", help=words.format(f"{side} "))
    if not sides:
        parser.add_argument("--prompt-name", help=words.format(""))
        parser.add_argument("--prompt", help="the prompt itself, in place of a name")


def check_counts(options: argparse.Namespace, *names: str) -> None:
    """Refuse counts below 1 by the option's name; None is no count."""
    for name in names:
        if getattr(options, name) is not None:
            check_integer(f"--{name.replace('_', '-')}", getattr(options, name))


def load(options: argparse.Namespace) -> FungiExtractor:
    """Load the extractor that the arguments name.

    Raises:
        ConfigError: If --config and --objective contradict each other.
    """
    from fungi_hf.extractor import FungiExtractor

    config = None
    if options.config and options.objective:
        raise ConfigError("--config names the objectives already; leave out --objective")
    if options.config:
        config = FungiConfig.from_pretrained(options.config)
    elif options.objective:
        config = FungiConfig(objectives=tuple(options.objective))
    return FungiExtractor.from_pretrained(
        options.model, config, device=options.device, revision=options.revision
    )


def extract_pair(
    options: argparse.Namespace,
    extractor: FungiExtractor,
    train: Sequence[Any],
    test: Sequence[Any],
) -> tuple[Any, Any]:
    """Extract the features of both sides; an extractor that must learn learns from the first."""
    first = extractor if extractor.is_fitted else extractor.fit_transform
    pool = first(train, progress=True, prompt_name=options.train_prompt_name)
    return pool, extractor(test, progress=True, prompt_name=options.test_prompt_name)
