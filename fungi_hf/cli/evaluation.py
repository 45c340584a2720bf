"""`fungi-hf evaluate` and `fungi-hf report`: what features are worth, as table, JSON and page."""

from __future__ import annotations

import contextlib
import dataclasses
import sys
import time
from typing import TYPE_CHECKING, Any

import numpy as np

from fungi_hf.cli.arguments import add_model, command
from fungi_hf.cli.judgements import (
    LEVELS,
    add_judgements,
    check_judgements,
    has_landmarks,
    in_order,
    read_relevance,
)
from fungi_hf.cli.rows import add_sets, extract_sets, read_set
from fungi_hf.errors import (
    ConfigError,
    InputError,
    LabelError,
    OptionalDependencyError,
    choices,
)

if TYPE_CHECKING:
    import argparse
    from collections.abc import Callable, Mapping

    from fungi_hf.cli.rows import LabelledSet
    from fungi_hf.evaluation import EvaluationResult, Landmarks, Relevance
    from fungi_hf.extractor import FungiExtractor

TASKS = ("knn", "linear", "clustering", "retrieval")
_EVALUATE = """examples:
  fungi-hf evaluate my-features --train train.csv --test test.csv --out results.json
  fungi-hf evaluate my-encoder --objective kl --objective simclr --train train.parquet \\
      --test test.parquet --task all --cost 200 --out results.json
  fungi-hf evaluate --train train.safetensors --train-labels train.csv \\
      --test test.safetensors --test-labels test.csv --protocol paper --protocol paper-text-5-shot
  fungi-hf evaluate facebook/dinov2-small --objective kl --train photos/ --test photos/ \\
      --task retrieval --judgements roxford5k.json --level medium --level hard
  fungi-hf report results.json --out report.html

In each table of knn the last line is a linear probe on the embedding alone, the line to beat;
--no-probe leaves it out. Without --task there is a table of linear, too: the embedding, all blocks.
Protocols of knn: fungi (cosine, 20 neighbours), fungi-N-shot (N random rows a class, 5 draws, 5
neighbours weighted by similarity); as published: paper (Euclidean, 20 neighbours, PCA to 512),
paper-text-N-shot (a proportional draw), paper-vision-N-shot (the first N rows of each class).
Of linear: fungi, paper. Of retrieval: fungi, paper-landmarks. Of clustering: fungi.
Retrieval ranks the training rows for each test row; clustering takes the test rows. Judgements are
lines of JSON, {"relevant": [rows], "junk": [rows]}, or a JSON file of landmarks: easy, hard and
junk images of each query (docs/evaluation.md), then judged by paper-landmarks.

A table is printed, or JSON with --json; --out keeps the JSON for `fungi-hf report`.
"""
_REPORT = """examples:
  fungi-hf report results.json --out report.html
  fungi-hf report results.json layers.json --title "Banking-77, MiniLM" --out report.html

The page needs no network and no scripts.
"""


def add_parsers(subparsers: Any) -> None:
    """Add both commands."""
    words = "accuracy of the embedding, every block and every combination"
    parser = command(subparsers, "evaluate", words, _run_evaluate, _EVALUATE)
    add_model(parser, optional=True)
    add_sets(parser)
    words = "for feature files: a table, or .txt with one label a line"
    parser.add_argument("--train-labels", help=words)
    parser.add_argument("--test-labels", help=words)
    words = "default: knn and, on the embedding and on all blocks, linear; may be repeated"
    parser.add_argument("--task", action="append", choices=[*TASKS, "all"], help=words)
    words = "no linear probe beside knn: it may take long with very many rows"
    parser.add_argument("--no-probe", action="store_true", help=words)
    words = "default: fungi and, for knn, fungi-5-shot; of landmarks paper-landmarks"
    parser.add_argument("--protocol", action="append", help=words)
    parser.add_argument("--shots", type=int, action="append", help="the same as fungi-N-shot")
    parser.add_argument("--combination", action="append", help="e.g. embedding+kl; default: all")
    parser.add_argument("-k", type=int, help="neighbours, in place of the protocol's")
    parser.add_argument("--draws", type=int, help="few-shot draws, in place of the protocol's")
    parser.add_argument("--seed", type=int, help="of draws, splits and clusterings (default: 42)")
    add_judgements(parser)
    parser.add_argument("--cost", type=int, help="time the extraction on this many test inputs")
    parser.add_argument("--json", action="store_true", help="JSON on stdout in place of the table")
    parser.add_argument("--out", help="write the JSON here as well")
    words = "one HTML page of results: tables and figures"
    report = command(subparsers, "report", words, _run_report, _REPORT)
    report.add_argument("results", nargs="+", help="JSON files of `evaluate` or `sweep`")
    report.add_argument("--out", required=True, help="the .html file to write")
    report.add_argument("--title", default="FUNGI evaluation", help="of the page")


