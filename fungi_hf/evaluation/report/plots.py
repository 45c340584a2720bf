"""Figures for papers and reports, from plain numbers; nothing here touches matplotlib's state."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING

import numpy as np

from fungi_hf.errors import InputError, OptionalDependencyError, ShapeError
from fungi_hf.evaluation.report.wording import literal

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    import numpy.typing as npt
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_MOST_BARS = 40
_UP, _DOWN, _GREY = "#1b7837", "#b2182b", "#7a8594"
# Okabe and Ito's palette, told apart by colour-blind readers as well.
_COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#000000")


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
    shown = [literal(name) for name in names]
    axes.set_xticks(range(len(names)), shown, rotation=35, ha="right")
    axes.set_yticks(range(len(names)), shown)
    for row, column in np.ndindex(table.shape):
        shade = "black" if table[row, column] > 0.6 else "white"
        text = f"{table[row, column]:.2f}"
        axes.text(column, row, text, ha="center", va="center", color=shade, fontsize=9)
    figure.colorbar(image, ax=axes, label="linear CKA", fraction=0.046, pad=0.04)
    return figure


def class_bars(changes: Mapping[str, float], *, title: str = "", most: int = _MOST_BARS) -> Figure:
    """Draw the change of each class's recall, in points; the largest by size.

    Args:
        changes: Class -> difference of shares.
        title: Above the bars.
        most: Bars to draw.

    Returns:
        A figure.

    Raises:
        InputError: If there are no classes.
    """
    if not changes:
        raise InputError("changes are empty; at least one class is needed")
    kept = sorted(changes, key=lambda name: -abs(changes[name]))[:most]
    kept.sort(key=lambda name: changes[name])
    points = [100 * changes[name] for name in kept]
    figure, axes = _figure(5.5, 1 + 0.2 * len(kept))
    colours = [_UP if value >= 0 else _DOWN for value in points]
    axes.barh(range(len(kept)), points, color=colours)
    axes.set_yticks(range(len(kept)), [literal(name) for name in kept], fontsize=7)
    axes.axvline(0, color="black", linewidth=0.8)
    axes.set_xlabel("change of recall, points")
    left = len(changes) - len(kept)
    more = f" ({left} smaller changes not shown)" if left else ""
    axes.set_title(literal(title) + more, fontsize=9)
    return figure


def difference_intervals(differences: Mapping[str, Mapping[str, float]]) -> Figure:
    """Draw differences to a baseline with their intervals, in points.

    Args:
        differences: Name -> `difference`, `low` and `high`, as shares.

    Returns:
        A figure.

    Raises:
        InputError: If there are none.
    """
    if not differences:
        raise InputError("differences are empty; at least one comparison is needed")
    figure, axes = _figure(6.4, 0.9 + 0.3 * len(differences))
    for place, one in enumerate(differences.values()):
        points = [100 * one[key] for key in ("low", "difference", "high")]
        settled = points[0] > 0 or points[2] < 0
        colour = _GREY if not settled else _UP if points[1] > 0 else _DOWN
        axes.plot([points[0], points[2]], [place, place], color=colour, linewidth=2)
        axes.plot([points[1]], [place], "o", color=colour, markersize=6)
    axes.axvline(0, color="black", linewidth=0.8)
    axes.set_yticks(range(len(differences)), [literal(name) for name in differences])
    axes.invert_yaxis()
    axes.set_xlabel("difference, points")
    axes.grid(axis="x", alpha=0.3)
    return figure


def layer_curves(
    curves: Mapping[str, Sequence[float]],
    layers: Sequence[str | int],
    *,
    metric: str = "accuracy",
    baseline: float | None = None,
) -> Figure:
    """Draw one line a curve over the layers.

    Args:
        curves: Name -> one value a layer; NaN leaves a gap.
        layers: Their names, in order.
        metric: The axis' label.
        baseline: Drawn as a dashed line.

    Returns:
        A figure.

    Raises:
        ShapeError: If a curve does not have one value a layer.
    """
    figure, axes = _figure(6.4, 3.8)
    for place, (name, values) in enumerate(curves.items()):
        if len(values) != len(layers):
            raise ShapeError(f"curve {name!r} has {len(values)} values for {len(layers)} layers")
        _curve(axes, range(len(layers)), values, place)
    longest = max((len(str(layer)) for layer in layers), default=0)
    axes.set_xticks(range(len(layers)), [literal(layer) for layer in layers])
    if longest > 4:
        axes.tick_params(axis="x", labelrotation=35)
    axes.set_xlabel("layer" if longest > 4 else "block")
    _decorate(axes, metric, baseline, curves)
    return figure


def value_curves(
    curves: Mapping[str, Sequence[tuple[float, float]]],
    *,
    x: str,
    y: str,
    baseline: float | None = None,
) -> Figure:
    """Draw one line a curve over the values of an option, on a logarithmic axis.

    Args:
        curves: Name -> (value above 0, height) points.
        x: The horizontal axis' label.
        y: The vertical axis' label.
        baseline: Drawn as a dashed line.

    Returns:
        A figure.

    Raises:
        InputError: If there are no points.
    """
    if not any(curves.values()):
        raise InputError("curves are empty; at least one point is needed")
    figure, axes = _figure(6.4, 3.8)
    for place, points in enumerate(curves.values()):
        ordered = sorted(points)
        _curve(axes, [a for a, _ in ordered], [b for _, b in ordered], place)
    values = sorted({a for points in curves.values() for a, _ in points})
    axes.set_xscale("log")
    axes.set_xticks(values, [f"{value:g}" for value in values])
    axes.minorticks_off()
    axes.set_xlabel(literal(x))
    _decorate(axes, y, baseline, curves)
    return figure


def accuracy_against_cost(
    points: Mapping[str, tuple[float, float]],
    *,
    cost: str = "time, x plain forward",
    metric: str = "accuracy",
) -> Figure:
    """Draw one named point a variant, and the line of those that no cheaper one beats.

    Args:
        points: Name -> (cost, accuracy).
        cost: The horizontal axis' label.
        metric: The vertical axis' label.

    Returns:
        A figure.

    Raises:
        InputError: If there are no points.
    """
    if not points:
        raise InputError("points are empty; at least one variant is needed")
    figure, axes = _figure(6.4, 3.8)
    front: list[tuple[float, float]] = []
    for x, y in sorted(points.values(), key=lambda point: (point[0], -point[1])):
        if not front or y > front[-1][1]:
            front.append((x, y))
    axes.plot(*zip(*front, strict=True), color=_GREY, linewidth=1, linestyle="--", zorder=1)
    for place, (name, (x, y)) in enumerate(points.items()):
        axes.scatter([x], [y], s=30, color=_colour(place), zorder=2)
        axes.annotate(literal(name), (x, y), xytext=(5, 4), textcoords="offset points", fontsize=8)
    axes.set_xlabel(literal(cost))
    axes.margins(0.18)
    _decorate(axes, metric, None, ())
    return figure


def _curve(axes: Axes, x: Sequence[float], y: Sequence[float], place: int) -> None:
    style = ("-", "--", ":")[place // len(_COLOURS) % 3]
    axes.plot(x, y, marker="o", markersize=3.5, color=_colour(place), linestyle=style)


def _decorate(axes: Axes, y: str, baseline: float | None, curves: Iterable[str]) -> None:
    lines = list(axes.lines)
    axes.set_ylabel(literal(y))
    axes.grid(alpha=0.3)
    if baseline is not None:
        axes.axhline(baseline, color="black", linestyle="--", linewidth=1)
    names = [literal(name) for name in curves]
    if not names:
        return
    numbers = [str(place) for place in range(len(names))]
    legend = axes.legend(
        lines, numbers, fontsize=7, loc="upper left", bbox_to_anchor=(1.01, 1), frameon=False
    )
    # Given at once, a name with an underscore in front would be left out.
    for text, name in zip(legend.get_texts(), names, strict=True):
        text.set_text(name)


def _colour(place: int) -> str:
    return _COLOURS[place % len(_COLOURS)]


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
    axes = figure.subplots()
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    return figure, axes
