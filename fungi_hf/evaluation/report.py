"""One self-contained HTML page of results: tables, figures, provenance; nothing is fetched."""

from __future__ import annotations

import base64
import html
from pathlib import Path
from typing import TYPE_CHECKING

from fungi_hf.errors import InputError, StorageError
from fungi_hf.evaluation import plots
from fungi_hf.evaluation.inputs import expect
from fungi_hf.evaluation.records import EvaluationResult
from fungi_hf.evaluation.summary import change_per_class

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from matplotlib.figure import Figure


_STYLE = """
:root { color-scheme: light dark; }
body { font: 16px/1.5 system-ui, sans-serif; margin: 0 auto; max-width: 60rem; padding: 1rem; }
h1 { font-size: 1.5rem; } h2 { font-size: 1.2rem; margin-top: 2rem; }
.wide { overflow-x: auto; } table { border-collapse: collapse; font-size: .85rem; }
th, td { border-bottom: 1px solid #8886; padding: .25rem .6rem; text-align: right; }
th:first-child, td:first-child { text-align: left; white-space: nowrap; }
tr.best td { font-weight: 600; } .note { color: #777; font-size: .8rem; overflow-wrap: anywhere; }
img { background: white; height: auto; max-width: 100%; }
"""


def build_report(
    results: Sequence[EvaluationResult],
    *,
    title: str = "FUNGI evaluation",
    figures: Mapping[str, Figure] | None = None,
) -> str:
    """Give the page.

    Args:
        results: Records of any tasks and protocols; each pair of these gets a table, and a figure
            of the per-class change of its best combination against the baseline.
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
    groups: dict[tuple[str, str], list[EvaluationResult]] = {}
    for result in results:
        groups.setdefault((result.task, result.protocol), []).append(result)
    parts = [f"<h1>{html.escape(title)}</h1>"]
    for (task, protocol), group in groups.items():
        parts.append(f"<h2>{html.escape(task)}, protocol {html.escape(protocol)}</h2>")
        parts += [_table(group), _class_figure(group), _provenance(group)]
    for caption, figure in (figures or {}).items():
        parts += [f"<h2>{html.escape(caption)}</h2>", _image(figure, caption)]
    body = "\n".join(part for part in parts if part)
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        '<link rel="icon" href="data:,">\n'
        f"<title>{html.escape(title)}</title>\n<style>{_STYLE}</style>\n</head>\n"
        f"<body>\n{body}\n</body>\n</html>\n"
    )


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

    Raises:
        StorageError: If the file cannot be written.
    """
    page = build_report(results, title=title, figures=figures)
    try:
        Path(path).write_text(page, encoding="utf-8")
    except OSError as error:
        raise StorageError(f"the report cannot be written to {path}: {error}") from error


def _main(result: EvaluationResult) -> str:
    return "map" if "map" in result.metrics else "accuracy"


def _best(group: Sequence[EvaluationResult]) -> EvaluationResult:
    return max(group, key=lambda one: one.metrics[_main(one)])


def _table(group: Sequence[EvaluationResult]) -> str:
    names = list(dict.fromkeys(name for one in group for name in one.metrics))
    compared = any(one.against_baseline for one in group)
    head = ["features", *names] + (["difference", "95 %", "p"] if compared else [])
    best = _best(group)
    rows = []
    for one in group:
        cells = [html.escape(one.name), *[_value(one, name) for name in names]]
        if compared:
            cells += _comparison(one)
        mark = ' class="best"' if one is best else ""
        rows.append(f"<tr{mark}>" + "".join(f"<td>{cell}</td>" for cell in cells) + "</tr>")
    header = "".join(f"<th>{html.escape(name)}</th>" for name in head)
    return (
        f'<div class="wide"><table><thead><tr>{header}</tr></thead>'
        f"<tbody>{''.join(rows)}</tbody></table></div>"
    )


def _value(one: EvaluationResult, name: str) -> str:
    if name not in one.metrics:
        return ""
    text = f"{100 * one.metrics[name]:.1f}"
    if name in one.spread:
        text += f" &plusmn; {100 * one.spread[name]:.1f}"
    if name in one.intervals:
        low, high = one.intervals[name]
        text += f" [{100 * low:.1f}, {100 * high:.1f}]"
    return text


def _comparison(one: EvaluationResult) -> list[str]:
    if not one.against_baseline:
        return ["baseline", "", ""]
    values = one.against_baseline
    ends = f"[{100 * values['low']:+.1f}, {100 * values['high']:+.1f}]"
    p = values["p"]
    return [f"{100 * values['difference']:+.1f}", ends, "&lt; 0.0001" if p < 1e-4 else f"{p:.4f}"]


def _class_figure(group: Sequence[EvaluationResult]) -> str:
    baselines = [one for one in group if not one.against_baseline]
    best = _best(group)
    if not baselines or best is baselines[0] or len(best.per_class) < 2:
        return ""
    caption = f"{best.name} against {baselines[0].name}"
    return _image(plots.class_bars(change_per_class(best, baselines[0]), title=caption), caption)


def _provenance(group: Sequence[EvaluationResult]) -> str:
    one = group[0]
    settings = ", ".join(f"{name} = {value}" for name, value in one.settings.items())
    notes = list(dict.fromkeys(f"{r.name}: {note}" for r in group for note in r.notes))
    facts = [
        f"{one.n_train} training and {one.n_test} test rows; values in percent",
        f"settings: {settings}" if settings else "",
        f"seeds: {', '.join(map(str, one.seeds))}" if one.seeds else "",
        f"fingerprint: {one.fingerprint}" if one.fingerprint else "",
        *notes[:20],
        f"and {len(notes) - 20} more notes" if len(notes) > 20 else "",
    ]
    return "".join(f'<p class="note">{html.escape(fact)}</p>' for fact in facts if fact)


def _image(figure: Figure, caption: str) -> str:
    data = base64.b64encode(plots.render(figure, "svg")).decode("ascii")
    text = html.escape(caption, quote=True)
    return f'<p><img alt="{text}" src="data:image/svg+xml;base64,{data}"></p>'
