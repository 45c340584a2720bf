"""One self-contained HTML page of results: tables, figures, provenance; nothing is fetched."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from fungi_hf.errors import InputError, StorageError
from fungi_hf.evaluation.inputs import expect
from fungi_hf.evaluation.records import EvaluationResult
from fungi_hf.evaluation.report import page, plots
from fungi_hf.evaluation.report.documents import EvaluationDocument
from fungi_hf.evaluation.report.sweep_figures import sweep_figures
from fungi_hf.evaluation.report.tables import (
    best_of,
    group_results,
    main_metric,
    result_table,
    sweep_table,
)
from fungi_hf.evaluation.summary import change_per_class

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from matplotlib.figure import Figure

    from fungi_hf.evaluation.sweeps.records import SweepResult

_TASKS = {"knn": "k-nearest neighbours", "linear": "Linear probe", "clustering": "Clustering"}
_LEVEL = 0.05
_BARS = 20  # of classes, beside a figure of the combinations


def build_report(
    results: Sequence[EvaluationResult],
    *,
    title: str = "FUNGI evaluation",
    figures: Mapping[str, Figure] | None = None,
) -> str:
    """Give the page of some records.

    Args:
        results: Records of any tasks and protocols; each pair of these gets a table, and figures
            of the differences to the baseline and of the per-class change.
        title: Of the page.
        figures: Further captions and figures, e.g. from `plots`.

    Returns:
        HTML without external resources or scripts, readable at phone width.

    Raises:
        InputError: If there are no results.
    """
    if not results:
        raise InputError("results are empty; a report needs at least one record")
    for one in results:
        expect(one, EvaluationResult, "a result")
    return document_report(EvaluationDocument(results=tuple(results)), title=title, figures=figures)


def document_report(
    document: EvaluationDocument,
    *,
    title: str = "FUNGI evaluation",
    figures: Mapping[str, Figure] | None = None,
) -> str:
    """Give the page of a document: its records, block similarities, costs and sweeps.

    Args:
        document: See `EvaluationDocument`.
        title: Of the page.
        figures: As for `build_report`.

    Returns:
        As `build_report`.

    Raises:
        InputError: If the document holds neither records nor sweeps.
    """
    if not document.results and not document.sweeps:
        raise InputError("the evaluation holds no results; a report needs at least one")
    sources = {one.fingerprint for one in document.results}
    sections = [
        (_heading(group[0], several=len(sources) > 1), _section(group))
        for group in group_results(document.results)
    ]
    sections += [(f"Sweep: {sweep.kind}", _sweep(sweep)) for sweep in document.sweeps]
    names, values = document.similarity
    if len(names) > 1:
        drawn = plots.cka_heat_map(list(names), values)
        words = "Linear CKA between the blocks of the test rows: 1 is the same geometry."
        sections.append(("Similarity of blocks", page.figures([(plots.render(drawn), words)])))
    if document.costs and document.results:
        sections.append(("Accuracy against cost", _costs(document)))
    for caption, drawn in (figures or {}).items():
        sections.append((caption, page.figures([(plots.render(drawn), caption)])))
    facts = [f"{name}: {fact}" for name, fact in document.source.items()]
    return page.page(title, ", ".join(facts), sections)


def write_report(
    path: str | Path,
    results: Sequence[EvaluationResult],
    *,
    title: str = "FUNGI evaluation",
    figures: Mapping[str, Figure] | None = None,
) -> None:
    """Write what `build_report` gives.

    Args:
        path: Of the HTML file; its folder must exist.
        results: See `build_report`.
        title: See `build_report`.
        figures: See `build_report`.
    """
    _write(path, build_report(results, title=title, figures=figures))


def write_document_report(
    path: str | Path, document: EvaluationDocument, *, title: str = "FUNGI evaluation"
) -> None:
    """Write what `document_report` gives; the file's folder must exist."""
    _write(path, document_report(document, title=title))


def _write(path: str | Path, text: str) -> None:
    """Write the page.

    Raises:
        StorageError: If the file cannot be written.
    """
    try:
        Path(path).write_text(text, encoding="utf-8")
    except OSError as error:
        raise StorageError(f"the report cannot be written to {path}: {error}") from error


def _heading(one: EvaluationResult, *, several: bool = False) -> str:
    source = f", features {one.fingerprint}" if several else ""
    return f"{_TASKS.get(one.task, one.task.capitalize())}, protocol {one.protocol}{source}"


