"""One self-contained HTML page of results: tables, figures, provenance; nothing is fetched."""

from __future__ import annotations

import base64
from importlib import resources
from typing import TYPE_CHECKING, Any, Final, TypeAlias

from fungi_hf.errors import InputError
from fungi_hf.evaluation.protocols import expect
from fungi_hf.evaluation.records import EvaluationResult, change_per_class, write_text
from fungi_hf.evaluation.report import plots
from fungi_hf.evaluation.report.documents import EvaluationDocument
from fungi_hf.evaluation.report.media import short_path
from fungi_hf.evaluation.report.tables import (
    class_table,
    group_results,
    probe_beside,
    result_table,
    sweep_table,
)

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from pathlib import Path

    from matplotlib.figure import Figure

    from fungi_hf.evaluation.records import Cell, SweepResult

    Row: TypeAlias = Mapping[str, Cell]
    Section: TypeAlias = dict[str, Any]  # a heading, and what page.html shows below it

_TASKS: Final = {
    "knn": "k-nearest neighbours",
    "linear": "Linear probe",
    "segmentation": "In-context segmentation",
}
_BARS: Final = 20  # of classes, beside a figure of the combinations
_FIELDS: Final = (
    "lead", "best", "base", "probe", "tests", "head", "rows", "mark", "classes", "figures", "notes",
)  # fmt: skip


