"""Figures of sweeps: curves over layers, widths and option values."""

from __future__ import annotations

from typing import TYPE_CHECKING

from fungi_hf.evaluation.report import plots

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from matplotlib.figure import Figure

    from fungi_hf.evaluation.sweeps.records import Cell, SweepResult

    Row = Mapping[str, Cell]


def sweep_figures(sweep: SweepResult) -> list[tuple[str, Figure]]:
    """Give captions and figures of a sweep.

    Args:
        sweep: Of any kind.

    Returns:
        For layers one figure a block of features; for sketches the error and the accuracy over
        the width; else the accuracy over the option's values.
    """
    if sweep.kind == "layers":
        return _layers(sweep)
    if sweep.kind == "sketches":
        return _sketches(sweep)
    curves = _curves(sweep.rows, lambda row: str(row["features"]), sweep.kind)
    base = _baseline(row for row in sweep.rows if row[sweep.kind] is None)
    words = f"Accuracy by {sweep.kind}; the dashed line is the embedding."
    return [(words, plots.value_curves(curves, x=sweep.kind, y="accuracy, %", baseline=base))]


def _layers(sweep: SweepResult) -> list[tuple[str, Figure]]:
    rows = [row for row in sweep.rows if row["block"] is not None]
    numbers = sorted({int(row["block"] or 0) for row in rows})
    figures = []
    for name in dict.fromkeys(str(row["features"]) for row in rows):
        own = [row for row in rows if row["features"] == name]
        points = _curves(own, lambda row: str(row["part"]), "block")
        curves = {
            part: [dict(reversed(some)).get(number, float("nan")) for number in numbers]
            for part, some in points.items()
        }
        words = f"{name}: accuracy by the layer that it is taken from; the dashed line is the "
        base = _baseline(sweep.rows)
        drawn = plots.layer_curves(curves, numbers, metric="accuracy, %", baseline=base)
        figures.append((f"{words}embedding.", drawn))
    return figures


def _sketches(sweep: SweepResult) -> list[tuple[str, Figure]]:
    def name(row: Row) -> str:
        return f"{row['kind']}" if row["rank"] is None else f"{row['kind']}, rank {row['rank']}"

    rows = [row for row in sweep.rows if row["kind"] != "exact"]
    base = _baseline(row for row in sweep.rows if row["kind"] == "exact")
    errors = _curves(rows, name, "width", lambda row: float(row["cosine_rmse"] or 0))
    shares = _curves(rows, name, "width")
    return [
        (
            "Error of cosines against the exact kernel, by the sketch's width.",
            plots.value_curves(errors, x="width", y="RMSE of cosines"),
        ),
        (
            "Accuracy of the gradient alone; the dashed line is the exact kernel.",
            plots.value_curves(shares, x="width", y="accuracy, %", baseline=base),
        ),
    ]


def _percent(row: Row) -> float:
    return 100 * float(row["accuracy"] or 0)


def _baseline(rows: Iterable[Row]) -> float | None:
    return next(map(_percent, rows), None)


def _curves(
    rows: Iterable[Row],
    name: Callable[[Row], str],
    x: str,
    y: Callable[[Row], float] = _percent,
) -> dict[str, list[tuple[float, float]]]:
    """Give name -> (x, y) of the rows with an x, in their order."""
    curves: dict[str, list[tuple[float, float]]] = {}
    for row in rows:
        if row[x] is not None:
            curves.setdefault(name(row), []).append((float(row[x] or 0), y(row)))
    return curves
