"""`fungi-hf extract`, `fit` and `tune`."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fungi_hf.cli.arguments import add_columns, add_model, add_prompt, command, load
from fungi_hf.cli.jobs import add_job, run_extract
from fungi_hf.cli.rows import is_file, read_inputs, read_labels
from fungi_hf.errors import InputError
from fungi_hf.storage.files import check_folder

if TYPE_CHECKING:
    import argparse

    from fungi_hf.extractor import FungiExtractor
    from fungi_hf.tuning import TuningSearch

_EXTRACT = """examples:
  fungi-hf extract my-features texts.txt --out features.parquet
  fungi-hf extract sentence-transformers/all-MiniLM-L6-v2 rows.csv --column question --out q.npy
  fungi-hf extract MIT/ast-finetuned-audioset-10-10-0.4593 clips/ --out clips.safetensors
  fungi-hf extract facebook/dinov2-small photos/ --out photos.parquet
  fungi-hf extract intfloat/e5-small-v2 queries.txt --prompt "query: " --out queries.npy
  echo "my card was lost" | fungi-hf extract my-features - > features.jsonl

  fungi-hf extract my-features big.parquet --out features/ --workers 4 --threads 2
  fungi-hf extract my-features big.jsonl --out features/ --shard $SLURM_ARRAY_TASK_ID/64
  fungi-hf extract my-features 's3://b/in/*.parquet' --out s3://b/out/ --engine ray
  fungi-hf extract my-features big.jsonl --out features/ --status

An --out with a suffix is one file, without one a folder of shards. An interrupted run goes on where
it stopped when the same command is given again; several may work on one folder. --status says what
is missing and ends with 3 if anything is.
"""
_FIT = """examples:
  fungi-hf fit my-encoder train.jsonl --objective kl --objective simclr --out my-features
  fungi-hf fit my-encoder train.parquet --config my-config --out my-features
"""
_TUNE = """examples:
  fungi-hf tune sentence-transformers/all-MiniLM-L6-v2 train.csv --label intent --out tuned
  fungi-hf tune openai/whisper-tiny.en train.jsonl --column path --group speaker --out tuned
  fungi-hf tune facebook/dinov2-small photos-by-class/ --out tuned
  fungi-hf extract tuned test.csv --out test.parquet
  fungi-hf tune my-encoder train.csv --classifier my-classifier --head linear --test test.csv
  fungi-hf predict my-classifier new.txt