def build_report(
    results: Sequence[EvaluationResult] | EvaluationDocument,
    *,
    title: str = "FUNGI evaluation",
    figures: Mapping[str, Figure] | None = None,
) -> str:
    """Give the page of some records, or of a document with block similarities, costs and sweeps.

    Each task and protocol gets a table, and figures of the differences to the baseline and of the
    per-class change; `figures` are further captions and figures, e.g. from `plots`.

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
    sections = _sections(given)
    sections += [
        {"heading": n, "figures": _drawn([(n, one)])} for n, one in (figures or {}).items()
    ]
    environment = jinja2.Environment(
        autoescape=True,
        trim_blocks=True,
        undefined=jinja2.StrictUndefined,
        finalize=lambda text: plots.visible(text, kept="\n\t") if type(text) is str else text,
    )
    page = resources.files(__package__).joinpath("page.html").read_text(encoding="utf-8")
    source = ", ".join(f"{name}: {short_path(fact)}" for name, fact in given.source.items())
    shown = [dict.fromkeys(_FIELDS, ()) | section for section in sections]
    return environment.from_string(page).render(title=title, source=source, sections=shown)


def write_report(
    path: str | Path,
    results: Sequence[EvaluationResult] | EvaluationDocument,
    *,
    title: str = "FUNGI evaluation",
    figures: Mapping[str, Figure] | None = None,
) -> None:
    """Write what `build_report` gives to an HTML file, whose folder must exist."""
    write_text(path, build_report(results, title=title, figures=figures), "report")


def _sections(document: EvaluationDocument) -> list[Section]:
    groups = group_results(document.results)
    several = len({one.fingerprint for one in document.results}) > 1
    found = [
        _section(group, probe_beside(group, document.results), several=several) for group in groups
    ]
    found += [_sweep(sweep) for sweep in document.sweeps]
    names, values = document.similarity
    if len(names) > 1:
        words = "Linear CKA between the blocks of the test rows: 1 is the same geometry."
        drawn = _drawn([(words, plots.cka_heat_map(names, values))])
        found.append({"heading": "Similarity of blocks", "figures": drawn})
    if document.costs and groups:
        found.append({"heading": "Accuracy against cost", **_costs(groups[0], document.costs)})
    return found


def _drawn(figures: Iterable[tuple[str, Figure]]) -> list[tuple[str, str]]:
    return [(words, base64.b64encode(plots.render(one)).decode()) for words, one in figures]


def _heading(one: EvaluationResult, *, several: bool = False) -> str:
    source = f", features {one.fingerprint}" if several else ""
    return f"{_TASKS.get(one.task, one.task.capitalize())}, protocol {one.protocol}{source}"


def _section(
    group: list[EvaluationResult], probe: EvaluationResult | None, *, several: bool
) -> Section:
    head, rows = result_table(group, probe)
    tested = [one for one in group if not one.is_control] or group
    best = max(tested, key=lambda one: one.metrics[one.main])
    base = next((one for one in tested if not one.against_baseline), None)
    compared = {one.name: one.against_baseline for one in tested if one.against_baseline}
    is_map = best.task == "segmentation"
    figures = []
    if compared:
        name = "a baseline that is not here" if base is None else base.name
        words = f"Difference to {name} in points, with its 95 % interval."
        figures.append((words, plots.difference_intervals(compared)))
    if base is not None and best.against_baseline and len(best.per_class) > 1:
        measure = "IoU" if is_map else "recall"
        bars = plots.class_bars(change_per_class(best, base), most=_BARS, metric=measure)
        figures.append((f"Change per class: {best.name} against {base.name}.", bars))
    return {
        "heading": _heading(best, several=several),
        "best": best,
        "base": base,
        "probe": probe,
        "tests": len(compared),
        "head": head,
        "rows": rows,
        "mark": group.index(best),
        "classes": class_table(group) if is_map else (),
        "figures": _drawn(figures),
        "notes": list(dict.fromkeys(f"{one.name}: {n}" for one in group for n in one.notes)),
    }


def _sweep(sweep: SweepResult) -> Section:
    head, rows = sweep_table(sweep)
    scores = [float(row["accuracy"] or 0) for row in sweep.rows]
    return {
        "heading": f"Sweep: {sweep.kind}",
        "head": head,
        "rows": rows,
        "mark": scores.index(max(scores)) if scores else None,
        "figures": _drawn(_sweep_figures(sweep)),
        "notes": [
            *(f"{name}: {short_path(value)}" for name, value in sweep.settings.items()),
            *sweep.notes,
        ],
    }


def _costs(group: list[EvaluationResult], costs: Mapping[str, float]) -> Section:
    timed = [one for one in group if one.name in costs]
    points = {one.name: (costs[one.name], 100 * one.metrics[one.main]) for one in timed}
    if not points:
        return {"lead": "None of the timed combinations was evaluated."}
    words = (
        f"{_heading(group[0])}; extraction time over that of the embedding alone, measured "
        "alternately on one machine."
    )
    drawn = plots.accuracy_against_cost(points, metric=f"{group[0].main}, %")
    return {"figures": _drawn([(words, drawn)])}


def _sweep_figures(sweep: SweepResult) -> list[tuple[str, Figure]]:
    """Give captions and figures of a sweep: of layers, one a block of features."""
    x = {"layers": "block", "sketches": "width"}.get(sweep.kind, sweep.kind)
    blank = [row for row in sweep.rows if row[x] is None or row.get("kind") == "exact"]
    base = _number(blank[0], "accuracy") if blank else None
    rows = [row for row in sweep.rows if row not in blank]
    if sweep.kind == "layers":
        names = dict.fromkeys(str(row["features"]) for row in rows)
        return [_layers(name, rows, base) for name in names]
    shares = plots.value_curves(_curves(rows, x), x=x, y="accuracy, %", baseline=base)
    if sweep.kind != "sketches":
        return [(f"Accuracy by {x}; the dashed line is the embedding.", shares)]
    errors = plots.value_curves(_curves(rows, x, "cosine_rmse"), x=x, y="RMSE of cosines")
    return [
        ("Error of cosines against the exact kernel, by the sketch's width.", errors),
        ("Accuracy of the gradient alone; the dashed line is the exact kernel.", shares),
    ]


def _layers(name: str, rows: list[Row], base: float | None) -> tuple[str, Figure]:
    numbers = sorted({int(row["block"] or 0) for row in rows})
    points = _curves((row for row in rows if row["features"] == name), "block")
    held = {part: dict(some) for part, some in points.items()}
    curves = {part: [one.get(n, float("nan")) for n in numbers] for part, one in held.items()}
    drawn = plots.layer_curves(curves, numbers, metric="accuracy, %", baseline=base)
    where = "accuracy by the layer that it is taken from; the dashed line is the embedding."
    return f"{name}: {where}", drawn


def _curves(
    rows: Iterable[Row], x: str, y: str = "accuracy"
) -> dict[str, list[tuple[float, float]]]:
    """Give a name -> (x, y) of its rows: a part of a layer, a sketch, or a block of features."""
    curves: dict[str, list[tuple[float, float]]] = {}
    for row in rows:
        name = str(row.get("part", row.get("kind", row.get("features"))))
        name += "" if row.get("rank") is None else f", rank {row['rank']}"
        curves.setdefault(name, []).append((_number(row, x), _number(row, y)))
    return curves


def _number(row: Row, name: str) -> float:
    return float(row[name] or 0) * (100 if name == "accuracy" else 1)
