"""Training runs: which there are, how they stand, what they scored, and their curves as interactive charts."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from captioner.checkpoint_files import BUNDLED, read_config
from captioner.description import DEV_SCORES
from captioner.errors import CheckpointError
from captioner.files import in_use
from captioner.history import METRICS, Curve, Panel, Row, panels, read_metrics

if TYPE_CHECKING:
    import altair as alt

# Okabe and Ito's palette for every kind of colour vision, moved to tones that show on light and on dark.
COLOURS = ("#2584C6", "#D55E00", "#0F9D76", "#C76BA0", "#B8860B", "#8C7AE6")
_DEPTH = 3  # folders between the one the app was given and a run's file
_MOST_POINTS = 500  # drawn of a curve that follows training


@dataclass(frozen=True)
class Run:
    """A training run.

    Attributes
    ----------
    name : str
        Where it is in the folder of runs.
    metrics : Path
        What it wrote down.
    written : float, optional
        When it last did, seconds since 1970; a bundled run has none.
    in_progress : bool
        Whether its process was still at it when this was found out.
    """

    name: str
    metrics: Path
    written: float | None = None
    in_progress: bool = False


def own_runs(folder: Path) -> list[Run]:
    """Find the runs in a folder, the newest first."""
    # A run that is there by two names is listed by the shorter one.
    depths = [folder.glob("*/" * depth + METRICS) for depth in range(_DEPTH, -1, -1)]
    files = {file.resolve(): file for found in depths for file in found if file.is_file()}
    runs = []
    for file in files.values():
        with contextlib.suppress(FileNotFoundError):  # deleted meanwhile
            runs.append(Run(_name(file.parent, folder), file, file.stat().st_mtime, in_use(file.parent)))
    return sorted(runs, key=lambda run: run.written or 0, reverse=True)


def _name(run: Path, folder: Path) -> str:
    name = str(run.relative_to(folder)) if run != folder else folder.resolve().name
    return name.encode("utf-8", "replace").decode()  # a name may hold bytes that are no text


def bundled_runs() -> list[Run]:
    """Find the histories of the bundled models, that of the default one first."""
    files = sorted(BUNDLED.parent.glob(f"*/{METRICS}"), key=lambda file: (file.parent != BUNDLED, file))
    return [Run(f"bundled: {file.parent.name}", file) for file in files]


def read(run: Run) -> list[Row]:
    """Read what a run has written.

    Raises
    ------
    CaptionerError
        If there is nothing to draw in it, or it is not what a run writes.
    """
    rows = read_metrics(run.metrics)
    panels({run.name: rows})
    return rows


def summary(run: Run, rows: Sequence[Row]) -> dict[str, Any]:
    """Say how a run stands, and what its best epoch scored: a row of the table."""
    steps = [row["step"] for row in rows if isinstance(row.get("step"), int)]
    epoch = _best_epoch(run, rows)
    scored = next((row for row in rows if epoch is not None and row.get("epoch") == epoch), {})
    scores = {
        DEV_SCORES.get(name := key.removeprefix("dev/"), name): value
        for key, value in scored.items()
        if key.startswith("dev/") and isinstance(value, int | float)
    }
    return {
        "Run": run.name,
        "Last written": _written(run),
        "Steps": max(steps, default=None),
        "Best epoch": epoch,
        **scores,
    }


def _written(run: Run) -> str:
    if run.written is None:
        return "bundled"
    return "in progress" if run.in_progress else time.strftime("%Y-%m-%d %H:%M", time.localtime(run.written))


def _best_epoch(run: Run, rows: Sequence[Row]) -> float | None:
    """Epoch that training kept as the best; where that is not known, the best by the first score."""
    curves = [panel.curves[run.name] for panel in panels({run.name: rows}) if panel.x == "epoch"]
    if not curves:
        return None
    if run.written is None:
        return curves[0].x[-1]  # where a bundled history ends
    try:
        kept = read_config(run.metrics.parent / "best")["notes"]["epoch"]
    except (CheckpointError, LookupError, TypeError):
        kept = None
    return kept if kept in curves[0].x else curves[0].x[curves[0].best]


def chart(panel: Panel, names: Sequence[str]) -> alt.LayerChart | alt.FacetChart:
    """Draw a panel; every run has one colour in all of them, by its place among the names.

    Dots are the values logged and the line is their moving average; of scores, the best is marked.
    """
    import altair as alt

    # Whole: altair takes half of it where another visitor's thread is importing it.
    import pandas  # type: ignore[import-untyped]  # noqa: F401

    present = [name for name in names if name in panel.curves]
    colours = alt.Scale(domain=present, range=[COLOURS[names.index(name)] for name in present])
    legend = alt.Legend(
        title=None, orient="bottom", direction="vertical", symbolType="stroke", symbolOpacity=1, labelLimit=280
    )
    points = [point for name in present for point in _points(name, panel.curves[name])]
    base = alt.Chart({"values": points}).encode(
        x=alt.X(
            "x:Q",
            title=panel.x,
            scale=alt.Scale(zero=False, nice=False, padding=16),
            axis=alt.Axis(format=",d", tickMinStep=1, grid=False),
        ),
        color=alt.Color("run:N", scale=colours, legend=legend if len(names) > 1 else None),
    )
    scale = alt.Scale(zero=False, padding=14)
    axis = alt.Axis(minExtent=32)  # Vega cuts labels that come with a new tick
    y, line = (alt.Y(f"{name}:Q", title=None, scale=scale, axis=axis) for name in ("y", "line"))
    if panel.x == "step":
        layers = [
            base.mark_circle(size=14, opacity=0.4).encode(y=y),
            base.mark_line(strokeWidth=2.5).encode(y=line),
        ]
    else:
        best = base.transform_filter("datum.best")
        layers = [
            base.mark_line(strokeWidth=2.5, point=alt.OverlayMarkDef(size=30)).encode(y=y),
            best.mark_circle(size=110, opacity=1).encode(y=y),
            best.mark_text(dy=-13, fontWeight="bold").encode(y=y, text=alt.Text("y:Q", format=".2f")),
        ]
    # Whatever is nearest to the pointer tells its values.
    near = alt.selection_point(on="pointermove", clear="pointerout", nearest=True, empty=False)
    tooltip = [
        alt.Tooltip("run:N", title="run"),
        alt.Tooltip("x:Q", title=panel.x, format=",d"),
        alt.Tooltip("y:Q", title="value", format=".3f"),
        *([alt.Tooltip("line:Q", title="average", format=".3f")] if panel.x == "step" else []),
    ]
    pointed = base.mark_circle(size=90).encode(
        y=line, tooltip=tooltip, opacity=alt.condition(near, alt.value(1), alt.value(0))
    )
    height = 300 + 24 * len(present)  # the legend's lines are within it
    return alt.layer(*layers, pointed.add_params(near), height=height)


def _points(name: str, curve: Curve) -> list[dict[str, Any]]:
    line = curve.average or curve.y
    stride = -(-len(curve.y) // _MOST_POINTS) if curve.average else 1  # scores are few, and none is left out
    return [
        {"run": name, "x": curve.x[n], "y": curve.y[n], "line": line[n], "best": n == curve.best}
        for n in range(0, len(curve.y), stride)
    ]
