"""The program `fungi-hf`: data on stdout, progress and errors on stderr, one line per error.

Exit status: 0 done, 1 the work failed, 2 wrong usage, 130 interrupted.
"""

from __future__ import annotations

import argparse
import os
import sys
import warnings
from typing import TYPE_CHECKING, Any

from fungi_hf.errors import FungiError

if TYPE_CHECKING:
    from collections.abc import Sequence

_EXAMPLES = """examples:
  fungi-hf extract sentence-transformers/all-MiniLM-L6-v2 texts.txt --out features.parquet
  fungi-hf tune my-encoder train.csv --label label --classifier my-classifier
  fungi-hf predict my-classifier new.txt
  fungi-hf fit my-encoder train.jsonl --objective kl --objective simclr --out my-features
  fungi-hf knn my-features --train train.csv --test test.csv --label label
  fungi-hf evaluate my-features --train train.csv --test test.csv --out results.json
  fungi-hf report results.json --out report.html
  fungi-hf info my-features
  fungi-hf doctor

`fungi-hf COMMAND --help` shows the examples of a command.
"""


def build_parser() -> argparse.ArgumentParser:
    """Give the parser with all commands."""
    from fungi_hf import __version__
    from fungi_hf.cli import (
        doctor,
        evaluation,
        extraction,
        folders,
        icl,
        predict,
        search,
        segment,
        sweep,
    )

    parser = argparse.ArgumentParser(
        prog="fungi-hf",
        description="Gradient features (FUNGI) for frozen Hugging Face encoders.",
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"%(prog)s {__version__}")
    subparsers = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    for room in (extraction, predict, search, segment, evaluation, sweep, folders, doctor, icl):
        room.add_parsers(subparsers)
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the program with these arguments, or the process's; give the exit status."""
    with warnings.catch_warnings():
        warnings.showwarning = _warn  # type: ignore[assignment]
        try:
            options = build_parser().parse_args(arguments)
            return int(options.run(options) or 0)
        except FungiError as error:
            return _fail(str(error), 1)
        except BrokenPipeError:
            # The reader of stdout has gone; nothing more can be said there.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            return 1
        except (OSError, UnicodeError) as error:
            return _fail(str(error), 1)
        except KeyboardInterrupt:
            return _fail("interrupted", 130)


def _fail(message: str, status: int) -> int:
    sys.stderr.write(f"fungi-hf: error: {' '.join(message.split())}\n")
    return status


def _warn(message: Any, category: type[Warning], *_: Any) -> None:
    if not issubclass(category, (DeprecationWarning, PendingDeprecationWarning, FutureWarning)):
        sys.stderr.write(f"fungi-hf: warning: {' '.join(str(message).split())}\n")
