"""One self-contained HTML page of results: tables, figures, provenance; nothing is fetched."""

from __future__ import annotations

import base64
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Final

from fungi_hf.errors import InputError, StorageError
from fungi_hf.evaluation.inputs import expect
from fungi_hf.evaluation.records import EvaluationResult
from fungi_hf.evaluation.report import plots
from fungi_hf.evaluation.report.documents import EvaluationDocument
from fungi_hf.evaluation.report.sweep_figures import sweep_figures
from fungi_hf.evaluation.report.tables import best_of, group_results, result_table, sweep_table
from fungi_hf.evaluation.report.wording import visible
from fungi_hf.evaluation.summary import change_per_class

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from matplotlib.figure import Figure

    from fungi_hf.evaluation.sweeps.records import SweepResult

_TASKS: Final = {"knn": "k-nearest neighbours", "linear": "Linear probe"}
_LEVEL: Final = 0.05
_BARS: Final = 20  # of classes, beside a figure of the combinations
_NOTES: Final = 20
_ROWS: Final = 40  # more fold away


@dataclass(frozen=True, slots=True, kw_only=True)
class _Section:
    """A part of the page, in plain texts; `best` is the row to mark, SVGs are in base64."""

    heading: str
    lead: str = ""
    head: Sequence[str] = ()
    rows: Sequence[Sequence[str]] = ()
    best: int | None = None
    figures: Sequence[tuple[str, str]] = ()
    notes: Sequence[str] = ()


def build_report(
    results: Sequence[EvaluationResult] | EvaluationDocument,
    *,
    title: str = "FUNGI evaluation",
    figures: Mapping[str, Figure] | None = None,
) -> str:
    """Give the page of some records, or of a document with block similarities, costs and sweeps.

    Args:
        results: Records of any tasks and protocols; each pair of these gets a table, and figures
            of the differences to the baseline and of the per-class change.
        title: Of the page.
        figures: Further captions and figures, e.g. from `plots`.

    Returns:
        HTML without external resources or scripts, readable at phone width.

    Raises:
        InputError: If there are neither records nor sweeps.
    """
    import jinja2

    given = results
    if not isinstance(given, EvaluationDocument):
        given = EvaluationDocument(results=tuple(given))
    if not given.results and not given.sweeps:
        raise InputError("results are empty; a report needs at least one record or sweep")
    for one in given.results:
        expect(one, EvaluationResult, "a result")
    further = (_Section(heading=c, figures=_drawn([(c, f)])) for c, f in (figures or {}).items())
    environment = jinja2.Environment(
        autoescape=True,
        trim_blocks=True,
        undefined=jinja2.StrictUndefined,
        finalize=lambda text: visible(text, kept="\n\t") if type(text) is str else text,
    )
    page = resources.files(__package__).joinpath("page.html").read_text(encoding="utf-8")
    return environment.from_string(page).render(
        title=title,
        source=", ".join(f"{name}: {fact}" for name, fact in given.source.items()),
        sections=[*_sections(given), *further],
        longest=_ROWS,
    )


def write_report(
    path: str | Path,
    results: Sequence[EvaluationResult] | EvaluationDocument,
    *,
    title: str = "FUNGI evaluation",
    figures: Mapping[str, Figure] | None = None,
) -> None:
    """Write what `build_report` gives to an HTML file, whose folder must exist.

    Raises:
        StorageError: If the file cannot be written.
    """
    text = build_report(results, title=title, figures=figures)
    try:
        Path(path).write_text(text, encoding="utf-8")
    except OSError as error:
        raise StorageError(f"the report cannot be written to {path}: {error}") from error


def _sections(document: EvaluationDocument) -> list[_Section]:
    groups = group_results(document.results)
    several = len({one.fingerprint for one in document.results}) > 1
    found = [_section(group, several=several) for group in groups]
    found += [_sweep(sweep) for sweep in document.sweeps]
    names, values = document.similarity
    if len(names) > 1:
        words = "Linear CKA between the blocks of the test rows: 1 is the same geometry."
        drawn = _drawn([(words, plots.cka_heat_map(names, values))])
        found.append(_Section(heading="Similarity of blocks", figures=drawn))
    if document.costs and groups:
        found.append(_costs(groups[0], document.costs))
    return found


