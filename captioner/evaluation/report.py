"""An evaluation as one HTML page: its scores, what lies behind them, and photos with where the model looked.

The page needs no other file, no script and no network, so it can be kept or sent as it is.
"""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup
from matplotlib.figure import Figure
from PIL import Image

from captioner.config import DecodingOptions
from captioner.errors import CaptionerError
from captioner.evaluation.figures import (
    Estimate,
    Floats,
    colours,
    draw_confidence,
    draw_lengths,
    draw_scores,
    rank_correlation,
    to_svg,
)
from captioner.evaluation.results import Evaluation, PhotoResult
from captioner.files import replacing
from captioner.images import load_image
from captioner.metrics.score import interval, probability_better
from captioner.metrics.scoring import COMBINE as CAPTION_SCORES
from captioner.pipeline import Caption, Captioner
from captioner.visualization import word_overlays
from captioner.vocabulary import tokenize

_RANK = "CIDEr-D"  # what makes a caption one of the best
_SHOWN = 8  # photos in each of the three groups
_PHOTO_SIDE, _WORD_SIDE = 560, 208  # pixels, about twice what a wide screen shows
_QUALITIES, _MOST_BYTES = (80, 60, 40, 20), 60_000  # of a picture: the first of the JPEG qualities that fits


@dataclass(frozen=True)
class _Cell:
    """A score of a system, and how probably it is higher than the first system's."""

    value: float
    low: float
    high: float
    higher: float | None


@dataclass(frozen=True)
class _Word:
    text: str
    probability: float
    picture: str


@dataclass(frozen=True)
class _Other:
    """What another system says about the same photo."""

    system: str
    colour: str
    caption: str
    score: float


@dataclass(frozen=True)
class _Shown:
    """A photo of the page; `again` is its caption now, whose words are shown."""

    photo: PhotoResult
    picture: str
    scores: dict[str, float]
    others: list[_Other]
    again: str
    words: list[_Word]


def write_report(
    file: Path,
    evaluations: Sequence[Evaluation],
    paths: Sequence[Path],
    captioner: Captioner,
    options: DecodingOptions,
) -> None:
    """Write a page about one system, and how others compare with it.

    Parameters
    ----------
    file : Path
        To be written.
    evaluations : sequence of Evaluation
        One or more, of the same photos; photos are chosen by the scores of the first.
    paths : sequence of Path
        Where the photos of the evaluations lie, in their order.
    captioner : Captioner
        That of the first evaluation: photos are captioned again, since results hold no attention.
    options : DecodingOptions
        Those of the first evaluation.

    Raises
    ------
    CaptionerError
        If photos and evaluations do not go together, or the file cannot be written.
    ImageReadError
        If a photo to be shown cannot be read.
    """
    _check(evaluations, paths)
    first = evaluations[0]
    groups = _choose(first.scores[_RANK].per_image)
    chosen = [row for rows in groups.values() for row in rows]
    captions = list(captioner.caption_many((paths[row] for row in chosen), options))
    shown = {
        row: _show(evaluations, row, load_image(paths[row]), caption)
        for row, caption in zip(chosen, captions, strict=True)
    }
    table = _table(evaluations)
    points = [_confidence(evaluation) for evaluation in evaluations]
    figures = {
        "scores": draw_scores(
            {name: [_estimate(cell) for cell in cells] for name, cells in table.items() if name in CAPTION_SCORES}
        ),
        "lengths": _draw_lengths(evaluations),
        "confidence": draw_confidence(points, _RANK),
    }
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    page = environment.get_template("report.html.j2").render(
        evaluations=evaluations,
        colours=[colour for colour, _ in zip(colours(), evaluations, strict=False)],
        rank=_RANK,
        table=table,
        not_computed=_rows([evaluation.not_computed for evaluation in evaluations]),
        style=_rows([evaluation.style for evaluation in evaluations]),
        settings=_rows([evaluation.settings for evaluation in evaluations]),
        figures={name: Markup(to_svg(figure, name)) for name, figure in figures.items()},
        correlations=[rank_correlation(*pair) for pair in points],
        framed=any(caption.locations for caption in captions),
        groups={name: [shown[row] for row in rows] for name, rows in groups.items() if rows},
    )
    with replacing(file) as output:
        output.write(page.encode(errors="backslashreplace"))  # names of files that are no UTF-8


