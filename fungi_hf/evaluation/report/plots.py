"""Figures for papers and reports, from plain numbers; nothing here touches matplotlib's state.

Every function gives a new figure, and `render` its file. Names are drawn letter by letter.
"""

from __future__ import annotations

import io
import re
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

from fungi_hf.errors import InputError, ShapeError
from fungi_hf.evaluation.protocols import need

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import numpy.typing as npt
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    Curves: TypeAlias = Mapping[str, Sequence[tuple[float, float]]]

_UP, _DOWN, _GREY = "#1b7837", "#b2182b", "#7a8594"
# Okabe and Ito's palette, told apart by colour-blind readers as well.
_COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#000000")
_STYLES = ("-", "--", ":")
# All figures are as wide and have one type size, so that a page scales them alike.
_WIDTH, _POINTS = 5.2, 9
_NUMBERED = 10  # blocks whose similarities have room for numbers
# What XML and UTF-8 cannot hold, and what would move the line: controls, halves of pairs, and two
# code points that are no characters.
_HIDDEN = re.compile("[\x00-\x1f\x7f-\x9f\ud800-\udfff\ufffe\uffff]")


def cka_heat_map(names: Sequence[str], values: npt.ArrayLike) -> Figure:
    """Draw similarities [n, n] in [0, 1] of n blocks, with their numbers.

    More than 10 blocks have colours alone, and stand by number below.

    Raises:
        ShapeError: If the matrix does not fit the names.
    """
    table = np.asarray(values, float)
    if table.shape != (len(names), len(names)) or not len(names):
        raise ShapeError(f"values have shape {table.shape} for {len(names)} names")
    n, shown = len(names), [literal(name) for name in names]
    numbered = n <= _NUMBERED
    figure, axes = _figure(min(_WIDTH, 1.2 + 0.55 * n) if numbered else 0.8 + 0.18 * n)
    aspect: Any = "equal" if numbered else "auto"
    image = axes.imshow(table, vmin=0, vmax=1, cmap="viridis", aspect=aspect)
    if numbered:
        axes.set_xticks(range(n), shown, rotation=35, ha="right")
        for (row, column), one in np.ndenumerate(table):
            shade = "black" if one > 0.6 else "white"
            words = f"{one:.2f}".removeprefix("0")
            axes.text(column, row, words, ha="center", va="center", color=shade)
    else:  # names that are slanted and this near hide each other
        shown = [f"{name}  {place}" for place, name in enumerate(shown, start=1)]
        places = range(0, n, -(-n // 16))
        axes.set_xticks(places, [str(place + 1) for place in places])
    axes.set_yticks(range(n), shown)
    figure.colorbar(image, ax=axes, label="linear CKA", fraction=0.046, pad=0.04)
    return figure


def class_bars(changes: Mapping[str, float], *, most: int = 40, metric: str = "recall") -> Figure:
    """Draw the change of each class's recall (a share) in points; `most` of them, by size."""
    _check_any(changes, "changes")
    kept = sorted(changes, key=lambda name: -abs(changes[name]))[:most]
    kept.sort(key=lambda name: changes[name])
    points = [100 * changes[name] for name in kept]
    figure, axes = _figure(1 + 0.2 * len(kept))
    axes.barh(range(len(kept)), points, color=[_UP if one >= 0 else _DOWN for one in points])
    axes.set_yticks(range(len(kept)), [literal(name) for name in kept])
    axes.axvline(0, color="black", linewidth=0.8)
    axes.set_xlabel(f"change of {metric}, points")
    left = len(changes) - len(kept)
    axes.set_title(f"({left} smaller changes not shown)" if left else "")
    return figure


def difference_intervals(differences: Mapping[str, Mapping[str, float]]) -> Figure:
    """Draw differences to a baseline with their intervals: name -> `difference`, `low`, `high`."""
    _check_any(differences, "differences")
    figure, axes = _figure(0.9 + 0.3 * len(differences))
    for place, one in enumerate(differences.values()):
        low, middle, high = (100 * one[key] for key in ("low", "difference", "high"))
        colour = _GREY if low <= 0 <= high else _UP if middle > 0 else _DOWN
        axes.plot([low, high], [place, place], color=colour, linewidth=2)
        axes.plot([middle], [place], "o", color=colour, markersize=6)
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
    """Draw one line a curve (one value a layer, NaN leaves a gap), and the baseline dashed.

    Raises:
        ShapeError: If a curve does not have one value a layer.
    """
    for name, values in curves.items():
        if len(values) != len(layers):
            raise ShapeError(f"curve {name!r} has {len(values)} values for {len(layers)} layers")
    points = {name: list(enumerate(values)) for name, values in curves.items()}
    figure, axes = _lines(points, metric, baseline)
    axes.set_xticks(range(len(layers)), [literal(layer) for layer in layers])
    named = max((len(str(layer)) for layer in layers), default=0) > 4
    axes.tick_params(axis="x", labelrotation=35 if named else 0)
    axes.set_xlabel("layer" if named else "block")
    return figure


def value_curves(curves: Curves, *, x: str, y: str, baseline: float | None = None) -> Figure:
    """Draw one line a curve of (value above 0, height) points, on a logarithmic axis labelled x.

    The height is labelled y; the baseline is a height, drawn as a dashed line.
    """
    values = sorted({value for points in curves.values() for value, _ in points})
    _check_any(values, "curves")
    figure, axes = _lines({name: sorted(points) for name, points in curves.items()}, y, baseline)
    axes.set(xscale="log", xlabel=literal(x))
    axes.set_xticks(values, [f"{value:g}" for value in values])
    axes.minorticks_off()
    return figure


def accuracy_against_cost(
    points: Mapping[str, tuple[float, float]], *, metric: str = "accuracy"
) -> Figure:
    """Draw one named point a variant, and the line of those that no cheaper one beats.

    Points are (time over that of a plain forward pass, accuracy), the latter labelled `metric`.
    """
    _check_any(points, "points")
    figure, axes = _figure(3.8)
    front: list[tuple[float, float]] = []
    for x, y in sorted(points.values(), key=lambda point: (point[0], -point[1])):
        if not front or y > front[-1][1]:
            front.append((x, y))
    axes.plot(*zip(*front, strict=True), color=_GREY, linewidth=1, linestyle="--", zorder=1)
    for place, (name, (x, y)) in enumerate(points.items()):
        axes.scatter([x], [y], s=30, color=_COLOURS[place % len(_COLOURS)], zorder=2)
        axes.annotate(literal(name), (x, y), xytext=(5, 4), textcoords="offset points")
    axes.set(xlabel="time, x plain forward", ylabel=literal(metric))
    axes.grid(alpha=0.3)
    axes.margins(0.18)
    return figure


def render(figure: Figure, kind: str = "svg") -> bytes:
    """Give a figure as the bytes of an SVG, PNG or PDF file; equal new figures give equal bytes."""
    from matplotlib.text import Text

    for text in figure.findobj(Text):
        text.set_fontsize(_POINTS)
    target = io.BytesIO()
    metadata = {"svg": {"Date": None}, "pdf": {"CreationDate": None}}.get(kind)
    with need("matplotlib").rc_context({"svg.hashsalt": "fungi"}):
        figure.savefig(target, format=kind, metadata=metadata, dpi=150)
    return target.getvalue()


def visible(name: object, *, kept: str = "") -> str:
    r"""Give a name with its control characters, but those kept, written out, such as \x01."""

    def shown(found: re.Match[str]) -> str:
        return found[0] if found[0] in kept else found[0].encode("unicode_escape").decode("ascii")

    return _HIDDEN.sub(shown, str(name))


def literal(name: object) -> str:
    """Give a name as matplotlib draws it letter by letter: no formulas, no control characters."""
    return visible(name).replace("$", r"\$")


def _lines(curves: Curves, y: str, baseline: float | None) -> tuple[Figure, Axes]:
    figure, axes = _figure(3.8)
    lines = []
    for place, points in enumerate(curves.values()):
        turn, colour = divmod(place, len(_COLOURS))
        style = f"{_STYLES[turn % len(_STYLES)]}o"
        x_values, y_values = np.reshape(points, (-1, 2)).T
        lines += axes.plot(x_values, y_values, style, markersize=3.5, color=_COLOURS[colour])
    axes.set_ylabel(literal(y))
    axes.grid(alpha=0.3)
    if baseline is not None:
        axes.axhline(baseline, color="black", linestyle="--", linewidth=1)
    if lines:
        numbers = [str(place) for place in range(len(lines))]
        legend = axes.legend(
            lines, numbers, loc="upper left", bbox_to_anchor=(1.01, 1), frameon=False
        )
        # Given at once, a name with an underscore in front would be left out.
        for text, name in zip(legend.get_texts(), curves, strict=True):
            text.set_text(literal(name))
    return figure, axes


def _check_any(values: Any, name: str) -> None:
    if not values:
        raise InputError(f"{name} are empty; a figure needs at least one")


def _figure(height: float) -> tuple[Figure, Axes]:
    """Give a figure of its own, of a height in inches, drawn by Agg."""
    figure = need("matplotlib.figure").Figure(figsize=(_WIDTH, height), layout="tight")
    need("matplotlib.backends.backend_agg").FigureCanvasAgg(figure)
    axes = figure.subplots()
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    return figure, axes
