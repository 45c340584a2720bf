"""`fungi-hf icl predict`: label new texts with a saved demonstration classifier."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fungi_hf.cli.arguments import command
from fungi_hf.cli.rows import read_inputs

if TYPE_CHECKING:
    import argparse

_EXAMPLES = """examples:
  fungi-hf icl predict my-classifier new-texts.txt > labels.jsonl
  fungi-hf icl predict user/repo rows.csv --column question --out labels.jsonl
"""


def add_parser(subparsers: Any) -> None:
    """Add the command."""
    words = "label new texts with a saved DemoClassifier"
    parser = command(subparsers, "predict", words, _run_predict, _EXAMPLES)
    parser.add_argument(
        "place", help="a folder or Hub id that DemoClassifier.save_pretrained wrote"
    )
    parser.add_argument("inputs", help=".txt, .jsonl, .csv or .parquet, or - for lines on stdin")
    parser.add_argument("--column", help="of a table (default: text)")
    parser.add_argument("--revision", help="branch, tag or commit of the Hub")
    parser.add_argument("--base-url", help="another endpoint than the saved one")
    parser.add_argument("--out", type=Path, help="JSON lines; stdout if left out")


def _run_predict(options: argparse.Namespace) -> None:
    from fungi_hf.integrations.demo_classifier import DemoClassifier
    from fungi_hf.storage.files import replace_file

    texts = read_inputs(options.inputs, options.column)
    classifier = DemoClassifier.from_pretrained(
        options.place, revision=options.revision, base_url=options.base_url
    )
    labels = classifier.predict(texts).tolist()
    answers = classifier.result_.rows
    rows = [
        {"row": i, "text": text, "label": label, "status": answer.status}
        for i, (text, label, answer) in enumerate(zip(texts, labels, answers, strict=True))
    ]
    lines = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    if options.out is None:
        sys.stdout.write(lines)
    else:
        replace_file(options.out, lines.encode())
        sys.stderr.write(f"{len(rows)} labels in {options.out}\n")
