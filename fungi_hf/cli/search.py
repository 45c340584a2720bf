"""`fungi-hf knn`: label inputs by their nearest training inputs."""

from __future__ import annotations

import argparse
import json
import sys
from typing import Any

from fungi_hf.cli.extraction import add_model, load
from fungi_hf.cli.rows import TEXT_COLUMN, is_plain, read_column, read_inputs, read_table
from fungi_hf.errors import ConfigError

_KNN = """examples:
  fungi-hf knn my-features --train train.csv --test test.csv --label label
  fungi-hf knn my-encoder --train train.jsonl --test test.txt --label intent -k 20 > predicted.jsonl

With labels in the test file the accuracy is printed, otherwise the predictions, as JSON.
"""


def add_parsers(subparsers: Any) -> None:
    """Add the command."""
    parser = subparsers.add_parser(
        "knn",
        help="k-nearest-neighbour classification",
        epilog=_KNN,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add_model(parser)
    parser.add_argument("--train", required=True, help=".jsonl, .csv or .parquet with labels")
    parser.add_argument("--test", required=True, help="the same, or without labels, or .txt")
    parser.add_argument("--column", help="of the inputs (default: text)")
    parser.add_argument("--label", default="label", help="column of the labels (default: label)")
    parser.add_argument("-k", type=int, default=20, help="neighbours (default: 20)")
    parser.set_defaults(run=run_knn)


def run_knn(options: argparse.Namespace) -> None:
    """Print accuracy or predictions.

    Raises:
        ConfigError: If k is out of range.
    """
    from fungi_hf.neighbors import KNNClassifier

    table = read_table(options.train)
    labels = read_column(table, options.label, options.train)
    train = read_inputs(options.train, options.column or TEXT_COLUMN)
    test = read_inputs(options.test, None if is_plain(options.test) else options.column)
    truth = None
    if not is_plain(options.test):
        rows = read_table(options.test)
        if options.label in rows[0]:
            truth = read_column(rows, options.label, options.test)
    if not 1 <= options.k <= len(train):
        raise ConfigError(f"-k must be within 1 and {len(train)} (training rows); got {options.k}")
    extractor = load(options)
    pool = extractor.fit_transform(train) if not extractor.is_fitted else extractor(train)
    classifier = KNNClassifier(n_neighbors=options.k).fit(pool, labels)
    features = extractor(test, progress=True)
    if truth is not None:
        accuracy = classifier.score(features, truth)
        summary = {"accuracy": accuracy, "n_test": len(test), "n_train": len(train), "k": options.k}
        sys.stdout.write(json.dumps(summary) + "\n")
        return
    for row, predicted in enumerate(classifier.predict(features)):
        label = predicted.item() if hasattr(predicted, "item") else predicted
        line = {"row": row, "input": str(test[row]), options.label: label}
        sys.stdout.write(json.dumps(line, ensure_ascii=False) + "\n")
