"""Figures for papers and reports, from plain numbers; nothing here touches matplotlib's state."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING

import numpy as np

from fungi_hf.errors import InputError, OptionalDependencyError, ShapeError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import numpy.typing as npt
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_MOST_BARS = 40


def cka_heat_map(names: Sequence[str], values: npt.ArrayLike) -> Figure:
    """Draw a matrix of similarities in [0, 1] with its numbers.

    Args:
        names: n block names.
        values: [n, n].

    Returns:
        A figure; `render` gives its file.

    Raises:
        ShapeError: If the matrix does not fit the names.
    """
    table = np.asarray(values, float)
    if table.shape != (len(names), len(names)) or not len(names):
        raise ShapeError(f"values have shape {table.shape} for {len(names)} names")
    figure, axes = _figure(1.2 + 0.8 * len(names), 0.8 + 0.8 * len(names))
    image = axes.imshow(table, vmin=0, vmax=1, cmap="viridis")
    axes.set_xticks(range(len(names)), names, rotation=35, ha="right")
    axes.set_yticks(range(len(names)), names)
    for row, column in np.ndindex(table.shape):
        shade = "black" if table[row, column] > 0.6 else "white"
        text = f"{table[row, column]:.2f}"
        axes.text(column, row, text, ha="center", va="center", color=shade, fontsize=9)
    figure.colorbar(image, ax=axes, label="linear CKA")
    return figure


def class_bars(changes: Mapping[str, float], *, title: str = "") -> Figure:
    """Draw the change of each class's recall, in points; the largest 40 by size.

    Args:
        changes: Class -> difference of shares.
        title: Above the bars.

    Returns:
        A figure.

    Raises:
        InputError: If there are no classes.
    """
    if not changes:
        raise InputError("changes are empty; at least one class is needed")
    kept = sorted(changes, key=lambda name: -abs(changes[name]))[:_MOST_BARS]
    kept.sort(key=lambda name: changes[name])
    points = [100 * changes[name] for name in kept]
    figure, axes = _figure(5.5, 1 + 0.2 * len(kept))
    colours = ["#1b7837" if value >= 0 else "#b2182b" for value in points]
    axes.barh(range(len(kept)), points, color=colours)
    axes.set_yticks(range(len(kept)), kept, fontsize=7)
    axes.axvline(0, color="black", linewidth=0.8)
    axes.set_xlabel("change of recall, points")
    left = len(changes) - len(kept)
    axes.set_title(title + (f" ({left} smaller changes not shown)" if left else ""), fontsize=9)
    return figure


def layer_curves(
    curves: Mapping[str, Sequence[float]], layers: Sequence[str | int], *, metric: str = "accuracy"
) -> Figure:
    """Draw one line a curve over the layers.

    Args:
        curves: Name -> one value a layer; NaN leaves a gap.
        layers: Their names, in order.
        metric: The axis' label.

    Returns:
        A figure.

    Raises:
        ShapeError: If a curve does not have one value a layer.
    """
    figure, axes = _figure(6, 3.6)
    for name, values in curves.items():
        if len(values) != len(layers):
            raise ShapeError(f"curve {name!r} has {len(values)} values for {len(layers)} layers")
        axes.plot(range(len(layers)), values, marker="o", markersize=3, label=name)
    axes.set_xticks(range(len(layers)), [str(layer) for layer in layers], rotation=35, ha="right")
    axes.set_xlabel("layer")
    axes.set_ylabel(metric)
    axes.grid(alpha=0.3)
    if curves:
        axes.legend(fontsize=8)
    return figure


def accuracy_against_cost(
    points: Mapping[str, tuple[float, float]], *, cost: str = "time, x plain forward"
) -> Figure:
    """Draw one named point a variant.

    Args:
        points: Name -> (cost, accuracy).
        cost: The axis' label.

    Returns:
        A figure.

    Raises:
        InputError: If there are no points.
    """
    if not points:
        raise InputError("points are empty; at least one variant is needed")
    figure, axes = _figure(6, 3.6)
    for name, (x, y) in points.items():
        axes.scatter([x], [y], s=24)
        axes.annotate(name, (x, y), xytext=(4, 4), textcoords="offset points", fontsize=8)
    axes.set_xlabel(cost)
    axes.set_ylabel("accuracy")
    axes.margins(0.15)
    axes.grid(alpha=0.3)
    return figure


def render(figure: Figure, kind: str = "svg") -> bytes:
    """Give a figure as the bytes of an SVG, PNG or PDF file; equal new figures give equal bytes."""
    import matplotlib as mpl

    target = io.BytesIO()
    metadata = {"svg": {"Date": None}, "pdf": {"CreationDate": None}}.get(kind)
    with mpl.rc_context({"svg.hashsalt": "fungi"}):
        figure.savefig(target, format=kind, metadata=metadata, dpi=150)
    return target.getvalue()


def _figure(width: float, height: float) -> tuple[Figure, Axes]:
    """Give a figure of its own, in inches, drawn by Agg.

    Raises:
        OptionalDependencyError: If matplotlib is missing.
    """
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ModuleNotFoundError:
        raise OptionalDependencyError("matplotlib", "evaluation") from None
    figure = Figure(figsize=(width, height), layout="tight")
    FigureCanvasAgg(figure)
    return figure, figure.subplots()