def _check(evaluations: Sequence[Evaluation], paths: Sequence[Path]) -> None:
    first = evaluations[0]
    names = [photo.name for photo in first.photos]
    for evaluation in evaluations:
        if _RANK not in evaluation.scores:
            raise CaptionerError(f"{evaluation.system}: no {_RANK} among its scores; a report needs it")
        if [photo.name for photo in evaluation.photos] != names:
            raise CaptionerError(
                f"{evaluation.system}: evaluated on other photos than {first.system}; evaluate both on one split"
            )
    if len(paths) != len(names):
        raise CaptionerError(f"{first.system}: evaluated on {len(names)} photos, {len(paths)} are given; give the same")


def _choose(scores: Floats) -> dict[str, list[int]]:
    """Rows of the photos to show, none of them twice."""
    best_first = np.argsort(-scores, kind="stable").tolist()
    half = len(best_first) // 2
    best, worst = best_first[: len(best_first) - half][:_SHOWN], best_first[len(best_first) - half :][::-1][:_SHOWN]
    others = best_first[len(best) : len(best_first) - len(worst)]
    drawn = np.random.default_rng(0).permutation(len(others))[:_SHOWN]
    return {"best": best, "worst": worst, "random": [others[place] for place in drawn]}


def _table(evaluations: Sequence[Evaluation]) -> dict[str, list[_Cell | None]]:
    first = evaluations[0]
    table: dict[str, list[_Cell | None]] = {}
    for column, evaluation in enumerate(evaluations):
        for name, score in evaluation.scores.items():
            row = table.setdefault(name, [None] * len(evaluations))
            if not np.isfinite(score.value):
                continue  # a mean of nothing, such as of words that name an object where none does
            paired = column > 0 and name in first.scores and np.isfinite(first.scores[name].value)
            higher = probability_better(first.scores[name], score) if paired else None
            row[column] = _Cell(score.value, *interval(score), higher)
    return table


def _estimate(cell: _Cell | None) -> Estimate | None:
    return (cell.value, cell.low, cell.high) if cell else None


def _rows(columns: Sequence[Mapping[str, Any]]) -> dict[str, list[Any]]:
    """Values of every key that a column has, one per column."""
    keys = dict.fromkeys(key for column in columns for key in column)
    return {key: [column.get(key) for column in columns] for key in keys}


def _draw_lengths(evaluations: Sequence[Evaluation]) -> Figure:
    references = [len(tokenize(caption)) for photo in evaluations[0].photos for caption in photo.references]
    captions = [[len(tokenize(photo.caption)) for photo in evaluation.photos] for evaluation in evaluations]
    return draw_lengths(references, captions)


def _confidence(evaluation: Evaluation) -> tuple[Floats, Floats]:
    """Log-probability per word, the end of the caption counting as one, and score of every photo."""
    log_probs = [photo.log_prob / (len(tokenize(photo.caption)) + 1) for photo in evaluation.photos]
    return np.array(log_probs), evaluation.scores[_RANK].per_image


def _show(evaluations: Sequence[Evaluation], row: int, image: Image.Image, caption: Caption) -> _Shown:
    first = evaluations[0]
    others = [
        _Other(other.system, colour, other.photos[row].caption, float(other.scores[_RANK].per_image[row]))
        for other, colour in list(zip(evaluations, colours(), strict=False))[1:]
    ]
    small = image.copy()
    small.thumbnail((_PHOTO_SIDE, _PHOTO_SIDE), Image.Resampling.LANCZOS)
    overlays = (
        word_overlays(image, caption.attention, caption.region, caption.locations, _WORD_SIDE) if caption.words else []
    )
    words = [
        _Word(word, probability, _data_url(picture))
        for word, probability, picture in zip(caption.words, caption.word_probs, overlays, strict=True)
    ]
    return _Shown(first.photos[row], _data_url(small), _scores(first, row), others, caption.text, words)


def _scores(evaluation: Evaluation, row: int) -> dict[str, float]:
    """Scores of the caption of one photo, without those that say nothing about one alone."""
    scores = {name: score for name, score in evaluation.scores.items() if name in CAPTION_SCORES}
    values = {name: float(score.per_image[row]) for name, score in scores.items()}
    return {name: value for name, value in values.items() if np.isfinite(value)}


def _data_url(image: Image.Image) -> str:
    for quality in _QUALITIES:
        buffer = io.BytesIO()
        image.save(buffer, "JPEG", quality=quality, optimize=True)
        if buffer.tell() <= _MOST_BYTES:
            break
    return "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode()
