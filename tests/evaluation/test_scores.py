from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pytest

from captioner.evaluation.deletion import Falls
from captioner.evaluation.localization import Pointed
from captioner.evaluation.scores import COMBINE, PERPLEXITY, fall_statistics, object_statistics
from captioner.metrics.score import CorpusScore


def combined(rows: Sequence[Mapping[str, Sequence[float]]]) -> dict[str, float]:
    return {
        name: CorpusScore(name, np.array([row[name] for row in rows], float), COMBINE[name]).value for name in rows[0]
    }


def test_objects_are_rated_over_all_words_of_all_photos() -> None:
    photos = [
        Pointed(words=1, absent=0, area=0.2, pointing=1, mass=0.8, pointing_uniform=0.5),
        Pointed(words=0, absent=1),
        Pointed(words=3, absent=0, area=0.6, pointing=1, mass=1.2, mass_centre=0.8, pointing_centre=2),
    ]
    found = combined([object_statistics(photo) for photo in photos])
    assert found == pytest.approx(
        {
            "objects: named ones that are there": 80,
            "objects: pointed at": 50,
            "objects: pointed at by a flat map": 12.5,
            "objects: pointed at by a central map": 50,
            "objects: attention on them": 50,
            "objects: their area": 20,
            "objects: attention over area": 2.5,
            "objects: attention over area of a central map": 1,
        }
    )


def test_without_a_named_object_nothing_is_known() -> None:
    assert np.isnan(list(combined([object_statistics(Pointed())]).values())).all()


def test_falls_are_means_over_words_and_not_over_photos() -> None:
    long, short = np.array([1.0, 2.0, 3.0]), np.array([6.0])
    rows = [fall_statistics(Falls(values, 0 * values, values / 2)) for values in (long, short)]
    assert list(combined(rows).values()) == pytest.approx([3, 0, 1.5])


def test_perplexity_is_that_of_all_tokens() -> None:
    score = CorpusScore(PERPLEXITY, np.array([[-2 * np.log(8), 2], [-np.log(64), 1]]), COMBINE[PERPLEXITY])
    assert score.value == pytest.approx(16)
    assert score.per_image == pytest.approx([8, 64])