Every score is leave-one-out accuracy on the training rows, of nearest neighbours or, with --judge
linear, of a linear classifier. The folder holds
the chosen config, fitted, and the evidence in fungi_tuning.json. A --classifier holds a head on the
chosen features as well, and a card with what was measured; --test adds held-out rows to that.
"""


def add_parsers(subparsers: Any) -> None:
    """Add the three commands."""
    words = "features of a file or folder of inputs"
    extract = command(subparsers, "extract", words, run_extract, _EXTRACT)
    add_model(extract)
    words = ".jsonl, .csv, .parquet, .txt, a clip or picture, a folder of them, or -"
    extract.add_argument("inputs", help=words)
    extract.add_argument("--column", help="of a table (default: text, image or audio)")
    add_prompt(extract)
    add_job(extract)
    words = "learn what the config asks for and save an extractor"
    fit = command(subparsers, "fit", words, _run_fit, _FIT)
    add_model(fit)
    fit.add_argument("inputs", help="training inputs; as for extract")
    fit.add_argument("--column", help="of a table (default: text, image or audio)")
    add_prompt(fit)
    fit.add_argument("--out", required=True, help="the folder to write")
    words = "choose features from labelled training data"
    tune = command(subparsers, "tune", words, _run_tune, _TUNE)
    add_model(tune)
    tune.add_argument(
        "train", help=".jsonl, .csv or .parquet with labels, or a folder of class folders"
    )
    tune.add_argument("--out", help="the folder to write the extractor to")
    words = "the folder to write a classifier to: the extractor and a head on its features"
    tune.add_argument("--classifier", metavar="FOLDER", help=words)
    words = "of the classifier (default: neighbors)"
    tune.add_argument("--head", choices=("neighbors", "linear"), help=words)
    words = "held-out rows like `train`, judged for the classifier's card"
    tune.add_argument("--test", help=words)
    tune.set_defaults(refuse=tune.error)
    add_columns(tune)
    words = "column of groups (speakers, sources) that test rows will not come from"
    tune.add_argument("--group", help=words)
    words = "what the features are for (default: the head, else neighbors)"
    tune.add_argument("--judge", choices=("neighbors", "linear"), help=words)
    tune.add_argument("-k", type=int, default=20, help="neighbours (default: 20)")
    tune.add_argument("--max-rows", type=int, default=4000, help="rows that vote")
    tune.add_argument("--fixed-pooling", action="store_true", help="keep the pooling")
    tune.add_argument("--fixed-layer", action="store_true", help="keep the target layer")
    words = "rows on which the paper preset is judged beside (default: 200, or what is affordable)"
    tune.add_argument("--paper-rows", type=int, default=200, help=words)
    tune.add_argument("--no-gradients", action="store_true", help="try none: much faster")


def _run_fit(options: argparse.Namespace) -> None:
    check_folder(options.out)
    inputs, extractor = _inputs_and_extractor(options)
    extractor.fit(inputs, progress=True, prompt_name=options.prompt_name, prompt=options.prompt)
    extractor.save_pretrained(options.out)
    sys.stderr.write(f"fitted on {len(inputs)} inputs; saved in {options.out}\n")


def _run_tune(options: argparse.Namespace) -> None:
    from fungi_hf.tuning import TuningSearch

    places = [one for one in (options.out, options.classifier) if one is not None]
    if not places:
        options.refuse("one of the arguments --out, --classifier is required")
    if options.classifier is None and (options.head or options.test):
        options.refuse("--head and --test are of a --classifier")
    if options.head and options.judge not in (None, options.head):
        options.refuse("the --head judges: leave --judge out")
    judge = options.head or options.judge or "neighbors"
    search = TuningSearch(
        free_pooling=not options.fixed_pooling,
        free_layer=not options.fixed_layer,
        objectives=() if options.no_gradients else None,
        n_neighbors=options.k,
        max_rows=options.max_rows,
        judge=judge,
        paper_rows=options.paper_rows,
    )
    for place in places:
        check_folder(place)
    labels = read_labels(options.train, options.label)
    groups = read_labels(options.train, options.group, "group") if options.group else None
    inputs = read_inputs(options.train, options.column)
    if options.classifier is not None:
        tuned = _tune_classifier(options, search, inputs, labels, groups)
    else:
        tuned = load(options).tune(inputs, labels, groups=groups, search=search, progress=True)
    if options.out is not None:
        tuned.save_pretrained(options.out)
    if tuned.tuning is not None:
        report = tuned.tuning
        sys.stdout.write(f"{report.table()}\n\n{report.reason}\n{report.advice}\n")
        sys.stderr.writelines(f"{note}\n" for note in tuned.tuning.notes)
    sys.stderr.write(f"saved in {' and '.join(places)}\n")


def _tune_classifier(
    options: argparse.Namespace,
    search: TuningSearch,
    inputs: list[Any],
    labels: list[Any],
    groups: list[Any] | None,
) -> FungiExtractor:
    from fungi_hf.classifier import FungiClassifier

    test = None
    if options.test is not None:
        test = read_inputs(options.test, options.column), read_labels(options.test, options.label)
    classifier = FungiClassifier(
        load(options),
        search=search,
        head=search.judge,
        n_neighbors=options.k,
        progress=True,
    ).fit(inputs, labels, groups)
    if test is not None:
        classifier.evaluate(*test, name=Path(options.test).name)
    classifier.save_pretrained(options.classifier)
    for one in classifier.results_:
        low, high = one.interval
        sys.stdout.write(
            f"{one.who}, {one.rows}: {one.n_right} of {one.n_rows} right, "
            f"{100 * one.accuracy:.1f} % ({100 * low:.1f} to {100 * high:.1f}); {one.protocol}\n"
        )
    sys.stdout.write("\n")
    return classifier.extractor_


def _inputs_and_extractor(options: argparse.Namespace) -> tuple[list[Any], FungiExtractor]:
    inputs = read_inputs(options.inputs, options.column)
    extractor = load(options)
    if is_file(options.inputs) and extractor.encoder.modality == "text":
        raise InputError(f"{options.inputs} holds sounds or pictures; this encoder takes texts")
    return inputs, extractor