def _section(group: Sequence[EvaluationResult]) -> str:
    head, rows = result_table(group)
    best, base = best_of(group), _baseline(group)
    parts = [
        page.lead(_summary(group)),
        page.table(
            head,
            rows,
            best=[group.index(best)],
            signed=[place for place, name in enumerate(head) if name == "difference"],
        ),
    ]
    shown = []
    compared = [one for one in group if one.against_baseline]
    if compared:
        drawn = plots.difference_intervals({one.name: one.against_baseline for one in compared})
        name = "a baseline that is not here" if base is None else base.name
        words = f"Difference to {name} in points, with its 95 % interval."
        shown.append((plots.render(drawn), words))
    if base is not None and best.against_baseline and len(best.per_class) > 1:
        words = f"Change per class: {best.name} against {base.name}."
        drawn = plots.class_bars(change_per_class(best, base), most=_BARS)
        shown.append((plots.render(drawn), words))
    return "".join(
        [*parts, page.figures(shown), page.notes(_provenance(group), "Settings and notes")]
    )


def _baseline(group: Sequence[EvaluationResult]) -> EvaluationResult | None:
    return next((one for one in group if not one.against_baseline), None)


def _summary(group: Sequence[EvaluationResult]) -> str:
    """Say what is best, and whether that is more than noise."""
    best, base = best_of(group), _baseline(group)
    name = main_metric(best)
    if base is None:
        return (
            f"Best of these: {best.name} with {name} {100 * best.metrics[name]:.1f} %. The "
            "baseline is not among the records, so what is gained over it is not told here."
        )
    start = f"{base.name}: {name} {100 * base.metrics[name]:.1f} %."
    if not best.against_baseline:
        return f"{start} No combination is above it."
    tests = len([one for one in group if one.against_baseline])
    p = best.against_baseline["p"]
    against = 100 * best.against_baseline["difference"]
    verdict = "significant" if p * tests < _LEVEL else "not significant"
    return (
        f"{start} Best: {best.name} with {100 * best.metrics[name]:.1f} % ({against:+.1f} points, "
        f"p = {p:.2g}, {verdict} at 5 % among {tests} comparisons)."
    )


def _provenance(group: Sequence[EvaluationResult]) -> list[str]:
    one = group[0]
    settings = ", ".join(f"{name} = {value}" for name, value in one.settings.items())
    found = list(dict.fromkeys(f"{r.name}: {note}" for r in group for note in r.notes))
    return [
        f"{one.n_train} training and {one.n_test} test rows; values in percent; in brackets 95 % "
        "bootstrap intervals over test rows, after ± the standard deviation over draws",
        f"settings: {settings}" if settings else "",
        f"seeds: {', '.join(map(str, one.seeds))}" if one.seeds else "",
        f"fingerprint: {one.fingerprint}" if one.fingerprint else "",
        *found[:20],
        f"and {len(found) - 20} more notes" if len(found) > 20 else "",
    ]


def _sweep(sweep: SweepResult) -> str:
    head, rows = sweep_table(sweep)
    drawn = [(plots.render(one), words) for words, one in sweep_figures(sweep)]
    scores = [row.get("accuracy") for row in sweep.rows]
    top = max((float(one) for one in scores if one is not None), default=None)
    best = [place for place, one in enumerate(scores) if one == top]
    table = page.table(head, rows, best=best[:1])
    if len(rows) > 40:
        table = f"<details><summary>All {len(rows)} rows</summary>{table}</details>\n"
    shared = [f"{name}: {value}" for name, value in sweep.settings.items()]
    return "".join(
        [page.figures(drawn), table, page.notes([*shared, *sweep.notes], "Settings and notes")]
    )


def _costs(document: EvaluationDocument) -> str:
    group = group_results(document.results)[0]
    name = main_metric(group[0])
    points = {
        one.name: (document.costs[one.name], 100 * one.metrics[name])
        for one in group
        if one.name in document.costs
    }
    if not points:
        return page.lead("None of the timed combinations was evaluated.")
    drawn = plots.accuracy_against_cost(points, metric=f"{name}, %")
    words = (
        f"{_heading(group[0])}; extraction time over that of the embedding alone, measured "
        "alternately on one machine."
    )
    return page.figures([(plots.render(drawn), words)])
