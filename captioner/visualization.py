"""Pictures of attention. Functions return images and figures and never show them.

Shapes: T words, grid rows x columns, N pieces of the photo.
"""

from __future__ import annotations

import io
from collections import Counter
from collections.abc import Sequence
from itertools import pairwise

import numpy as np
from matplotlib import colormaps
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties, findfont
from PIL import Image, ImageDraw, ImageFont

from captioner.regions import Region, scaled
from captioner.vocabulary import detokenize

Locations = Sequence[tuple[int, int]]
_DARK = 0.25  # brightness left where nothing was looked at
_GLOW, _GLOW_SHARE = (255, 214, 60), 0.25
_INK = "#333333"
_SIDE = 480  # pixels, of a photo drawn several times
_PIECES = 4  # a matrix of attention has of each side of the photo
# Inches: the matrix is 1100 pixels wide at 150 to the inch.
_WIDTH, _NARROWEST, _ROW, _HEAD, _SLIVER, _GAP = 7.33, 0.34, 0.27, 1.1, 0.12, 0.08
_TITLE, _LABEL, _PERCENT = 13, 11, 8  # points
# Pixels of the animation.
_LETTERS, _LINE, _MARGIN, _CANVAS = 22, 34, 18, 320
_PAPER, _OTHERS = (20, 20, 20), (150, 150, 150)
_EACH, _LAST = 600, 1500  # milliseconds a word is shown


def heat_map(attention: np.ndarray, size: tuple[int, int], region: Region) -> np.ndarray:
    """Spread a grid of weights over the photo it was computed on.

    Parameters
    ----------
    attention : ndarray
        (rows, columns), the weights of one word.
    size : tuple of int
        Width and height of the photo, pixels.
    region : tuple of 4 floats
        Left, top, right, bottom of the part the grid covers, pixels; outside it the map is 0.

    Returns
    -------
    ndarray
        (height, width) float32, smooth, in the units of `attention`.
    """
    width, height = size
    left, top, right, bottom = (round(edge) for edge in region)
    # The middle of a very long photo may be less than a pixel.
    right, bottom = max(right, left + 1), max(bottom, top + 1)
    cells = Image.fromarray(attention.astype(np.float32), mode="F")
    inside = np.asarray(cells.resize((right - left, bottom - top), Image.Resampling.BICUBIC))
    heat = np.zeros((height, width), np.float32)
    heat[top:bottom, left:right] = inside.clip(0)  # cubic kernels overshoot below zero
    return heat


def overlay(
    image: Image.Image,
    attention: np.ndarray,
    region: Region,
    peak: float,
    location: tuple[int, int] | None = None,
) -> Image.Image:
    """Light the photo where the model looked for one word, and leave the rest in the dark.

    Parameters
    ----------
    image : PIL.Image.Image
        The upright photo, at any size.
    attention : ndarray
        (rows, columns).
    region : tuple of 4 floats
        The part of the photo the grid covers, pixels of `image`.
    peak : float
        Weight that is lit fully; see `shared_peak`.
    location : tuple of (row, column), optional
        The one cell that hard attention looked at; it is framed.
    """
    strength = (heat_map(attention, image.size, region) / peak).clip(0, 1)[..., None]
    lit = np.asarray(image, np.float32) * (_DARK + (1 - _DARK) * strength)
    # The glow shows on black and white photos, and where the photo itself is dark.
    glow = _GLOW_SHARE * strength
    drawn = Image.fromarray(((1 - glow) * lit + glow * np.array(_GLOW, np.float32)).round().astype(np.uint8))
    if location is not None:
        _frame(drawn, cell_box(location, (attention.shape[0], attention.shape[1]), region))
    return drawn


def cell_box(location: tuple[int, int], grid: tuple[int, int], region: Region) -> Region:
    """Left, top, right and bottom, pixels, of a cell (row, column) of a grid (rows, columns) laid over a region."""
    left, top, right, bottom = region
    width, height = (right - left) / grid[1], (bottom - top) / grid[0]
    row, column = location
    return left + column * width, top + row * height, left + (column + 1) * width, top + (row + 1) * height


