"""`fungi-hf knn`: label inputs by their nearest training inputs."""

from __future__ import annotations

import json
import sys
from typing import TYPE_CHECKING, Any

from fungi_hf.cli.arguments import add_columns, add_model, add_prompt, command, extract_pair, load
from fungi_hf.cli.rows import is_plain, labels_there, read_inputs, read_labels
from fungi_hf.errors import ConfigError

if TYPE_CHECKING:
    import argparse

_KNN = """examples:
  fungi-hf knn my-features --train train.csv --test test.csv --label label
  fungi-hf knn my-encoder --train train.jsonl --test test.txt --label intent -k 20 > predicted.jsonl

With labels in the test file the accuracy is printed, otherwise the predictions, as JSON.
"""


def add_parsers(subparsers: Any) -> None:
    """Add the command."""
    parser = command(subparsers, "knn", "k-nearest-neighbour classification", _run_knn, _KNN)
    add_model(parser)
    parser.add_argument(
        "--train", required=True, help=".jsonl, .csv or .parquet with labels, or class folders"
    )
    parser.add_argument("--test", required=True, help="the same, or without labels, or .txt")
    add_columns(parser)
    add_prompt(parser, "train", "test")
    parser.add_argument("-k", type=int, default=20, help="neighbours (default: 20)")


def _run_knn(options: argparse.Namespace) -> None:
    from fungi_hf.neighbors import KNNClassifier

    labels = read_labels(options.train, options.label)
    train = read_inputs(options.train, options.column)
    test = read_inputs(options.test, None if is_plain(options.test) else options.column)
    truth = labels_there(options.test, options.label)
    if not 1 <= options.k <= len(train):
        raise ConfigError(f"-k must be within 1 and {len(train)} (training rows); got {options.k}")
    pool, features = extract_pair(options, load(options), train, test)
    classifier = KNNClassifier(n_neighbors=options.k).fit(pool, labels)
    if truth is not None:
        accuracy = classifier.score(features, truth)
        summary = {"accuracy": accuracy, "n_test": len(test), "n_train": len(train), "k": options.k}
        sys.stdout.write(json.dumps(summary) + "\n")
        return
    for row, label in enumerate(classifier.predict(features).tolist()):
        name = test[row] if isinstance(test[row], str) else f"row {row}"
        line = {"row": row, "input": name, options.label: label}
        sys.stdout.write(json.dumps(line, ensure_ascii=False) + "\n")
