"""`fungi-hf knn` and `fungi-hf neighbours`: label inputs by the nearest, and look at these."""

from __future__ import annotations

import json
import sys
from typing import TYPE_CHECKING, Any

from fungi_hf.cli.arguments import add_columns, add_model, add_prompt, command, extract_pair, load
from fungi_hf.cli.rows import (
    add_sets,
    extract_sets,
    is_plain,
    labels_there,
    read_inputs,
    read_labels,
    read_set,
)
from fungi_hf.errors import ConfigError

if TYPE_CHECKING:
    import argparse

_KNN = """examples:
  fungi-hf knn my-features --train train.csv --test test.csv --label label
  fungi-hf knn my-encoder --train train.jsonl --test test.txt --label intent -k 20 > predicted.jsonl

With labels in the test file the accuracy is printed, otherwise the predictions, as JSON.
"""
_NEIGHBOURS = """examples:
  fungi-hf neighbours my-features --train train/ --test test/ --out neighbours.html
  fungi-hf neighbours my-encoder --objective kl --train train.csv --test test.csv --out page.html

Pictures are shown small, sounds can be played, texts are cut at 220 characters. Beside each
neighbour stand the similarity and each block's share of it, then what each block
brings in or pushes out, found by leaving it out. The page needs no network and no scripts.
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
    words = "one HTML page of inputs and their neighbours under each combination of blocks"
    parser = command(subparsers, "neighbours", words, _run_neighbours, _NEIGHBOURS)
    add_model(parser)
    add_sets(parser)
    parser.add_argument("--out", required=True, help="the .html file to write")
    parser.add_argument("--queries", type=int, default=12, help="test inputs (default: 12)")
    parser.add_argument("-k", type=int, default=6, help="neighbours of each (default: 6)")
    words = "e.g. embedding+kl; default: the embedding, each block beside it, all"
    parser.add_argument("--combination", action="append", help=words)
    parser.add_argument("--title", default="Nearest neighbours", help="of the page")


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


def _run_neighbours(options: argparse.Namespace) -> None:
    from fungi_hf.evaluation.report import Shown, write_neighbours

    train, test, extractor = extract_sets(
        options, read_set(options, "train"), read_set(options, "test")
    )
    wanted = options.combination
    write_neighbours(
        options.out,
        train.features,
        train.labels or [],
        test.features,
        test.labels or [],
        Shown(train=train.inputs, test=test.inputs, modality=extractor.encoder.modality),
        combinations=wanted and [one.split("+") for one in wanted],
        n_queries=options.queries,
        n_neighbors=options.k,
        title=options.title,
    )
    sys.stderr.write(f"wrote {options.out}\n")