def _frame(image: Image.Image, box: Region) -> None:
    """Draw a white frame with a dark edge, so that it shows on any photo that is wide enough for it."""
    width = max(2, round(max(image.size) / 160))
    left, top, right, bottom = (round(edge) for edge in box)
    # Round the cell, but never outside the photo.
    left, top = max(left - width - 1, 0), max(top - width - 1, 0)
    right, bottom = min(right + width, image.width - 1), min(bottom + width, image.height - 1)
    if min(right - left, bottom - top) < 2:
        return
    draw = ImageDraw.Draw(image)
    draw.rectangle((left, top, right, bottom), outline="black", width=1)
    draw.rectangle((left + 1, top + 1, right - 1, bottom - 1), outline="white", width=width)


def shared_peak(attention: np.ndarray) -> float:
    """Weight to light fully in all maps (T, rows, columns) of a caption: the median of their peaks.

    One scale for all words keeps flat attention looking flat, which a scale per word would not; the
    median keeps one very sharp word from blanking out the others.
    """
    return float(np.median(attention.max(axis=(1, 2))))


def word_overlays(
    image: Image.Image,
    attention: np.ndarray,
    region: Region,
    locations: Locations | None = None,
    longest_side: int = _SIDE,
) -> list[Image.Image]:
    """Draw one overlay per word on a photo shrunk to `longest_side` pixels, all on one scale.

    Parameters
    ----------
    attention : ndarray
        (T, rows, columns).
    region : tuple of 4 floats
        Pixels of `image` as given.
    locations : sequence of (row, column), optional
        The one cell each word was looked for at.
    """
    scale = min(1.0, longest_side / max(image.size))
    width, height = (max(1, round(side * scale)) for side in image.size)
    small = image.resize((width, height), Image.Resampling.LANCZOS)
    peak = shared_peak(attention)
    small_region = scaled(region, width / image.width, height / image.height)
    cells: Sequence[tuple[int, int] | None] = locations or [None] * len(attention)
    return [overlay(small, weights, small_region, peak, cell) for weights, cell in zip(attention, cells, strict=True)]


