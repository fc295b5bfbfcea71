"""Pictures of attention. Functions return images and figures and never show them.

Shapes: T words, grid rows x columns.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib.figure import Figure
from PIL import Image

Region = tuple[float, float, float, float]
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


def overlay(image: Image.Image, attention: np.ndarray, region: Region, peak: float) -> Image.Image:
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
    """
    strength = (heat_map(attention, image.size, region) / peak).clip(0, 1)[..., None]
    lit = np.asarray(image, np.float32) * (_DARK + (1 - _DARK) * strength)
    # The glow shows on black and white photos, and where the photo itself is dark.
    glow = _GLOW_SHARE * strength
    return Image.fromarray(((1 - glow) * lit + glow * np.array(_GLOW, np.float32)).round().astype(np.uint8))


def shared_peak(attention: np.ndarray) -> float:
    """Weight to light fully in all maps (T, rows, columns) of a caption: the median of their peaks.

    One scale for all words keeps flat attention looking flat, which a scale per word would not; the
    median keeps one very sharp word from blanking out the others.
    """
    return float(np.median(attention.max(axis=(1, 2))))


def word_overlays(
    image: Image.Image, attention: np.ndarray, region: Region, longest_side: int = 480
) -> list[Image.Image]:
    """Draw one overlay per word on a photo shrunk to `longest_side` pixels, all on one scale.

    Parameters
    ----------
    attention : ndarray
        (T, rows, columns).
    region : tuple of 4 floats
        Pixels of `image` as given.
    """
    scale = min(1.0, longest_side / max(image.size))
    width, height = (max(1, round(side * scale)) for side in image.size)
    small = image.resize((width, height), Image.Resampling.LANCZOS)
    fx, fy = width / image.width, height / image.height
    left, top, right, bottom = region
    peak = shared_peak(attention)
    small_region = (left * fx, top * fy, right * fx, bottom * fy)
    return [overlay(small, weights, small_region, peak) for weights in attention]


def filmstrip(image: Image.Image, words: Sequence[str], attention: np.ndarray, region: Region) -> Figure:
    """Draw the photo and then its overlay for every word, in reading order (as figure 3 of the paper).

    Parameters
    ----------
    words : sequence of str
        T of them.
    attention : ndarray
        (T, rows, columns).
    region : tuple of 4 floats
        Pixels of `image`.
    """
    pictures = [image, *word_overlays(image, attention, region)]
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
