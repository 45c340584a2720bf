"""Figures of sweeps: curves over layers, widths and option values."""

from __future__ import annotations

from typing import TYPE_CHECKING

from fungi_hf.evaluation.report import plots

if TYPE_CHECKING:
    from collections.abc import Mapping

    from matplotlib.figure import Figure

    from fungi_hf.evaluation.sweeps.records import Cell, SweepResult

    Rows = list[Mapping[str, Cell]]


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
    return _option(sweep)


def _layers(sweep: SweepResult) -> list[tuple[str, Figure]]:
    rows = [row for row in sweep.rows if row.get("block") is not None]
    numbers = sorted({int(row["block"] or 0) for row in rows})
    base = _percent(sweep.rows[0]) if sweep.rows else None
    figures = []
    for name in dict.fromkeys(str(row["features"]) for row in rows):
        own = [row for row in rows if row["features"] == name]
        curves = {
            part: [_at(own, part, number) for number in numbers]
            for part in dict.fromkeys(str(row["part"]) for row in own)
        }
        figures.append(
            (
                f"{name}: accuracy by the layer that it is taken from; the dashed line is the "
                "embedding.",
                plots.layer_curves(curves, numbers, metric="accuracy, %", baseline=base),
            )
        )
    return figures


def _at(rows: Rows, part: str, number: int) -> float:
    found = [row for row in rows if row["part"] == part and row["block"] == number]
    return _percent(found[0]) if found else float("nan")


def _sketches(sweep: SweepResult) -> list[tuple[str, Figure]]:
    rows = [row for row in sweep.rows if row["kind"] != "exact"]
    exact = [row for row in sweep.rows if row["kind"] == "exact"]
    names: dict[str, Rows] = {}
    for row in rows:
        rank = "" if row["rank"] is None else f", rank {row['rank']}"
        names.setdefault(f"{row['kind']}{rank}", []).append(row)
    errors = {
        name: [(float(row["width"] or 0), float(row["cosine_rmse"] or 0)) for row in own]
        for name, own in names.items()
    }
    shares = {
        name: [(float(row["width"] or 0), _percent(row)) for row in own]
        for name, own in names.items()
    }
    base = _percent(exact[0]) if exact else None
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


def _option(sweep: SweepResult) -> list[tuple[str, Figure]]:
    rows = [row for row in sweep.rows if row.get(sweep.kind) is not None]
    curves: dict[str, list[tuple[float, float]]] = {}
    for row in rows:
        point = (float(row[sweep.kind] or 0), _percent(row))
        curves.setdefault(str(row["features"]), []).append(point)
    base = [_percent(row) for row in sweep.rows if row.get(sweep.kind) is None]
    return [
        (
            f"Accuracy by {sweep.kind}; the dashed line is the embedding.",
            plots.value_curves(
                curves, x=sweep.kind, y="accuracy, %", baseline=base[0] if base else None
            ),
        )
    ]


def _percent(row: Mapping[str, Cell]) -> float:
    return 100 * float(row["accuracy"] or 0)
