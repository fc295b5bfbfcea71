from __future__ import annotations

import re
import xml.etree.ElementTree as ElementTree

import numpy as np
import pytest
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle, StepPatch

from captioner.evaluation.figures import (
    SERIES,
    Estimate,
    draw_confidence,
    draw_lengths,
    draw_scores,
    rank_correlation,
    to_svg,
)

ESTIMATES: dict[str, list[Estimate | None]] = {
    "BLEU-4": [(20.0, 18.0, 23.0), None],
    "CIDEr-D": [(60.0, 50.0, 70.0), (64.0, 55.0, 73.0)],
}


def test_rank_correlation_is_spearmans() -> None:
    x = np.array([1.0, 2, 2, 3, 5, 8])
    # With ranks 1, 2.5, 2.5, 4, 5, 6 and 2, 1, 3.5, 3.5, 6, 5: covariance 13.75 over sqrt(17 * 17).
    assert rank_correlation(x, np.array([2.0, 1, 3, 3, 9, 7])) == pytest.approx(13.75 / 17)
    assert rank_correlation(x, -np.exp(x)) == pytest.approx(-1)
    assert np.isnan(rank_correlation(x, np.ones(6)))


def test_bars_reach_their_scores_and_lines_their_intervals() -> None:
    [axes] = draw_scores(ESTIMATES).axes
    bars = [bar for bar in axes.patches if isinstance(bar, Rectangle)]
    lines = [np.array(line.get_xydata()) for line in axes.lines]
    assert [bar.get_width() for bar in bars] == [20, 60, 64]
    assert [line[:, 0].tolist() for line in lines] == [[18, 23], [50, 70], [55, 73]]
    # Each interval lies on its own bar, and no two bars on each other.
    assert [line[0, 1] for line in lines] == pytest.approx([bar.get_y() + bar.get_height() / 2 for bar in bars])
    assert bars[1].get_y() + bars[1].get_height() < bars[2].get_y()


def test_lengths_are_drawn_as_shares() -> None:
    [axes] = draw_lengths([2, 2, 4, 4], [[0, 3, 3, 3]]).axes
    references, captions = (stairs.get_data() for stairs in axes.patches if isinstance(stairs, StepPatch))
    assert references[0].tolist() == [0, 0, 0.5, 0, 0.5]
    assert captions[0].tolist() == [0.25, 0, 0, 0.75, 0]
    assert references[1].tolist() == [-0.5, 0.5, 1.5, 2.5, 3.5, 4.5]


@pytest.mark.parametrize(
    "figure",
    [
        draw_scores(ESTIMATES),
        draw_lengths([2, 3], [[2, 2], [3, 4]]),
        draw_confidence([(np.array([-1.0, -2.0]), np.array([3.0, 4.0]))], "CIDEr-D"),
    ],
)
def test_figures_take_their_ink_from_the_page(figure: Figure) -> None:
    first, second = to_svg(figure, "first"), to_svg(figure, "second")
    assert ElementTree.fromstring(first).tag.endswith("svg")
    assert "var(--ink)" in first
    assert "var(--grid)" in first
    colours = set(re.findall("#[0-9a-f]{6}", first)) - {colour.lower() for colour in SERIES}
    assert not colours
    ids = [set(re.findall(r'\bid="([^"]+)"', svg)) for svg in (first, second)]
    assert ids[0]
    assert ids[0].isdisjoint(ids[1])
    # What a figure refers to is in it.
    assert set(re.findall(r'(?:url\(#|href="#)([^")]+)', first)) <= ids[0]
