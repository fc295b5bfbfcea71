"""What is measured besides the captions' words: names, and how totals over photos become scores."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from captioner.evaluation.deletion import Falls
from captioner.evaluation.localization import Pointed
from captioner.metrics.score import Combine, Floats, ratio
from captioner.metrics.scoring import COMBINE as CAPTION_SCORES

PERPLEXITY = "perplexity of the references"
ENTROPY = "attention: entropy, bits"
MOVEMENT = "attention: moved between words"
_FALLS = {
    name: f"deletion: fall without {what} cells"
    for name, what in zip(Falls._fields, ("attended", "random", "central"), strict=True)
}
# Each the ratio of two sums of `Pointed`.
_OBJECTS = {
    "objects: named ones that are there": ("words", "named"),
    "objects: pointed at": ("pointing", "words"),
    "objects: pointed at by a flat map": ("pointing_uniform", "words"),
    "objects: pointed at by a central map": ("pointing_centre", "words"),
    "objects: attention on them": ("mass", "words"),
    "objects: their area": ("area", "words"),
    "objects: attention over area": ("mass", "area"),
    "objects: attention over area of a central map": ("mass_centre", "area"),
}


def combine_perplexity(totals: Floats) -> Floats:
    """Exp of minus the mean log-probability, from the sum of log-probabilities and the number of tokens (..., 2)."""
    perplexity: Floats = np.exp(-ratio(totals))
    return perplexity


def percent(totals: Floats) -> Floats:
    """Share that one total (..., 2) is of another."""
    return 100 * ratio(totals)


COMBINE: dict[str, Combine] = {
    **CAPTION_SCORES,
    PERPLEXITY: combine_perplexity,
    **dict.fromkeys((ENTROPY, *_FALLS.values()), ratio),
    MOVEMENT: percent,
    **{name: ratio if whole == "area" else percent for name, (_, whole) in _OBJECTS.items()},
}


def fall_statistics(falls: Falls) -> dict[str, Sequence[float]]:
    """Of a photo, sums over its words and their number, by name of the score."""
    return {name: (float(getattr(falls, part).sum()), len(falls.attended)) for part, name in _FALLS.items()}


def object_statistics(pointed: Pointed) -> dict[str, Sequence[float]]:
    """Of a photo, the two sums that a score is the ratio of, by its name."""
    sums = {**pointed._asdict(), "named": pointed.words + pointed.absent}
    return {name: (sums[part], sums[whole]) for name, (part, whole) in _OBJECTS.items()}