def _run_evaluate(options: argparse.Namespace) -> None:
    from fungi_hf.evaluation import Landmarks, block_cka
    from fungi_hf.evaluation.report.documents import EvaluationDocument, write_document
    from fungi_hf.evaluation.report.tables import group_results

    check_judgements(options, _tasks(options))
    plan = _plan(options)
    if options.cost is not None and (options.model is None or options.cost < 1):
        raise ConfigError(f"--cost {options.cost} needs a model, and at least 1 input")
    judged = read_relevance(options)
    labelled = not has_landmarks(options)
    train, test = (read_set(options, side, labelled=labelled) for side in ("train", "test"))
    if isinstance(judged, Landmarks):
        train, test = in_order(options, judged, train, test)
    extractor = None
    if options.model is not None:
        train, test, extractor = extract_sets(options, train, test)
    results: list[EvaluationResult] = []
    for task, protocol in plan:
        start = time.perf_counter()
        try:
            found = _evaluate(task, protocol, train, test, judged, options)
        except (LabelError, OptionalDependencyError) as error:
            beside = task == "probe" or (task == "linear" and options.task is None)
            if not beside or not results:
                raise
            sys.stderr.write(f"no linear probe beside knn: {error}\n")
            continue
        results += found
        n, seconds = len({one.blocks for one in found}), time.perf_counter() - start
        words = "1 combination" if n == 1 else f"{n} combinations"
        sys.stderr.write(f"{found[0].task}, {protocol.name}: {words} in {seconds:.1f} s\n")
    names, values = block_cka(test.features) if len(test.features) > 1 else ([], np.empty((0, 0)))
    document = EvaluationDocument(
        results=tuple(results),
        similarity=(tuple(names), tuple(map(tuple, values.tolist()))),
        costs=_costs(options, extractor, test, results),
        source=_source(options, results),
    )
    if options.out is not None:
        write_document(options.out, document)
        sys.stderr.write(f"{len(results)} records in {options.out}\n")
    if options.json:
        sys.stdout.write(document.to_json() + "\n")
        return
    for group in group_results(results):
        _print(group, results)


def _print(group: list[EvaluationResult], results: list[EvaluationResult]) -> None:
    from fungi_hf.evaluation.report.tables import (
        group_results,
        probe_beside,
        render_text,
        result_table,
    )

    one, probe = group[0], probe_beside(group, results)
    others = [probe_beside(other, results) for other in group_results(results)]
    if len(group) == 1 and any(other is one for other in others):
        return  # it stands in the tables of knn
    sys.stdout.write(
        f"{one.task}, protocol {one.protocol}: {one.n_train} training and {one.n_test} test "
        f"rows, percent\n{render_text(result_table(group, probe))}\n"
    )
    notes = dict.fromkeys(note for one in group for note in one.notes)
    beside = [] if probe is None else [f"linear probe: {note}" for note in probe.notes]
    sys.stdout.writelines(f"note: {note}\n" for note in [*notes, *beside])
    sys.stdout.write("\n")


def _run_report(options: argparse.Namespace) -> None:
    from fungi_hf.evaluation.report.documents import read_documents
    from fungi_hf.evaluation.report.sections import write_report

    document = read_documents(options.results)
    write_report(options.out, document, title=options.title)
    sys.stderr.write(f"report in {options.out}\n")


def _tasks(options: argparse.Namespace) -> list[str]:
    asked = list(dict.fromkeys(options.task or ["knn", "linear"]))
    if options.no_probe and "linear" in (options.task or ()):
        raise ConfigError(
            "--no-probe leaves out the linear probe, which --task linear asks for; leave out one "
            "of the two"
        )
    asked = [*TASKS] if "all" in asked else asked
    return [task for task in asked if task != "linear" or not options.no_probe]


