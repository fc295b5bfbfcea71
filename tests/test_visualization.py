from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image

from captioner.visualization import cell_box, filmstrip, heat_map, overlay, word_overlays


def one_hot(row: int, column: int, size: int = 4) -> np.ndarray:
    weights = np.zeros((size, size), np.float32)
    weights[row, column] = 1
    return weights


def test_a_cell_lands_on_its_place_in_the_photo() -> None:
    heat = heat_map(one_hot(1, 3), (80, 40), (0, 0, 80, 40))
    assert heat.shape == (40, 80)
    y, x = np.unravel_index(heat.argmax(), heat.shape)
    # Row 1 of 4 covers 10..20 of 40 pixels, column 3 of 4 covers 60..80 of 80.
    assert 10 <= y < 20
    assert 60 <= x < 80
    assert heat[30:, :40].max() < 0.05


def test_nothing_is_drawn_outside_the_seen_region() -> None:
    heat = heat_map(np.full((4, 4), 1 / 16, np.float32), (100, 40), (30, 0, 70, 40))
    assert heat[:, :30].max() == heat[:, 70:].max() == 0
    assert heat[:, 30:70].min() > 0


def test_what_got_no_attention_is_dark_and_the_peak_is_lit() -> None:
    photo = Image.new("RGB", (64, 64), (100, 100, 100))
    picture = np.asarray(overlay(photo, one_hot(0, 0), (0, 0, 64, 64), peak=1.0), int)
    assert picture[-1, -1].tolist() == [25, 25, 25]
    # At the middle of the cell the photo is as bright as it was, with a warm glow.
    assert picture[8, 8].min() >= 85
    assert picture[8, 8, 0] > picture[8, 8, 2]


def test_flat_attention_looks_flat_beside_peaked() -> None:
    """All words share one scale; drawn each on its own, uniform attention would look as strong as a peak."""
    photo = Image.new("RGB", (64, 64), "white")
    flat = np.full((4, 4), 1 / 16, np.float32)
    weak, *strong = word_overlays(photo, np.stack([flat, one_hot(2, 2), one_hot(0, 1)]), (0, 0, 64, 64))
    assert np.asarray(weak).max() < 90
    assert all(np.asarray(picture).max() > 200 for picture in strong)


def test_overlays_keep_the_shape_of_the_photo() -> None:
    tall = Image.new("RGB", (300, 1200), "white")
    [picture] = word_overlays(tall, one_hot(0, 0)[None], (0, 0, 300, 1200))
    assert picture.size == (120, 480)
    y, _ = np.unravel_index(np.asarray(picture.convert("L"), int).argmax(), (480, 120))
    assert y < 120 + 60


def test_a_filmstrip_shows_every_word() -> None:
    words = ["a", "dog", "next", "to", "a", "dog"]
    figure = filmstrip(Image.new("RGB", (60, 40), "white"), words, np.stack([one_hot(0, 0)] * 6), (0, 0, 60, 40))
    assert [axes.get_title() for axes in figure.axes if axes.images][1:] == words
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png")
    assert Image.open(buffer).width > 400


def test_the_cell_that_was_seen_is_framed_where_it_lies() -> None:
    photo = Image.new("RGB", (120, 90), (100, 100, 100))
    region = (20.0, 10.0, 100.0, 90.0)  # of 4 x 4 cells, 20 pixels each
    assert cell_box((1, 3), (4, 4), region) == (80, 30, 100, 50)
    bare, framed = (
        np.asarray(overlay(photo, one_hot(1, 3), region, 1.0, location), int) for location in (None, (1, 3))
    )
    changed = np.argwhere((bare != framed).any(-1))
    assert changed.min(0).tolist() == [27, 77]
    assert changed.max(0).tolist() == [52, 102]
    # The frame goes round the cell and leaves what it shows alone.
    assert (bare[30:50, 80:100] == framed[30:50, 80:100]).all()
    assert framed[28, 90].tolist() == [255, 255, 255]


@pytest.mark.parametrize("cell", [(0, 0), (3, 3), (0, 3)])
def test_a_cell_at_the_edge_of_the_photo_is_framed_on_all_sides(cell: tuple[int, int]) -> None:
    picture = np.asarray(overlay(Image.new("RGB", (80, 80), "black"), one_hot(1, 1), (0, 0, 80, 80), 1.0, cell), int)
    row, column = 20 * cell[0] + 10, 20 * cell[1] + 10
    white = (picture == 255).all(-1)
    sides = (white[:row, column], white[row:, column], white[row, :column], white[row, column:])
    assert all(side.sum() == 2 for side in sides)


def test_a_filmstrip_frames_a_cell_for_every_word() -> None:
    photo, region = Image.new("RGB", (80, 80), (100, 100, 100)), (0, 0, 80, 80)
    maps = np.stack([one_hot(0, 0), one_hot(2, 2)])

    def pictures(locations: list[tuple[int, int]] | None) -> list[np.ndarray]:
        figure = filmstrip(photo, ["a", "dog"], maps, region, locations)
        return [np.asarray(axes.images[0].get_array()) for axes in figure.axes[:3]]

    same = [np.array_equal(*pair) for pair in zip(pictures(None), pictures([(0, 1), (2, 2)]), strict=True)]
    assert same == [True, False, False]
