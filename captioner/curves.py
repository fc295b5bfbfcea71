"""Curves of training runs as a figure. Nothing here shows it."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from captioner.errors import CaptionerError
from captioner.evaluation.figures import GRID, INK, SERIES
from captioner.files import replacing
from captioner.history import Curve, Runs, panels

_FORMATS = (".png", ".svg", ".pdf")
# The paper is white, so black is a colour, too; then dashes.
_COLOURS = (*SERIES, "#000000")
_DASHES = ("-", "--", ":")


def draw_curves(runs: Runs) -> Figure:
    """Draw a panel for every quantity that training follows and for every headline score, all runs in each.

    In training, dots are the values logged and the line is their centred moving average. Of scores, higher is
    better, and the best epoch is marked: the first of equals, as training chooses.

    Parameters
    ----------
    runs : mapping of str to sequence of dict
        Rows of every run by its name.

    Raises
    ------
    CaptionerError
        If no row holds anything to draw.
    """
    drawn = panels(runs)
    styles = dict(zip(runs, _styles(), strict=False))
    columns = min(len(drawn), 3)
    rows = math.ceil(len(drawn) / columns)
    # Inches; the legends below the panels grow with the runs.
    size = (min(8 * columns, 12), rows * (4.4 + 0.22 * len(runs)))
    figure = Figure(figsize=size, dpi=150)
    figure.set_layout_engine("constrained", w_pad=0.12, h_pad=0.12)
    places = figure.subplots(rows, columns, squeeze=False).flat
    for panel in drawn:
        axes = next(places)
        _prepare(axes, panel.title, panel.x)
        draw = _draw_training if panel.x == "step" else _draw_score
        _legend(axes, dict(draw(axes, run, curve, styles[run]) for run, curve in panel.curves.items()))
    for axes in places:
        axes.remove()
    return figure


def save_curves(figure: Figure, path: Path) -> None:
    """Write a figure as PNG, SVG or PDF, as the path's suffix says; a file that is there is replaced.

    Raises
    ------
    CaptionerError
        If the suffix is another one, or the file cannot be written.
    """
    kind = path.suffix.lower()
    if kind not in _FORMATS:
        raise CaptionerError(f"{path}: cannot be drawn; give it one of the suffixes {', '.join(_FORMATS)}")
    with replacing(path) as file:
        figure.savefig(file, format=kind[1:])


def _draw_training(axes: Axes, run: str, curve: Curve, style: dict[str, Any]) -> tuple[str, Line2D]:
    axes.plot(curve.x, curve.y, ".", color=style["color"], alpha=0.4, markersize=4, markeredgewidth=0, label=run)
    (line,) = axes.plot(curve.x, curve.average or curve.y, **style, label=run)
    return run, line


def _draw_score(axes: Axes, run: str, curve: Curve, style: dict[str, Any]) -> tuple[str, Line2D]:
    best, epoch = curve.y[curve.best], curve.x[curve.best]
    (line,) = axes.plot(curve.x, curve.y, **style, marker="o", markersize=3, label=run)
    axes.plot(epoch, best, "o", color=style["color"], markersize=9, markeredgecolor="white")
    return f"{run}: best {best:.2f}, epoch {epoch}", line


def _styles() -> Iterator[dict[str, Any]]:
    """Line styles of the runs in turn: all colours, then all colours dashed, and so on."""
    return (
        {"color": colour, "linestyle": dashes}
        for dashes, colour in itertools.cycle(itertools.product(_DASHES, _COLOURS))
    )


def _prepare(axes: Axes, title: str, x: str) -> None:
    axes.set_title(title, parse_math=False, loc="left", fontsize=12, fontweight="bold", color=INK, pad=10)
    axes.set_xlabel(x, color=INK)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.grid(color=GRID, linewidth=0.8)
    axes.set_axisbelow(True)
    axes.spines[:].set_visible(False)
    axes.tick_params(length=0, labelcolor=INK)


def _legend(axes: Axes, lines: Mapping[str, Line2D]) -> None:
    """List the lines below the panel, where they cover none of it."""
    legend = axes.legend(
        lines.values(),
        lines.keys(),
        loc="upper left",
        bbox_to_anchor=(0, -0.14),
        borderaxespad=0,
        borderpad=0,
        handlelength=2.2,
        frameon=False,
        labelcolor=INK,
    )
    for text in legend.get_texts():
        text.set_parse_math(False)  # a folder's name may hold dollars
