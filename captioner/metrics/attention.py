"""What attention maps are like, apart from whether they are right.

Shapes: T words, grid rows x columns.
"""

from __future__ import annotations

import numpy as np


def entropy(attention: np.ndarray) -> float:
    """Mean entropy of the words' maps (T, rows, columns), bits: 0 for one cell each, log2(cells) for flat ones."""
    maps = attention.reshape(len(attention), -1).astype(np.float64)
    logs = np.log2(maps, out=np.zeros_like(maps), where=maps > 0)
    return float(-(maps * logs).sum(1).mean())


def movement(attention: np.ndarray) -> float:
    """Total variation distance between the two maps (T, rows, columns) that differ most.

    That is the share of attention that went elsewhere: 0 if all words look alike, 1 if two share no cell.
    """
    maps = attention.reshape(len(attention), -1)
    return float(max(np.abs(maps - other).sum(1).max() for other in maps) / 2)
