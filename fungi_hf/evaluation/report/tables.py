"""Results as rows of texts, for terminals and pages; shares become percent."""

from __future__ import annotations

from typing import TYPE_CHECKING

from fungi_hf.statistics import holm

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from fungi_hf.evaluation.records import EvaluationResult, SweepResult

Table = tuple[list[str], list[list[str]]]
_SHARES = ("accuracy", "accuracy_low", "accuracy_high", "neighbours_kept")


def group_results(results: Iterable[EvaluationResult]) -> list[list[EvaluationResult]]:
    """Give the records of each task, protocol and fingerprint, in the order given."""
    groups: dict[tuple[str, str, str | None], list[EvaluationResult]] = {}
    for one in results:
        groups.setdefault((one.task, one.protocol, one.fingerprint), []).append(one)
    return list(groups.values())


def probe_beside(
    group: Sequence[EvaluationResult], results: Iterable[EvaluationResult]
) -> EvaluationResult | None:
    """Give the linear probe that belongs in a table of neighbours, as the line to beat.

    It is on the embedding, or where there is none on the baseline, of the same features and test
    rows; the first of several. Tables of other tasks have none.
    """
    origins = {(one.fingerprint, one.n_test) for one in group if one.task == "knn"}
    probes = {
        one.blocks: one
        for one in reversed([*results])
        if one.task == "linear" and (one.fingerprint, one.n_test) in origins
    }
    bases = [("embedding",), *(one.blocks for one in group if not one.against_baseline)]
    return next((probes[some] for some in bases if some in probes), None)


def result_table(group: Sequence[EvaluationResult], probe: EvaluationResult | None = None) -> Table:
    """Give header and rows of records of one task and protocol, the baseline among them.

    A probe, see `probe_beside`, is the last row: its metrics without a comparison, and its training
    rows where they are others.

    A column per metric, and for the main metric the difference to the baseline in points, its 95 %
    interval, the paired test's p, and p after Holm's correction over the rows but controls, which
    are no claim.
    """
    metrics = list(dict.fromkeys(name for one in group for name in one.metrics))
    tested = [one for one in group if one.against_baseline and not one.is_control]
    adjusted = iter(holm([one.against_baseline["p"] for one in tested]))
    rows = [[one.name, *[_metric(one, name) for name in metrics]] for one in group]
    head = ["features", *metrics]
    if any(one.against_baseline for one in group):
        head += ["difference", "95 %", "p", "p (Holm)"]
        for one, cells in zip(group, rows, strict=True):
            cells.extend(_comparison(one, next(adjusted) if one in tested else None))
    if probe is not None:
        name = f"linear probe, {probe.name}"
        if probe.n_train != group[0].n_train:
            name += f" ({probe.n_train:,} rows)"
        cells = [name, *[_metric(probe, one) for one in metrics]]
        rows.append(cells + [""] * (len(head) - len(cells)))
    return head, rows


def class_table(group: Sequence[EvaluationResult]) -> Table:
    """Give header and rows of each class's recall or IoU, in percent."""
    names = list(dict.fromkeys(name for one in group for name in one.per_class))
    rows = [[one.name, *[_share(one.per_class.get(name)) for name in names]] for one in group]
    return ["features", *names], rows


def sweep_table(sweep: SweepResult) -> Table:
    """Give header and rows of a sweep."""
    names = sweep.columns
    return names, [[_cell(name, row.get(name)) for name in names] for row in sweep.rows]


def render_text(table: Table) -> str:
    """Align a table for a terminal: the first column left, the others right."""
    head, rows = table
    widths = [max(map(len, column)) for column in zip(head, *rows, strict=True)]

    def line(cells: list[str]) -> str:
        right = map(str.rjust, cells[1:], widths[1:])
        return "  ".join([cells[0].ljust(widths[0]), *right]).rstrip()

    return "\n".join([line(head), "-" * sum(widths, 2 * (len(widths) - 1)), *map(line, rows)])


def _metric(one: EvaluationResult, name: str) -> str:
    if name not in one.metrics:
        return ""
    text = f"{100 * one.metrics[name]:.1f}"
    if name in one.spread:
        text += f" ± {100 * one.spread[name]:.1f}"
    if name in one.intervals:
        low, high = one.intervals[name]
        text += f" [{100 * low:.1f}, {100 * high:.1f}]"
    return text


def _share(value: float | None) -> str:
    return "" if value is None else f"{100 * value:.1f}"


def _comparison(one: EvaluationResult, corrected: float | None) -> list[str]:
    values = one.against_baseline
    if not values:
        return ["baseline", "", "", ""]
    ends = f"[{100 * values['low']:+.1f}, {100 * values['high']:+.1f}]"
    last = "" if corrected is None else _p(corrected)
    return [f"{100 * values['difference']:+.1f}", ends, _p(values["p"]), last]


def _p(value: float) -> str:
    return "< 0.0001" if value < 1e-4 else f"{value:.4f}"


def _cell(name: str, value: str | float | None) -> str:
    if value is None or isinstance(value, str):
        return value or ""
    if name == "p":
        return _p(value)
    if name.startswith("difference"):
        return f"{100 * value:+.1f}"
    return f"{100 * value:.1f}" if name in _SHARES else f"{value:.4g}"
