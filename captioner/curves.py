"""Curves of training runs: what `metrics.jsonl` holds, as a figure. Nothing here shows it.

Training is drawn over steps, which every row has from the first on; scores are drawn over epochs, so that runs of
different length or batch size are compared after they have seen the photos equally often.
"""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from captioner.errors import CaptionerError
from captioner.training.run_log import whole_lines

Row = dict[str, Any]
Runs = Mapping[str, Sequence[Row]]
_METRICS = "metrics.jsonl"
_FORMATS = (".png", ".svg", ".pdf")
_TRAINING = {
    "train/cross_entropy": "Cross-entropy in training",
    "train/cider": "CIDEr-D of samples in training",
}
# Losses of different objectives cannot be compared, so the loss stands in only for a run that logs nothing better.
_LOSS = "train/loss"
_SCORES = {
    "dev/bleu4": "BLEU-4",
    "dev/cider": "CIDEr-D",
    "dev/meteor": "METEOR",
    "dev/rouge_l": "ROUGE-L",
    "dev/spice": "SPICE",
}
_MOST_OTHERS = 3  # scores drawn where no run has any of these
_REACH = 1 / 15  # of the moving average to each side, of the longest run's length
# Okabe and Ito's palette for every kind of colour vision, without its yellow, too faint on white; then dashes.
_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
_DASHES = ("-", "--", ":")
_INK, _GRID = "#333333", "#E6E6E6"


def read_runs(paths: Sequence[Path]) -> dict[str, list[Row]]:
    """Read the metrics of runs by name: that of the folder, with as much of its path as tells it from the others.

    Parameters
    ----------
    paths : sequence of Path
        As `read_metrics` takes them; a run that is there twice is read as one.
    """
    rows = [read_metrics(path) for path in paths]
    files = [_metrics_file(path).resolve() for path in paths]
    # A file by another name may lie beside more of its kind, so there its own name counts.
    return dict(zip(_names([file.parent if file.name == _METRICS else file for file in files]), rows, strict=True))


def read_metrics(path: Path) -> list[Row]:
    """Read the rows that a run, over or in progress, has written so far.

    Parameters
    ----------
    path : Path
        The run's folder, or its `metrics.jsonl`.

    Raises
    ------
    CaptionerError
        If there are no metrics, or they are not what a run writes.
    """
    file = _metrics_file(path)
    try:
        rows = [_row(line) for line in whole_lines(file)]
    except (FileNotFoundError, NotADirectoryError) as error:
        raise CaptionerError(f"{file}: no run there; name the folder of one, as train.py wrote it") from error
    except OSError as error:
        raise CaptionerError(f"{file}: cannot be read ({error.strerror})") from error
    except ValueError as error:
        raise CaptionerError(
            f"{file}: not the metrics of a run, a JSON object per line; name the folder of one"
        ) from error
    if not rows:
        raise CaptionerError(f"{file}: no metrics in it yet; wait for the first steps of the run")
    return rows


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
    training, scores = _training_titles(runs), _score_titles(runs)
    if not training and not scores:
        raise CaptionerError(
            f"{', '.join(runs)}: nothing to draw; rows need a step and train/cross_entropy, train/cider or "
            "train/loss, or an epoch and a score dev/..."
        )
    count = len(training) + len(scores)
    columns = min(count, 3)
    rows = math.ceil(count / columns)
    # Inches; the legends below the panels grow with the runs.
    size = (min(8 * columns, 12), rows * (4.4 + 0.22 * len(runs)))
    figure = Figure(figsize=size, dpi=150)
    figure.set_layout_engine("constrained", w_pad=0.12, h_pad=0.12)
    panels = figure.subplots(rows, columns, squeeze=False).flat
    for name, title in training.items():
        axes = next(panels)
        _prepare(axes, title, "step")
        _draw_training(axes, runs, name)
    for name, title in scores.items():
        axes = next(panels)
        _prepare(axes, title, "epoch")
        _draw_score(axes, runs, name)
    for axes in panels:
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
    try:
        figure.savefig(path, format=kind[1:])
    except OSError as error:
        raise CaptionerError(f"{path}: cannot be written ({error.strerror}); choose another --output") from error


