from __future__ import annotations

import io
import itertools
from pathlib import Path

import numpy as np
import pytest
from matplotlib.collections import QuadMesh
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from PIL import Image, ImageSequence

from captioner.regions import Region
from captioner.visualization import (
    animation,
    attention_matrix,
    cell_box,
    filmstrip,
    heat_map,
    overlay,
    sum_by_piece,
    word_overlays,
)

RACCOON = Path(__file__).parent.parent / "examples" / "raccoon.jpg"
LONG = "donaudampfschifffahrtsgesellschaftskapitän"


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


def test_a_long_word_is_written_smaller_over_its_picture() -> None:
    figure = filmstrip(Image.new("RGB", (60, 40)), ["a", LONG], np.stack([one_hot(0, 0)] * 2), (0, 0, 60, 40))
    _, short, long = (axes.title for axes in figure.axes)
    assert short.get_fontsize() == 13
    _saved(figure)
    assert long.get_window_extent().width < figure.bbox.width / 3


@pytest.mark.parametrize("size", [(1, 1), (1, 3000), (20, 2000), (20, 60_000), (3000, 2)])
def test_photos_of_any_shape_can_be_drawn(size: tuple[int, int]) -> None:
    photo, maps, words = Image.new("RGB", size, "red"), np.stack([one_hot(0, 0), one_hot(3, 3)]), ["a", "dog"]
    side, (width, height) = min(size), size
    left, top = (width - side) // 2, (height - side) // 2
    for region in ((0, 0, width, height), (left, top, left + side, top + side)):
        gif = animation(photo, words, maps, region, [(0, 0), (3, 3)])
        assert len(frames(gif)) == 2
        _saved(attention_matrix(photo, words, maps, region))


def random_maps(words: int, rows: int, columns: int) -> np.ndarray:
    weights = np.random.default_rng(rows).random((words, rows, columns)) ** 4
    maps: np.ndarray = (weights / weights.sum((1, 2), keepdims=True)).astype(np.float32)
    return maps


@pytest.mark.parametrize("grid", [(12, 12), (7, 7), (14, 10), (3, 3), (1, 1), (2, 9)])
def test_a_piece_has_the_weight_of_the_cells_that_lie_in_it(grid: tuple[int, int]) -> None:
    maps, region = random_maps(3, *grid), (30.0, 10.0, 333.0, 211.0)
    sums, boxes = sum_by_piece(maps, region)
    assert len(boxes) == min(4, grid[0]) * min(4, grid[1])
    assert [(top, left) for left, top, _, _ in boxes] == sorted((top, left) for left, top, _, _ in boxes)
    expected = np.zeros((3, len(boxes)))
    for cell in np.ndindex(grid):
        left, top, right, bottom = cell_box((cell[0], cell[1]), grid, region)
        x, y = (left + right) / 2, (top + bottom) / 2
        [piece] = [n for n, (x0, y0, x1, y1) in enumerate(boxes) if x0 < x < x1 and y0 < y < y1]
        expected[:, piece] += maps[:, cell[0], cell[1]]
    np.testing.assert_allclose(sums, expected)
    np.testing.assert_allclose(sums.sum(1), 1, atol=1e-6)
    assert boxes[0][:2] == region[:2]
    assert boxes[-1][2:] == region[2:]


def _saved(figure: Figure) -> Image.Image:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png")
    return Image.open(buffer)


def test_the_matrix_shows_the_sums_and_writes_the_large_ones() -> None:
    maps, region = random_maps(5, 7, 12), (0, 0, 80, 60)
    figure = attention_matrix(Image.new("RGB", (80, 60)), ["a", "dog", "and", "a", "cat"], maps, region)
    [axes] = figure.axes
    meshes = [mesh for mesh in axes.collections if isinstance(mesh, QuadMesh)]
    sums, _ = sum_by_piece(maps, region)
    np.testing.assert_allclose(np.hstack([np.asarray(mesh.get_array()) for mesh in meshes]), sums)
    assert len({mesh.get_clim() for mesh in meshes}) == 1
    written = sorted(text.get_text() for text in axes.texts if "%" in text.get_text())
    assert written == sorted(f"{share:.0%}" for share in sums.flat if share >= 0.1)
    assert 5 < len(written) < sums.size
    labels = [text.get_text() for text in axes.texts if "%" not in text.get_text()]
    assert labels == ["a", "dog", "and", "a (2)", "cat"]
    assert abs(_saved(figure).width - 1100) <= 1


