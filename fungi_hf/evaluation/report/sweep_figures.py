"""Figures of sweeps: curves over layers, widths and option values."""

from __future__ import annotations

from typing import TYPE_CHECKING

from fungi_hf.evaluation.report import plots

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from matplotlib.figure import Figure

    from fungi_hf.evaluation.sweeps.records import Cell, SweepResult

    Row = Mapping[str, Cell]


def sweep_figures(sweep: SweepResult) -> list[tuple[str, Figure]]:
    """Give captions and figures of a sweep.

    For layers that is one figure a block of features; for sketches the error and the accuracy over
    the width; else the accuracy over the option's values.
    """
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
    curves = {
        part: [dict(some).get(number, float("nan")) for number in numbers]
        for part, some in points.items()
    }
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