def _metrics_file(path: Path) -> Path:
    return path / _METRICS if path.is_dir() else path


def _row(line: str) -> Row:
    row = json.loads(line)
    if not isinstance(row, dict):
        raise ValueError("no object")
    return row


def _names(folders: Sequence[Path]) -> list[str]:
    names = []
    for folder in folders:
        others = [other.parts for other in folders if other != folder]
        own = folder.parts
        depth = next(n for n in range(1, len(own) + 1) if all(own[-n:] != other[-n:] for other in others))
        names.append(str(Path(*own[-depth:])))
    return names


def _training_titles(runs: Runs) -> dict[str, str]:
    logged = [{key for row in rows for key in row} for rows in runs.values()]
    titles = {name: title for name, title in _TRAINING.items() if any(name in keys for keys in logged)}
    if any(_LOSS in keys and not keys & _TRAINING.keys() for keys in logged):
        titles[_LOSS] = "Loss in training"
    return titles


def _score_titles(runs: Runs) -> dict[str, str]:
    # In order of appearance, which a dict keeps and a set does not.
    found = dict.fromkeys(key for rows in runs.values() for row in rows for key in row if key.startswith("dev/"))
    headline = {name: f"{title} on dev" for name, title in _SCORES.items() if name in found}
    return headline or {name: f"{name.removeprefix('dev/')} on dev" for name in list(found)[:_MOST_OTHERS]}


def _series(rows: Sequence[Row], x: str, y: str) -> tuple[list[float], list[float]]:
    """Values of two keys in the rows that have both; what is no finite number cannot be drawn."""
    points = [
        (row[x], row[y]) for row in rows if x in row and isinstance(row.get(y), int | float) and math.isfinite(row[y])
    ]
    return [point[0] for point in points], [point[1] for point in points]


def _smooth(values: Sequence[float], half_width: int) -> np.ndarray:
    """Centred moving average under a Hann window, which ends where the values end."""
    window = np.hanning(2 * half_width + 3)[1:-1]
    sums, weights = (np.convolve(part, window)[half_width:][: len(values)] for part in (values, np.ones(len(values))))
    return sums / weights


def _draw_training(axes: Axes, runs: Runs, name: str) -> None:
    series = {run: _series(rows, "step", name) for run, rows in runs.items()}
    # One width for all, so that none looks calmer than the others.
    half_width = int(_REACH * max(len(values) for _, values in series.values()))
    lines = {}
    for (run, (steps, values)), style in zip(series.items(), _styles(), strict=False):
        if steps:
            axes.plot(steps, values, ".", color=style["color"], alpha=0.4, markersize=4, markeredgewidth=0, label=run)
            (lines[run],) = axes.plot(steps, _smooth(values, half_width), **style, label=run)
    _legend(axes, lines)


def _draw_score(axes: Axes, runs: Runs, name: str) -> None:
    lines = {}
    for (run, rows), style in zip(runs.items(), _styles(), strict=False):
        epochs, values = _series(rows, "epoch", name)
        if epochs:
            best = values.index(max(values))
            text = f"{run}: best {values[best]:.2f}, epoch {epochs[best]}"
            (lines[text],) = axes.plot(epochs, values, **style, marker="o", markersize=3, label=run)
            axes.plot(epochs[best], values[best], "o", color=style["color"], markersize=9, markeredgecolor="white")
    _legend(axes, lines)


def _styles() -> Iterator[dict[str, Any]]:
    """Line styles of the runs in turn: all colours, then all colours dashed, and so on."""
    return (
        {"color": colour, "linestyle": dashes}
        for dashes, colour in itertools.cycle(itertools.product(_DASHES, _COLOURS))
    )


def _prepare(axes: Axes, title: str, x: str) -> None:
    axes.set_title(title, loc="left", fontsize=12, fontweight="bold", color=_INK, pad=10)
    axes.set_xlabel(x, color=_INK)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.grid(color=_GRID, linewidth=0.8)
    axes.set_axisbelow(True)
    axes.spines[:].set_visible(False)
    axes.tick_params(length=0, labelcolor=_INK)


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
        labelcolor=_INK,
    )
    for text in legend.get_texts():
        text.set_parse_math(False)  # a folder's name may hold dollars
