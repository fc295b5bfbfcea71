"""Histories of training runs: what `metrics.jsonl` holds, and what of it there is to draw. Nothing here draws it.

Training is drawn over steps, which every row has from the first on; scores are drawn over epochs, so that runs of
different length or batch size are compared after they have seen the photos equally often.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from captioner.description import DEV_SCORES
from captioner.errors import CaptionerError
from captioner.paths import is_folder
from captioner.training.run_log import METRICS as METRICS
from captioner.training.run_log import Row as Row
from captioner.training.run_log import read_rows

Runs = Mapping[str, Sequence[Row]]
_TRAINING = {
    "train/cross_entropy": "Cross-entropy in training",
    "train/cider": "CIDEr-D of samples in training",
}
_HEADLINES = {f"dev/{name}": DEV_SCORES[name] for name in ("bleu4", "cider")}
_REACH = 1 / 15  # of the moving average to each side, of the longest run's length


@dataclass(frozen=True)
class Curve:
    """One run in one panel.

    Attributes
    ----------
    x, y : list of float
        What was logged; never empty.
    average : list of float, optional
        Centred moving average of `y`, for what training follows; scores have none.
    """

    x: list[float]
    y: list[float]
    average: list[float] | None = None

    @property
    def best(self) -> int:
        """Where `y` is highest: the first of equals, as training chooses."""
        return self.y.index(max(self.y))


@dataclass(frozen=True)
class Panel:
    """One quantity, of all runs that have it.

    Attributes
    ----------
    title : str
    x : {"step", "epoch"}
        Training is followed over steps, scores over epochs.
    curves : dict of str to Curve
        By the runs' names.
    """

    title: str
    x: Literal["step", "epoch"]
    curves: dict[str, Curve]


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
    return dict(zip(_names([file.parent if file.name == METRICS else file for file in files]), rows, strict=True))


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
        rows = [row for _, row in read_rows(file)]
    except (FileNotFoundError, NotADirectoryError) as error:
        raise CaptionerError(f"{file}: no run there; name the folder of one, as train.py wrote it") from error
    except OSError as error:
        raise CaptionerError(f"{file}: cannot be read ({error.strerror})") from error
    if not rows:
        raise CaptionerError(f"{file}: no metrics in it yet; wait for the first steps of the run")
    return rows


def panels(runs: Runs) -> list[Panel]:
    """Choose what to draw: a panel for every quantity that training follows and for every headline score.

    Parameters
    ----------
    runs : mapping of str to sequence of dict
        Rows of every run by its name.

    Raises
    ------
    CaptionerError
        If no row holds anything to draw.
    """
    training = [Panel(title, "step", _training_curves(runs, key)) for key, title in _training_titles(runs).items()]
    scores = [Panel(title, "epoch", _curves(runs, "epoch", key)) for key, title in _score_titles(runs).items()]
    found = [panel for panel in training + scores if panel.curves]
    if not found:
        raise CaptionerError(
            f"{', '.join(runs)}: nothing to draw; rows need a step and train/cross_entropy or train/cider, or "
            "an epoch and dev/bleu4 or dev/cider"
        )
    return found


def _metrics_file(path: Path) -> Path:
    return path / METRICS if is_folder(path) else path


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
    return {name: title for name, title in _TRAINING.items() if any(name in keys for keys in logged)}


def _score_titles(runs: Runs) -> dict[str, str]:
    found = {key for rows in runs.values() for row in rows for key in row}
    return {name: f"{title} on dev" for name, title in _HEADLINES.items() if name in found}


def _curves(runs: Runs, x: str, y: str) -> dict[str, Curve]:
    """Values of two keys in the rows that have both; what is no finite number cannot be drawn."""
    points = {
        run: [(row[x], row[y]) for row in rows if _is_finite(row.get(x)) and _is_finite(row.get(y))]
        for run, rows in runs.items()
    }
    return {run: Curve([x for x, _ in own], [y for _, y in own]) for run, own in points.items() if own}


def _is_finite(value: object) -> bool:
    # The bound is that of whole numbers beyond any float, and of floats whose sums are no numbers.
    return isinstance(value, int | float) and abs(value) < 1e300


def _training_curves(runs: Runs, key: str) -> dict[str, Curve]:
    curves = _curves(runs, "step", key)
    # One width for all, so that none looks calmer than the others.
    half_width = int(_REACH * max((len(curve.y) for curve in curves.values()), default=0))
    return {run: Curve(curve.x, curve.y, _smooth(curve.y, half_width)) for run, curve in curves.items()}


def _smooth(values: Sequence[float], half_width: int) -> list[float]:
    """Centred moving average under a Hann window, which ends where the values end."""
    window = np.hanning(2 * half_width + 3)[1:-1]
    sums, weights = (np.convolve(part, window)[half_width:][: len(values)] for part in (values, np.ones(len(values))))
    return [float(value) for value in sums / weights]
