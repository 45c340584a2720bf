"""`fungi-hf tune`: choose features for a task from its labelled training data."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

from fungi_hf.cli.arguments import add_columns, add_model, command, load
from fungi_hf.cli.rows import TEXT_COLUMN, read_inputs, read_labels
from fungi_hf.storage.files import check_folder

if TYPE_CHECKING:
    import argparse

_TUNE = """examples:
  fungi-hf tune sentence-transformers/all-MiniLM-L6-v2 train.csv --label intent --out tuned
  fungi-hf tune openai/whisper-tiny.en train.jsonl --column path --group speaker --out tuned
  fungi-hf extract tuned test.csv --out test.parquet

Every score is leave-one-out accuracy of nearest neighbours on the training rows. The folder holds
the chosen config, fitted, and the evidence in fungi_tuning.json.
"""


def add_parsers(subparsers: Any) -> None:
    """Add the command."""
    words = "choose features from labelled training data"
    parser = command(subparsers, "tune", words, run_tune, _TUNE)
    add_model(parser)
    parser.add_argument("train", help=".jsonl, .csv or .parquet with labels")
    parser.add_argument("--out", required=True, help="the folder to write")
    add_columns(parser)
    parser.add_argument(
        "--group", help="column of groups (speakers, sources) that test rows will not come from"
    )
    parser.add_argument("-k", type=int, default=20, help="neighbours (default: 20)")
    parser.add_argument("--max-rows", type=int, default=4000, help="rows that vote")
    parser.add_argument("--fixed-pooling", action="store_true", help="keep the pooling")
    parser.add_argument("--fixed-layer", action="store_true", help="keep the target layer")
    parser.add_argument("--no-gradients", action="store_true", help="try none: much faster")


def run_tune(options: argparse.Namespace) -> None:
    """Tune, save, and print the table of the best candidates."""
    from fungi_hf.tuning import TuningSearch

    search = TuningSearch(
        free_pooling=not options.fixed_pooling,
        free_layer=not options.fixed_layer,
        objectives=() if options.no_gradients else None,
        n_neighbors=options.k,
        max_rows=options.max_rows,
    )
    check_folder(options.out)
    labels = read_labels(options.train, options.label)
    groups = read_labels(options.train, options.group, "group") if options.group else None
    inputs = read_inputs(options.train, options.column or TEXT_COLUMN)
    extractor = load(options)
    tuned = extractor.tune(inputs, labels, groups=groups, search=search, progress=True)
    tuned.save_pretrained(options.out)
    if tuned.tuning is not None:
        sys.stdout.write(f"{tuned.tuning.table()}\n\n{tuned.tuning.reason}\n")
        sys.stderr.writelines(f"{note}\n" for note in tuned.tuning.notes)
    sys.stderr.write(f"saved in {options.out}\n")
