"""`fungi-hf predict`: labels of new inputs by a saved classifier, as JSON lines or CSV."""

from __future__ import annotations

import contextlib
import csv
import json
import sys
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from fungi_hf.cli.arguments import check_counts, command
from fungi_hf.cli.jobs import open_source, parts_of
from fungi_hf.cli.rows import is_file
from fungi_hf.errors import ConfigError, InputError, StorageError, choices

if TYPE_CHECKING:
    import argparse
    from collections.abc import Iterator

    from fungi_hf.classifier import FungiClassifier
    from fungi_hf.features import Failure
    from fungi_hf.shards.base import Source

_EXAMPLES = """examples:
  fungi-hf predict my-classifier new.txt > labels.jsonl
  fungi-hf predict my-classifier --input new.jsonl --output labels.csv --proba
  fungi-hf predict user/repo rows.csv --column question --id ticket --out labels.jsonl
  fungi-hf predict my-classifier photos/ --on-error skip --out labels.jsonl
  echo "my card was lost" | fungi-hf predict my-classifier -

One line an input: its number from 0 ("row"), the input or a short name of it, the label and its
probability; with --proba that of every label. `fungi-hf tune --classifier` makes a classifier.
"""
_FORMATS: Final = (".jsonl", ".csv")


def add_parsers(subparsers: Any) -> None:
    """Add the command."""
    words = "labels of new inputs by a saved classifier"
    parser = command(subparsers, "predict", words, _run_predict, _EXAMPLES)
    add = parser.add_argument
    add("place", metavar="classifier", help="a folder or Hub id of a saved classifier")
    words = ".jsonl, .csv, .parquet, .txt, a clip or picture, a folder of them, or -"
    add("inputs", nargs="?", help=words)
    add("--input", dest="other_inputs", metavar="INPUTS", help="the same, by name")
    add("--column", help="of a table (default: text, image or audio)")
    add("--id", help="column of a table that is written beside each label")
    add("--out", "--output", dest="out", help="a .jsonl or .csv file; default: lines on stdout")
    words = "of stdout (default: jsonl; a file's is that of its name)"
    add("--format", choices=("jsonl", "csv"), help=words)
    add("--proba", action="store_true", help="the probability of every label, too")
    words = "raise (default), or skip inputs that cannot be used and list them beside the output"
    add("--on-error", choices=("raise", "skip"), default="raise", help=words)
    add("--batch-size", type=int, help="most inputs of one forward pass")
    add("--model", help="the encoder, where it is not where it was: a folder or Hub id")
    add("--device", help="e.g. cpu, cuda")
    add("--revision", help="branch, tag or commit of the Hub")


def _run_predict(options: argparse.Namespace) -> None:
    from fungi_hf.classifier import FungiClassifier
    from fungi_hf.extraction.inputs import warn_of
    from fungi_hf.storage.files import check_folder

    check_counts(options, "batch_size")
    place, kind = _place(options), _format(options)
    if options.out is not None:
        check_folder(Path(options.out).parent)
    source = None if place == "-" else open_source(place, options.column)
    names = _names(options, place)
    classifier = FungiClassifier.from_pretrained(
        options.place, model=options.model, device=options.device, revision=options.revision
    )
    encoder = classifier.extractor_.encoder
    if is_file(place) and encoder.modality == "text":
        raise InputError(f"{place} holds sounds or pictures; this classifier takes texts")
    run, n_rows = _Run(options), 0
    with _writer(options.out, kind, _columns(classifier, options)) as write:
        for first, part in parts_of(source, options.column):
            for answer in run.answers(classifier, first, part, names):
                write(answer)
                n_rows += 1
            if options.out is None:
                sys.stdout.flush()
    warn_of(run.notes, encoder)
    run.report(n_rows)


