from __future__ import annotations

import io

import numpy as np
from PIL import Image

from captioner.visualization import filmstrip, heat_map, overlay, word_overlays


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