def filmstrip(
    image: Image.Image,
    words: Sequence[str],
    attention: np.ndarray,
    region: Region,
    locations: Locations | None = None,
) -> Figure:
    """Draw the photo and then its overlay for every word, in reading order (as figure 3 of the paper).

    Parameters
    ----------
    words : sequence of str
        T of them.
    attention : ndarray
        (T, rows, columns).
    region : tuple of 4 floats
        Pixels of `image`.
    locations : sequence of (row, column), optional
        The one cell each word was looked for at.
    """
    # Matplotlib takes 44 bytes for each pixel that it is given.
    small = image.copy()
    small.thumbnail((_SIDE, _SIDE), Image.Resampling.LANCZOS)
    pictures = [small, *word_overlays(image, attention, region, locations)]
    columns = min(len(pictures), 5)
    rows = -(-len(pictures) // columns)
    ratio = min(max(image.height / image.width, 0.4), 2.5)
    figure = Figure(figsize=(columns * 2.4, rows * (2.4 * ratio + 0.4)), layout="constrained")
    for cell in figure.subplots(rows, columns, squeeze=False).flat:
        cell.axis("off")
    font = _font(_TITLE)
    for cell, picture, title in zip(figure.axes, pictures, ["", *words], strict=False):
        cell.imshow(picture)
        # A very long word is written smaller, not over its neighbours.
        size = _TITLE * min(1, 2 * 72 / max(1, font.getlength(title)))
        cell.set_title(title, fontsize=size, parse_math=False)
    return figure


def sum_by_piece(attention: np.ndarray, region: Region) -> tuple[np.ndarray, list[Region]]:
    """Sum maps over pieces of the photo, each some whole cells of the grid: 4 x 4, or as many as a side has cells.

    Parameters
    ----------
    attention : ndarray
        (T, rows, columns).
    region : tuple of 4 floats
        The part of the photo the grid covers, pixels.

    Returns
    -------
    sums : ndarray
        (T, N) float64, pieces in reading order.
    boxes : list of tuples of 4 floats
        Left, top, right and bottom of every piece, pixels.
    """
    _, rows, columns = attention.shape
    down, across = _cuts(rows), _cuts(columns)
    bands = np.add.reduceat(attention.astype(np.float64), down[:-1], axis=1)
    sums = np.add.reduceat(bands, across[:-1], axis=2).reshape(len(attention), -1)
    left, top, right, bottom = region
    y, x = np.linspace(top, bottom, rows + 1)[down].tolist(), np.linspace(left, right, columns + 1)[across].tolist()
    return sums, [(x0, y0, x1, y1) for y0, y1 in pairwise(y) for x0, x1 in pairwise(x)]


def _cuts(cells: int) -> np.ndarray:
    """Where a side of so many cells is cut, both ends included; not in equal parts if they do not divide it."""
    pieces = min(_PIECES, cells)
    return np.arange(pieces + 1) * cells // pieces


def attention_matrix(image: Image.Image, words: Sequence[str], attention: np.ndarray, region: Region) -> Figure:
    """Draw words x pieces of the photo, as matrices of alignment in machine translation are drawn.

    A column is headed by its piece, a row by its word; the darker a cell, the more of the word's attention the
    piece got. Columns that stand together are side by side in the photo.

    Parameters
    ----------
    image : PIL.Image.Image
        The upright photo.
    words : sequence of str
        T of them.
    attention : ndarray
        (T, rows, columns).
    region : tuple of 4 floats
        The part of the photo the grid covers, pixels of `image`.
    """
    shares, boxes = sum_by_piece(attention, region)
    count, together = len(boxes), sum(box[1] == region[1] for box in boxes)
    labels = _tell_apart(words)
    left = max(map(_font(_LABEL).getlength, labels)) / 72 + 3 * _GAP
    gaps = (count // together - 1) * _GAP
    cell = max(_NARROWEST, (_WIDTH - left - gaps - _GAP) / count)
    starts = [left + place * cell + place // together * _GAP for place in range(count)]

    wide, high = max(box[2] - box[0] for box in boxes), max(box[3] - box[1] for box in boxes)
    scale = min((cell - _GAP / 2) / wide, _HEAD / high)
    # Slivers of very long photos are widened to be seen.
    fx, fy = max(scale, _SLIVER / wide), max(scale, _SLIVER / high)
    top = high * fy + 2 * _GAP
    width, height = starts[-1] + cell + _GAP, top + len(words) * _ROW + _GAP

    figure = Figure(figsize=(width, height), dpi=150)
    axes = figure.add_axes((0, 0, 1, 1))
    for start, box in zip(starts, boxes, strict=True):
        w, h = (box[2] - box[0]) * fx, (box[3] - box[1]) * fy
        # Twice as fine as the figure.
        size = max(1, round(w * 300)), max(1, round(h * 300))
        x, y = start + (cell - w) / 2, top - _GAP
        axes.imshow(image.resize(size, Image.Resampling.LANCZOS, box), extent=(x, x + w, y, y - h), aspect="auto")

    # One scale for all words; even attention is to look even, not strong.
    colours, peak = colormaps["Blues"], min(1.0, max(float(shares.max()), 2 / count))
    lines = top + np.arange(len(words) + 1) * _ROW
    for first in range(0, count, together):
        edges = starts[first] + np.arange(together + 1) * cell
        inside = shares[:, first : first + together]
        axes.pcolormesh(edges, lines, inside, cmap=colours, vmin=0, vmax=peak, edgecolors="white", linewidth=1)
    for row, (label, line) in enumerate(zip(labels, lines[:-1] + _ROW / 2, strict=True)):
        axes.text(left - _GAP, line, label, size=_LABEL, color=_INK, ha="right", va="center_baseline", parse_math=False)
        for column in np.flatnonzero(shares[row] >= 0.1):
            share = shares[row, column]
            ink = "white" if _luminance(colours(share / peak)) < 0.18 else "black"  # whichever contrasts more
            place = starts[column] + cell / 2, line
            axes.text(*place, f"{share:.0%}", size=_PERCENT, color=ink, ha="center", va="center_baseline")
    axes.set(xlim=(0, width), ylim=(height, 0))
    axes.axis("off")
    return figure


def _tell_apart(words: Sequence[str]) -> list[str]:
    """Give words that come again a number: a dog and a (2) cat."""
    seen: Counter[str] = Counter()
    labels = []
    for word in words:
        seen[word] += 1
        labels.append(word if seen[word] == 1 else f"{word} ({seen[word]})")
    return labels


def _luminance(colour: tuple[float, float, float, float]) -> float:
    """How bright an sRGB colour is, from 0 for black to 1 for white."""
    red, green, blue = (value**2.2 for value in colour[:3])
    return float(0.2126 * red + 0.7152 * green + 0.0722 * blue)


def _font(size: int) -> ImageFont.FreeTypeFont:
    """Load the font that figures are written in."""
    return ImageFont.truetype(findfont(FontProperties()), size)


def animation(
    image: Image.Image,
    words: Sequence[str],
    attention: np.ndarray,
    region: Region,
    locations: Locations | None = None,
) -> bytes:
    """Make a GIF that speaks the caption: a frame per word, its overlay above the sentence with the word marked.

    Parameters
    ----------
    words : sequence of str
        T of them.
    attention : ndarray
        (T, rows, columns).
    region : tuple of 4 floats
        Pixels of `image`.
    locations : sequence of (row, column), optional
        The one cell each word was looked for at.
    """
    pictures = word_overlays(image, attention, region, locations)
    font = _font(_LETTERS)
    width = max(pictures[0].width, _CANVAS)
    lines = _wrap(words, font, width - 2 * _MARGIN)
    lengths = [font.getlength(detokenize(line)) for line in lines]
    width = max(width, round(max(lengths)) + 2 * _MARGIN)
    top = pictures[0].height + _MARGIN + _LINE // 2
    page = Image.new("RGB", (width, top + len(lines) * _LINE - _LINE // 2 + _MARGIN), _PAPER)
    draw, places = ImageDraw.Draw(page), []
    for row, (line, length) in enumerate(zip(lines, lengths, strict=True)):
        for place, word in enumerate(line):
            before = font.getlength(detokenize(line[: place + 1])) - font.getlength(word)
            places.append(((width - length) / 2 + before, top + row * _LINE))
            draw.text(places[-1], word, _OTHERS, font, anchor="lm")

    frames, corner = [], ((width - pictures[0].width) // 2, 0)
    for picture, word, (x, y) in zip(pictures, words, places, strict=True):
        frame = page.copy()
        frame.paste(picture, corner)
        draw = ImageDraw.Draw(frame)
        draw.rectangle((x, y + 13, x + font.getlength(word), y + 15), _GLOW)
        draw.text((x, y), word, _GLOW, font, anchor="lm")
        palette = frame.quantize(256, Image.Quantize.FASTOCTREE)
        frames.append(frame.quantize(palette=palette, dither=Image.Dither.NONE))
        # Only the photo is dithered: paper and letters would be speckled.
        frames[-1].paste(picture.quantize(palette=palette, dither=Image.Dither.FLOYDSTEINBERG), corner)
    buffer = io.BytesIO()
    durations = [_EACH] * (len(frames) - 1) + [_LAST]
    frames[0].save(buffer, "GIF", save_all=True, append_images=frames[1:], duration=durations, loop=0)
    return buffer.getvalue()


def _wrap(words: Sequence[str], font: ImageFont.FreeTypeFont, room: int) -> list[list[str]]:
    """Break a sentence into lines of at most `room` pixels, but for words that are longer."""
    lines: list[list[str]] = [[]]
    for word in words:
        text = detokenize([*lines[-1], word])
        # Not before the 's of man's.
        if lines[-1] and text.endswith(f" {word}") and font.getlength(text) > room:
            lines.append([])
        lines[-1].append(word)
    return lines