class _Run:
    """What one run has met: special inputs, and unusable ones that were left out."""

    def __init__(self, options: argparse.Namespace) -> None:
        self._options = options
        self.notes: Counter[str] = Counter()
        self._failures: list[Failure] = []

    def answers(
        self, classifier: FungiClassifier, first: int, part: list[Any], names: Source | None
    ) -> Iterator[dict[str, Any]]:
        """Give one record for each usable input of a part, whose first has that number."""
        options, extractor = self._options, classifier.extractor_
        features, found = extractor.collect(
            part, options.batch_size, first=first, on_error=options.on_error
        )
        self.notes.update(found)
        self._failures += features.failures
        lost = {one.index for one in features.failures}
        kept = [i for i in range(len(part)) if first + i not in lost]
        if not kept:
            return
        ids = None if names is None else names.read(first, first + len(part))
        shares = classifier.shares_of(features).tolist()
        labels, known = classifier.labels_of(features).tolist(), classifier.classes_.tolist()
        for i, label, row in zip(kept, labels, shares, strict=True):
            raw = part[i]
            name = raw if isinstance(raw, str) else extractor.encoder.describe(raw)
            beside = {} if ids is None else {"id": ids[i]}
            answer = {"row": first + i, **beside, "input": name, "label": label}
            answer["probability"] = max(row)
            if options.proba:
                answer["probabilities"] = dict(zip(map(str, known), row, strict=True))
            yield answer

    def report(self, n_rows: int) -> None:
        """Say on stderr, and beside the output, what was left out."""
        from fungi_hf.shards.store import failure_lines
        from fungi_hf.storage.files import replace_file

        out, failures = self._options.out, self._failures
        if failures and out is None:
            sys.stderr.writelines(f"left out: {one.error}\n" for one in failures)
            sys.stderr.write(f"{len(failures)} inputs were left out\n")
        elif failures:
            beside = Path(f"{out}.failures.jsonl")
            replace_file(beside, failure_lines(failures))
            sys.stderr.write(f"{len(failures)} inputs were left out, see {beside}\n")
        if out is not None:
            sys.stderr.write(f"{n_rows} labels in {out}\n")


def _names(options: argparse.Namespace, place: str) -> Source | None:
    if options.id is None:
        return None
    if place == "-" or is_file(place) or Path(place).suffix.lower() == ".txt":
        raise ConfigError(f"--id names a column of a table; {place} has none")
    return open_source(place, options.id)


def _place(options: argparse.Namespace) -> str:
    given = [one for one in (options.inputs, options.other_inputs) if one is not None]
    if len(given) != 1:
        raise ConfigError("name the inputs once, as an argument or by --input; - is stdin")
    place: str = given[0]
    return place


def _format(options: argparse.Namespace) -> str:
    if options.out is None:
        return str(options.format or "jsonl")
    suffix = Path(options.out).suffix.lower()
    if suffix not in _FORMATS:
        raise ConfigError(f"--out {options.out} has suffix {choices(suffix, _FORMATS)}")
    kind = suffix.removeprefix(".")
    if options.format not in (None, kind):
        raise ConfigError(f"--format {options.format} is not that of {options.out}")
    return kind


def _columns(classifier: FungiClassifier, options: argparse.Namespace) -> list[str]:
    known = ["id"] if options.id is not None else []
    names = [f"p({name})" for name in classifier.classes_.tolist()] if options.proba else []
    return ["row", *known, "input", "label", "probability", *names]


@contextlib.contextmanager
def _writer(out: str | None, kind: str, columns: list[str]) -> Iterator[Any]:
    """Give a function that writes one answer; a file appears whole or not at all.

    Raises:
        StorageError: If the file cannot be written.
    """
    from fungi_hf.storage.files import replacing

    if out is None:
        yield _line_writer(sys.stdout, kind, columns)
        return
    with contextlib.ExitStack() as stack:
        try:
            path = Path(out)
            path.parent.mkdir(parents=True, exist_ok=True)
            part = stack.enter_context(replacing(path))
            stream = stack.enter_context(part.open("w", encoding="utf-8", newline=""))
        except OSError as error:
            raise StorageError(f"cannot write to {out}: {error}") from None
        yield _line_writer(stream, kind, columns)


def _line_writer(stream: Any, kind: str, columns: list[str]) -> Any:
    if kind == "jsonl":

        def write_json(answer: dict[str, Any]) -> None:
            stream.write(json.dumps(answer, ensure_ascii=False, default=str) + "\n")

        return write_json
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow(columns)

    def write_row(answer: dict[str, Any]) -> None:
        shares = list(answer.pop("probabilities", {}).values())
        writer.writerow([*answer.values(), *shares])

    return write_row
