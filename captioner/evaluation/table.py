"""Evaluations as text, side by side."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from captioner.evaluation.results import Evaluation
from captioner.metrics.score import CorpusScore, interval, probability_better

Scores = Mapping[str, CorpusScore]


def evaluation_table(evaluations: Sequence[Evaluation]) -> str:
    """Table with a row for every score and a column for every evaluation, of the same photos.

    Each value stands with half its 95 % bootstrap interval; from the second column on, with the probability that the
    score is higher than the first column's.
    """
    rows = _rows([(evaluation.system, evaluation.scores) for evaluation in evaluations])
    for name in dict.fromkeys(name for evaluation in evaluations for name in evaluation.style):
        found = (evaluation.style.get(name) for evaluation in evaluations)
        rows.append([name, *("-" if value is None else f"{value:.2f}" for value in found)])
    missing = {name: why for evaluation in evaluations for name, why in evaluation.not_computed.items()}
    return "\n".join([_layout(rows), *(f"{name}: not computed: {why}" for name, why in missing.items())])


def score_table(systems: Sequence[tuple[str, Scores]]) -> str:
    """Table of the scores of several systems, each with its name; the others are compared with the first."""
    return _layout(_rows(systems))


def _rows(systems: Sequence[tuple[str, Scores]]) -> list[list[str]]:
    (_, first), *_ = systems
    names = dict.fromkeys(name for _, scores in systems for name in scores)
    scores = [[name, *(_cell(scores.get(name), first.get(name)) for _, scores in systems)] for name in names]
    return [["", *(system for system, _ in systems)], *scores]


def _layout(rows: Sequence[Sequence[str]]) -> str:
    """Set cells in columns, the first to the left and the others to the right."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join(
        "  ".join([row[0].ljust(widths[0]), *map(str.rjust, row[1:], widths[1:])]).rstrip() for row in rows
    )


def _cell(score: CorpusScore | None, first: CorpusScore | None) -> str:
    if score is None or not math.isfinite(score.value):
        return "-"
    low, high = interval(score)
    text = f"{score.value:.2f} ± {(high - low) / 2:.2f}"
    if first is None or score is first or not math.isfinite(first.value):
        return text
    return f"{text} ({probability_better(first, score):4.0%})"
