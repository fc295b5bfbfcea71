"""Pictures of attention. Functions return images and figures and never show them.

Shapes: T words, grid rows x columns.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib.figure import Figure
from PIL import Image, ImageDraw

Region = tuple[float, float, float, float]
Locations = Sequence[tuple[int, int]]
_DARK = 0.25  # brightness left where nothing was looked at
_GLOW, _GLOW_SHARE = (255, 214, 60), 0.25


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
    """Draw a white frame with a dark edge, so that it shows on any photo."""
    width = max(2, round(max(image.size) / 160))
    left, top, right, bottom = (round(edge) for edge in box)
    # Round the cell, but never outside the photo.
    left, top = max(left - width - 1, 0), max(top - width - 1, 0)
    right, bottom = min(right + width, image.width - 1), min(bottom + width, image.height - 1)
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
    longest_side: int = 480,
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
    fx, fy = width / image.width, height / image.height
    left, top, right, bottom = region
    peak = shared_peak(attention)
    small_region = (left * fx, top * fy, right * fx, bottom * fy)
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
    pictures = [image, *word_overlays(image, attention, region, locations)]
    columns = min(len(pictures), 5)
    rows = -(-len(pictures) // columns)
    ratio = min(max(image.height / image.width, 0.4), 2.5)
    figure = Figure(figsize=(columns * 2.4, rows * (2.4 * ratio + 0.4)), layout="constrained")
    for cell in figure.subplots(rows, columns, squeeze=False).flat:
        cell.axis("off")
    for cell, picture, title in zip(figure.axes, pictures, ["", *words], strict=False):
        cell.imshow(picture)
        cell.set_title(title, fontsize=13)
    return figure
