"""Figures of a report: scores, lengths and confidence, as SVG that takes its ink from the page around it.

Nothing here names the systems: they stand in the page's own legend, in the order of `SERIES`.
"""

from __future__ import annotations

import io
import itertools
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, PercentFormatter
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Estimate = tuple[float, float, float]
# Okabe and Ito's palette for every kind of colour vision, those of it that show on white and on black.
SERIES = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
INK, GRID, _FILL = "#333333", "#E6E6E6", "#C8C8C8"
_WIDTH, _HEIGHT = 4.4, 3.4  # inches: shown about as large, so that letters keep their size
_NO_METADATA = dict.fromkeys(("Creator", "Date", "Format", "Type"))


def draw_scores(estimates: Mapping[str, Sequence[Estimate | None]]) -> Figure:
    """Draw a bar for every score of every system, with its interval.

    Parameters
    ----------
    estimates : mapping of str to sequence of (value, low, high)
        By score: one per system, None where it was not computed.
    """
    systems = len(next(iter(estimates.values())))
    figure, axes = _figure(max(_HEIGHT, 0.7 + len(estimates) * (0.17 + 0.13 * systems)))
    height = 0.72 / systems
    for row, values in enumerate(estimates.values()):
        for place, (estimate, colour) in enumerate(zip(values, colours(), strict=False)):
            if estimate is None:
                continue
            value, low, high = estimate
            y = row + (place - (systems - 1) / 2) * height
            axes.barh(y, value, 0.82 * height, color=colour)
            axes.plot((low, high), (y, y), color=INK, linewidth=1.4, solid_capstyle="butt")
    axes.set_yticks(range(len(estimates)), estimates)
    axes.set_ylim(len(estimates) - 0.5, -0.5)
    axes.grid(axis="y", visible=False)
    return figure


def draw_lengths(references: Sequence[int], captions: Sequence[Sequence[int]]) -> Figure:
    """Draw how many captions are how long, the references' filled and each system's as a line.

    Parameters
    ----------
    references : sequence of int
        Words in each of the references.
    captions : sequence of sequence of int
        By system: words in each of its captions.
    """
    figure, axes = _figure(_HEIGHT)
    edges = np.arange(max(map(max, (references, *captions))) + 2) - 0.5
    axes.stairs(_shares(references, edges), edges, fill=True, color=_FILL)
    for lengths, colour in zip(captions, colours(), strict=False):
        axes.stairs(_shares(lengths, edges), edges, color=colour, linewidth=1.8)
    axes.set_xlabel("words")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.yaxis.set_major_formatter(PercentFormatter(1, decimals=0, symbol=" %"))
    axes.grid(axis="x", visible=False)
    return figure


def draw_confidence(points: Sequence[tuple[Floats, Floats]], score: str) -> Figure:
    """Draw a point for every photo and system: its score over the log-probability per word.

    Parameters
    ----------
    points : sequence of (ndarray, ndarray)
        By system: log-probabilities and scores.
    score : str
        Name of the score.
    """
    figure, axes = _figure(_HEIGHT)
    for (log_probs, scores), colour in zip(points, colours(), strict=False):
        # As pixels: a large split has more points than a page should have elements.
        axes.scatter(log_probs, scores, s=20, color=colour, alpha=0.75, linewidths=0, rasterized=True)
    axes.set_xlabel("log-probability per word")
    axes.set_ylabel(score)
    return figure


def rank_correlation(x: Floats, y: Floats) -> float:
    """Spearman's rank correlation, equal values sharing their mean rank; NaN where all are equal."""
    if np.ptp(x) == 0 or np.ptp(y) == 0:
        return float("nan")
    return float(np.corrcoef(_ranks(x), _ranks(y))[0, 1])


def colours() -> Iterator[str]:
    """Colours of the systems in turn."""
    return itertools.cycle(SERIES)


def to_svg(figure: Figure, name: str) -> str:
    """Turn a figure into an SVG element for a page.

    Parameters
    ----------
    name : str
        Different from that of the page's other figures: their ids start with it.
    """
    buffer = io.StringIO()
    with rc_context({"svg.fonttype": "none", "svg.hashsalt": name}):
        figure.savefig(buffer, format="svg", dpi=200, transparent=True, metadata=_NO_METADATA)
    svg = buffer.getvalue()
    svg = re.sub(r'(\bid="|url\(#|href="#)', rf"\1{name}-", svg[svg.index("<svg") :])
    for colour, variable in ((INK, "ink"), (GRID, "grid"), (_FILL, "fill")):
        svg = svg.replace(colour.lower(), f"var(--{variable})")
    return svg


def _figure(height: float) -> tuple[Figure, Axes]:
    figure = Figure(figsize=(_WIDTH, height), layout="constrained")
    axes = figure.subplots()
    axes.grid(color=GRID, linewidth=0.8)
    axes.set_axisbelow(True)
    axes.spines[:].set_visible(False)
    axes.tick_params(length=0, colors=INK)
    for label in (axes.xaxis.label, axes.yaxis.label):
        label.set_color(INK)
    return figure, axes


def _ranks(values: Floats) -> Floats:
    _, group, counts = np.unique(values, return_inverse=True, return_counts=True)
    ranks: Floats = (np.cumsum(counts) - (counts - 1) / 2)[group]
    return ranks


def _shares(lengths: Sequence[int], edges: NDArray[Any]) -> Floats:
    shares: Floats = np.histogram(lengths, edges)[0] / len(lengths)
    return shares
