"""What attention maps are like, and whether they lie on what their words name.

Shapes: T words, grid rows x columns; masks of objects are pixels (height, width) bool of the whole photo, regions are
(left, top, right, bottom), pixels, of the part of it that the grid divides evenly.
"""

from __future__ import annotations

import numpy as np

from captioner.regions import Region

# Of Zhang et al. 2016, on photos of the size that COCO has.
TOLERANCE = 15.0


def entropies(attention: np.ndarray) -> np.ndarray:
    """Entropy (T,) of each word's map (T, rows, columns), bits: 0 for one cell, log2(cells) for a flat map."""
    maps = attention.reshape(len(attention), -1).astype(np.float64)
    bits: np.ndarray = -(maps * np.log2(maps, out=np.zeros_like(maps), where=maps > 0)).sum(1)
    return bits


def movement(attention: np.ndarray) -> float:
    """Total variation distance between the two maps (T, rows, columns) that differ most.

    That is the share of attention that went elsewhere: 0 if all words look alike, 1 if two share no cell.
    """
    maps = attention.reshape(len(attention), -1)
    return float(max(np.abs(maps - other).sum(1).max() for other in maps) / 2)


def pointing(attention: np.ndarray, mask: np.ndarray, region: Region, tolerance: float = TOLERANCE) -> float:
    """Play the pointing game of Zhang et al. 2016, "Top-down Neural Attention by Excitation Backprop".

    Parameters
    ----------
    attention : ndarray
        (rows, columns), of one word.
    mask : ndarray
        (height, width) bool, the object; what lies outside the region does not count.
    region : tuple of 4 floats
        What the grid covers.
    tolerance : float
        Pixels the point may lie off the object.

    Returns
    -------
    float
        1 if the centre of the most attended cell hits the object, 0 if not; of cells that share the maximum the mean,
        so that a flat map gets what a random cell would get.
    """
    left, top, right, bottom = region
    rows, columns = attention.shape
    y, x = np.arange(mask.shape[0]) + 0.5, np.arange(mask.shape[1]) + 0.5
    inside_y, inside_x = (top < y) & (y < bottom), (left < x) & (x < right)
    hits = []
    for row, column in np.argwhere(attention == attention.max()):
        down = y - (top + (row + 0.5) * (bottom - top) / rows)
        across = x - (left + (column + 0.5) * (right - left) / columns)
        # Only the square around the circle is looked at.
        near_y, near_x = inside_y & (abs(down) <= tolerance), inside_x & (abs(across) <= tolerance)
        distance = np.hypot(down[near_y, None], across[near_x])
        hits.append((mask[np.ix_(near_y, near_x)] & (distance <= tolerance)).any())
    return float(np.mean(hits))


def mass(attention: np.ndarray, mask: np.ndarray, region: Region) -> float:
    """Share of a word's attention (rows, columns), which sums to 1, that lies on the object.

    A cell that the object covers in part counts by that part.
    """
    return float((attention * coverage(mask, region, *attention.shape)).sum())


def area(mask: np.ndarray, region: Region) -> float:
    """Share of the region that the object covers: the mass of attention that is the same everywhere."""
    return float(coverage(mask, region, 1, 1)[0, 0])


def coverage(mask: np.ndarray, region: Region, rows: int, columns: int) -> np.ndarray:
    """Share of every cell (rows, columns) that the object covers; pixels that cells share are divided exactly."""
    left, top, right, bottom = region
    down = _overlap(top, bottom, rows, mask.shape[0])
    across = _overlap(left, right, columns, mask.shape[1])
    covered: np.ndarray = down @ mask.astype(np.float32) @ across.T
    return covered


def _overlap(start: float, end: float, cells: int, pixels: int) -> np.ndarray:
    """Share of every cell along one side that each pixel takes up, (cells, pixels)."""
    edges = np.linspace(start, end, cells + 1)
    pixel = np.arange(pixels)
    shared = np.minimum(edges[1:, None], pixel + 1) - np.maximum(edges[:-1, None], pixel)
    return (shared.clip(min=0) / (end - start) * cells).astype(np.float32)


def uniform(rows: int, columns: int) -> np.ndarray:
    """Attention (rows, columns) of a model that does not look: the same everywhere."""
    return np.full((rows, columns), 1 / (rows * columns))


def centre(rows: int, columns: int) -> np.ndarray:
    """Attention (rows, columns) of who knows that photographers put things in the middle.

    A Gaussian about the centre, its standard deviation a quarter of each side. On photos of things a guess at the
    centre does well, so maps must beat this one, not only the flat one, to have found anything.
    """
    down, across = (np.exp(-0.5 * ((np.arange(n) - (n - 1) / 2) / (n / 4)) ** 2) for n in (rows, columns))
    weights = np.outer(down, across)
    weights /= weights.sum()
    return weights