def _drawn(figures: Iterable[tuple[str, Figure]]) -> list[tuple[str, str]]:
    return [(words, base64.b64encode(plots.render(one)).decode()) for words, one in figures]


def _heading(one: EvaluationResult, *, several: bool = False) -> str:
    source = f", features {one.fingerprint}" if several else ""
    return f"{_TASKS.get(one.task, one.task.capitalize())}, protocol {one.protocol}{source}"


def _section(group: list[EvaluationResult], *, several: bool) -> _Section:
    head, rows = result_table(group)
    best = best_of(group)
    base = next((one for one in group if not one.against_baseline), None)
    compared = {one.name: one.against_baseline for one in group if one.against_baseline}
    figures = []
    if compared:
        name = "a baseline that is not here" if base is None else base.name
        words = f"Difference to {name} in points, with its 95 % interval."
        figures.append((words, plots.difference_intervals(compared)))
    if base is not None and best.against_baseline and len(best.per_class) > 1:
        bars = plots.class_bars(change_per_class(best, base), most=_BARS)
        figures.append((f"Change per class: {best.name} against {base.name}.", bars))
    return _Section(
        heading=_heading(group[0], several=several),
        lead=_summary(best, base, len(compared)),
        head=head,
        rows=rows,
        best=group.index(best),
        figures=_drawn(figures),
        notes=_provenance(group),
    )


def _summary(best: EvaluationResult, base: EvaluationResult | None, tests: int) -> str:
    """Say what is best, and whether that is more than noise."""
    share = f"{100 * best.metrics[best.main]:.1f} %"
    if base is None:
        return (
            f"Best of these: {best.name} with {best.main} {share}. The "
            "baseline is not among the records, so what is gained over it is not told here."
        )
    start = f"{base.name}: {base.main} {100 * base.metrics[base.main]:.1f} %."
    if not best.against_baseline:
        return f"{start} No combination is above it."
    p = best.against_baseline["p"]
    verdict = "significant" if p * tests < _LEVEL else "not significant"
    return (
        f"{start} Best: {best.name} with {share} "
        f"({100 * best.against_baseline['difference']:+.1f} points, "
        f"p = {p:.2g}, {verdict} at 5 % among {tests} comparisons)."
    )


def _provenance(group: Sequence[EvaluationResult]) -> list[str]:
    one = group[0]
    settings = ", ".join(f"{name} = {value}" for name, value in one.settings.items())
    found = list(dict.fromkeys(f"{r.name}: {note}" for r in group for note in r.notes))
    facts = [
        f"{one.n_train} training and {one.n_test} test rows; values in percent; in brackets 95 % "
        "bootstrap intervals over test rows, after ± the standard deviation over draws",
        f"settings: {settings}" if settings else "",
        f"seeds: {', '.join(map(str, one.seeds))}" if one.seeds else "",
        f"fingerprint: {one.fingerprint}" if one.fingerprint else "",
        *found[:_NOTES],
        f"and {len(found) - _NOTES} more notes" if len(found) > _NOTES else "",
    ]
    return list(filter(None, facts))


def _sweep(sweep: SweepResult) -> _Section:
    head, rows = sweep_table(sweep)
    scores = [row.get("accuracy") for row in sweep.rows]
    top = max((float(one) for one in scores if one is not None), default=None)
    return _Section(
        heading=f"Sweep: {sweep.kind}",
        head=head,
        rows=rows,
        best=None if top is None else scores.index(top),
        figures=_drawn(sweep_figures(sweep)),
        notes=[*(f"{name}: {value}" for name, value in sweep.settings.items()), *sweep.notes],
    )


def _costs(group: list[EvaluationResult], costs: Mapping[str, float]) -> _Section:
    timed = [one for one in group if one.name in costs]
    if not timed:
        words = "None of the timed combinations was evaluated."
        return _Section(heading="Accuracy against cost", lead=words)
    points = {one.name: (costs[one.name], 100 * one.metrics[one.main]) for one in timed}
    words = (
        f"{_heading(group[0])}; extraction time over that of the embedding alone, measured "
        "alternately on one machine."
    )
    drawn = plots.accuracy_against_cost(points, metric=f"{group[0].main}, %")
    return _Section(heading="Accuracy against cost", figures=_drawn([(words, drawn)]))