def test_a_column_is_headed_by_its_piece_of_the_photo() -> None:
    """The grid covers a part of the photo, a colour per quadrant; around it is grey, which must not show."""
    colours = ["red", "lime", "blue", "yellow"]
    photo, region = Image.new("RGB", (140, 90), "grey"), (20, 10, 120, 70)
    for colour, corner in zip(colours, itertools.product((10, 40), (20, 70)), strict=True):
        photo.paste(colour, (corner[1], corner[0], corner[1] + 50, corner[0] + 30))
    # Words look at the quadrants in another order than they lie in.
    maps = np.stack([one_hot(*cell, size=2) for cell in ((1, 0), (0, 0), (1, 1), (0, 1))])
    figure = attention_matrix(photo, ["blue", "red", "yellow", "lime"], maps, region)
    [axes] = figure.axes
    heads = {}
    for head, colour in zip(axes.images, colours, strict=True):
        pixels = np.asarray(head.get_array(), int)
        # At the edges, a smooth enlargement of few pixels mixes in what lies beyond.
        y, x = (side // 6 for side in pixels.shape[:2])
        assert np.abs(pixels[y:-y, x:-x] - 255 * np.array(to_rgb(colour))).max() <= 5
        heads[colour] = head.get_extent()
    assert [heads[colour][0] for colour in colours] == sorted(extent[0] for extent in heads.values())
    rows = {text.get_position()[1]: text.get_text() for text in axes.texts if "%" not in text.get_text()}
    shares = [text for text in axes.texts if "%" in text.get_text()]
    assert [text.get_text() for text in shares] == ["100%"] * 4
    for text in shares:
        x, y = text.get_position()
        left, right, *_ = heads[rows[y]]
        assert left < x < right


def _contrast(one: np.ndarray, other: np.ndarray) -> float:
    """As WCAG 2 defines it."""
    linear = [np.where(c <= 0.04045, c / 12.92, ((c + 0.055) / 1.055) ** 2.4) for c in (one, other)]
    low, high = sorted(float(c @ (0.2126, 0.7152, 0.0722)) for c in linear)
    return (high + 0.05) / (low + 0.05)


def test_percentages_can_be_read_on_every_shade() -> None:
    """A caption of every share from 10 to 100 %; the darker cell is the larger share."""
    maps = np.zeros((91, 1, 2), np.float32)
    maps[:, 0, 0] = np.linspace(0.1, 1, 91)
    figure = attention_matrix(Image.new("RGB", (80, 60)), ["a"] * 91, maps, (0, 0, 80, 60))
    _saved(figure)
    [axes] = figure.axes
    shades = axes.collections[0].get_facecolor().reshape(91, 2, 4)[:, 0, :3]  # type: ignore[union-attr]
    assert (np.diff(shades.sum(1)) <= 0).all()
    inks = [np.array(to_rgb(text.get_color())) for text in axes.texts if "%" in text.get_text()]
    assert min(_contrast(ink, shade) for ink, shade in zip(inks, shades, strict=True)) >= 4.5


def test_even_attention_looks_even_and_not_strong() -> None:
    photo, region = Image.new("RGB", (80, 60)), (0, 0, 80, 60)
    even = np.full((1, 4, 4), 1 / 16, np.float32)
    for maps, low, high in ((even, 0.4, 0.6), (one_hot(1, 1)[None], 1.0, 1.0)):
        mesh = attention_matrix(photo, ["a"], maps, region).axes[0].collections[1]
        assert low <= np.max(mesh.norm(np.asarray(mesh.get_array()))) <= high


def test_no_word_of_the_matrix_is_cut_off() -> None:
    words = ["a", LONG * 2, "$x$"]
    figure = attention_matrix(Image.new("RGB", (80, 60)), words, random_maps(3, 12, 12), (0, 0, 80, 60))
    _saved(figure)
    [axes] = figure.axes
    cells = axes.collections[0].get_window_extent().x0
    for text in axes.texts:
        box = text.get_window_extent()
        assert box.x0 > 0
        assert box.x1 < figure.bbox.width
        if "%" not in text.get_text():
            assert box.x1 < cells


def frames(gif: bytes) -> list[np.ndarray]:
    return [np.asarray(frame.convert("RGB"), int) for frame in ImageSequence.Iterator(Image.open(io.BytesIO(gif)))]


def marked(frame: np.ndarray) -> tuple[int, int, int, int]:
    """Top, left, bottom and right of what is yellow."""
    places = np.argwhere((frame[..., 0] > 200) & (frame[..., 1] > 160) & (frame[..., 2] < 130))
    return (*places.min(0).tolist(), *places.max(0).tolist())


def test_an_animation_has_a_frame_per_word_and_repeats() -> None:
    words = ["a", "dog", "and", "a", "dog"]
    maps = np.stack([one_hot(0, 0)] * 5)
    gif = Image.open(io.BytesIO(animation(Image.new("RGB", (640, 320), "white"), words, maps, (0, 0, 640, 320))))
    assert gif.format == "GIF"
    assert gif.info["loop"] == 0
    shown = [(frame.size, frame.info["duration"]) for frame in ImageSequence.Iterator(gif)]
    size = shown[0][0]
    assert size[0] == 480
    assert shown == [(size, 600)] * 4 + [(size, 1500)]


def test_an_animation_shows_the_overlay_of_every_word_and_stays_small() -> None:
    photo = Image.open(RACCOON)
    maps, region = random_maps(12, 5, 5), (0, 0, 800, 600)
    locations = [divmod(n, 5) for n in range(12)]
    gif = animation(photo, [f"word{n}" for n in range(12)], maps, region, locations)
    assert len(gif) < 1_500_000
    overlays = [np.asarray(picture, int) for picture in word_overlays(photo, maps, region, locations)]
    for word, frame in enumerate(frames(gif)):
        differences = [np.abs(frame[:360] - picture).mean() for picture in overlays]
        assert differences[word] < 4
        assert min(differences[:word] + differences[word + 1 :]) > 2 * differences[word]


def test_the_marked_word_moves_through_a_caption_that_stays_where_it_is() -> None:
    words = [*("a", "small", "dog", "and", "a", "man", "is", "skateboarding"), *("to", "a", "very", "long", "fence")]
    maps = np.stack([one_hot(1, 1)] * len(words))
    shown = frames(animation(Image.new("RGB", (480, 100)), words, maps, (0, 0, 480, 100)))
    boxes = [marked(frame) for frame in shown]
    assert len(shown) == len(words)
    lines = sorted({bottom for _, _, bottom, _ in boxes})
    assert len(lines) > 1
    for (_, _, above, before), (_, left, bottom, right) in itertools.pairwise(boxes):
        # On the same line it goes to the right; a new line begins in the left half.
        assert left > before if bottom == above else bottom > above and left < 240
        assert right > left
    for (one, here), (other, there) in itertools.pairwise(zip(shown, boxes, strict=True)):
        changed = np.abs(one - other).max(-1) > 40
        for top, left, bottom, right in (here, there):
            changed[top - 2 : bottom + 3, left - 2 : right + 3] = False
        assert not changed.any()


@pytest.mark.parametrize(("size", "words"), [((40, 400), "a very small photo has a long caption"), ((300, 200), LONG)])
def test_no_word_of_the_animation_is_cut_off(size: tuple[int, int], words: str) -> None:
    region: Region = (0, 0, *size)
    maps = np.stack([one_hot(0, 0)] * len(words.split()))
    for frame in frames(animation(Image.new("RGB", size), words.split(), maps, region)):
        ink = np.argwhere(frame[size[1] :].max(-1) > 60)
        height, width = frame.shape[0] - size[1], frame.shape[1]
        assert ink.min() >= 8
        assert (ink.max(0) < (height - 8, width - 8)).all()


def test_clitics_stay_with_their_word() -> None:
    """With a space, the gap would be at least 7 pixels."""
    maps = np.stack([one_hot(0, 0)] * 3)
    man, clitic, dog = (
        marked(frame)
        for frame in frames(animation(Image.new("RGB", (400, 90)), ["man", "'s", "dog"], maps, (0, 0, 400, 90)))
    )
    assert clitic[1] - man[3] < 4
    assert dog[1] - clitic[3] >= 5
    for letters in range(5):
        words = ["mmmmmmm" + "i" * letters, "'s"] * 4
        gif = animation(Image.new("RGB", (400, 90)), words, np.stack([one_hot(0, 0)] * 8), (0, 0, 400, 90))
        boxes = [marked(frame) for frame in frames(gif)]
        assert all(word[2] == clitic[2] for word, clitic in zip(boxes[::2], boxes[1::2], strict=True))
