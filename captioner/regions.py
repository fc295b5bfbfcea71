"""Rectangles of photos."""

from __future__ import annotations

Region = tuple[float, float, float, float]  # left, top, right, bottom; pixels


def scaled(region: Region, width: float, height: float) -> Region:
    """Bring a rectangle to a copy of its photo that is `width` and `height` times as large."""
    left, top, right, bottom = region
    return left * width, top * height, right * width, bottom * height