def _plan(options: argparse.Namespace) -> list[tuple[str, Any]]:
    # (task, protocol) pairs; a task that knows none of the named protocols takes `fungi`.
    from fungi_hf import evaluation
    from fungi_hf.evaluation.protocols import protocol_named

    known: dict[str, Mapping[str, Any]] = {
        "knn": evaluation.KNN_PROTOCOLS,
        "linear": evaluation.LINEAR_PROTOCOLS,
        "clustering": {"fungi": evaluation.ClusteringProtocol()},
        "retrieval": evaluation.RETRIEVAL_PROTOCOLS,
    }
    found: dict[str, list[Any]] = {task: [] for task in _tasks(options)}
    named = [*(options.protocol or []), *[f"fungi-{n}-shot" for n in options.shots or []]]
    usual = ["fungi", "fungi-5-shot"] if "knn" in found else ["fungi"]
    if has_landmarks(options):
        usual = ["paper-landmarks"]
    for name in dict.fromkeys(named or usual):
        n_found = sum(map(len, found.values()))
        for task, protocols in found.items():
            with contextlib.suppress(ConfigError):
                protocols.append(protocol_named(name, known[task], task))
        if n_found == sum(map(len, found.values())):
            allowed = {one for task in found for one in known[task]}
            raise ConfigError(f"unknown protocol of {', '.join(found)}: {choices(name, allowed)}")
    if named and options.task is None and not found.get("linear"):
        found.pop("linear", None)  # neighbours alone were asked for
    plan = [
        (task, _changed(one, options))
        for task, protocols in found.items()
        for one in protocols or [known[task]["fungi"]]
    ]
    if "knn" in found and "linear" not in found and not options.no_probe:
        plan.append(("probe", _changed(known["linear"]["fungi"], options)))
    return plan


def _changed(protocol: Any, options: argparse.Namespace) -> Any:
    fields = {field.name for field in dataclasses.fields(protocol)}
    wanted = {"n_neighbors": options.k, "n_draws": options.draws, "seed": options.seed}
    changes = {n: v for n, v in wanted.items() if v is not None and n in fields}
    if getattr(protocol, "sampling", "") == "first" or getattr(protocol, "n_shots", 1) is None:
        changes.pop("n_draws", None)  # there is one such training set
    return dataclasses.replace(protocol, **changes)


def _evaluate(
    task: str,
    protocol: Any,
    train: LabelledSet,
    test: LabelledSet,
    judged: Relevance | Landmarks | None,
    options: argparse.Namespace,
) -> list[EvaluationResult]:
    from fungi_hf import evaluation

    sides: tuple[Any, ...]
    more: dict[str, Any] = {}
    if isinstance(judged, evaluation.Landmarks):
        task, sides = "landmarks", (train.features, test.features, judged)
        more = {"levels": options.level or LEVELS}
    elif task == "retrieval":
        if judged is None:
            labels = _labels(test, "test"), _labels(train, "train")
            judged = evaluation.Relevance.same_label(*labels)
        sides = (train.features, test.features, judged)
    elif task == "clustering":
        sides = (test.features, _labels(test, "test"))
    else:
        sides = (train.features, _labels(train, "train"), test.features, _labels(test, "test"))
    combinations = [text.split("+") for text in options.combination or []] or None
    if task in ("linear", "probe"):
        combinations = _probed(task, train, combinations, options)
        task = "linear"
    run: Callable[..., list[EvaluationResult]] = getattr(evaluation, f"evaluate_{task}")
    return run(*sides, protocol=protocol, combinations=combinations, **more)


def _probed(
    task: str,
    train: LabelledSet,
    combinations: list[list[str]] | None,
    options: argparse.Namespace,
) -> list[list[str]] | None:
    """Give the combinations of a linear probe; the embedding is among them beside neighbours."""
    names = list(getattr(train.features, "layout", {"features": ()}))
    bare = ["embedding"] if "embedding" in names else (combinations or [names[:1]])[0]
    if task == "probe":
        return [bare]
    if combinations is None and options.task is None:
        return [bare, *([names] if len(names) > 1 else [])]  # not all: fits are slow
    if combinations is not None and "knn" in _tasks(options) and bare not in combinations:
        return [bare, *combinations]
    return combinations


def _labels(one: LabelledSet, side: str) -> list[Any]:
    if one.labels is None:
        raise InputError(f"--{side}-labels is needed: the file of features has no labels")
    return one.labels


def _costs(
    options: argparse.Namespace,
    extractor: FungiExtractor | None,
    test: LabelledSet,
    results: list[EvaluationResult],
) -> dict[str, float]:
    if options.cost is None or extractor is None:
        return {}
    from fungi_hf.evaluation.cost import extraction_costs

    known = {"embedding", *extractor.config.blocks}
    blocks = list(dict.fromkeys(one.blocks for one in results if known.issuperset(one.blocks)))
    step = max(1, len(test.inputs) // options.cost)
    return extraction_costs(extractor, test.inputs[::step][: options.cost], blocks)


def _source(options: argparse.Namespace, results: list[EvaluationResult]) -> dict[str, Any]:
    from fungi_hf import __version__

    facts = {name: getattr(options, name) for name in ("model", "train", "test", "judgements")}
    facts |= {"fingerprint": results[0].fingerprint, "fungi_hf": __version__}
    return {name: fact for name, fact in facts.items() if fact is not None}
